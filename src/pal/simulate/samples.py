"""The judge of samples and oracles: where each sample is, with whom, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.manager import Manager, Stage
from pal.controller.rules import LOSSES, Restored
from pal.simulate.account import Account, Ears
from pal.simulate.broken import Broken

NEXT: Final[dict[State | None, set[State]]] = {
    None: {State.QUEUED, State.DROPPED},
    State.QUEUED: {State.RUNNING, State.DROPPED},
    State.RUNNING: {State.RETURNED, State.QUEUED, State.FAILED, State.QUARANTINED},
    State.RETURNED: {State.LABELLED},
    State.LABELLED: set(),
    State.FAILED: set(),
    State.QUARANTINED: set(),
    State.DROPPED: set(),
}
"""The ways a sample may go."""

BY_OPERATOR: Final[dict[State | None, set[State]]] = {
    State.QUEUED: {State.DROPPED, State.RETURNED},
    State.RUNNING: {State.QUEUED, State.DROPPED, State.RETURNED},
    State.FAILED: {State.QUEUED, State.RETURNED},
    State.QUARANTINED: {State.QUEUED, State.RETURNED},
    State.DROPPED: {State.QUEUED, State.RETURNED},
}
"""The ways a sample may go at the operator's word, besides."""

SLACK: Final = 40.0
"""Seconds beyond which nothing may stay as it is: more than a frozen node and a slow disk take."""

_WORDS: Final = (ev.SampleDropped, ev.SampleRequeued, ev.LabelGiven)
_FAILING: Final = (ev.LabelFailed, ev.OracleLost, ev.OracleReady)
_FORGOTTEN: Final = (State.FAILED, State.QUARANTINED, State.DROPPED)
"""What ended so in an earlier session, the manager does not know."""


class Samples:
    """Follows every sample from its proposal to its end."""

    def __init__(self, account: Account, past: Restored, sessions: int) -> None:
        self._account = account
        self._earlier = {s for s, state in account.states.items() if state in _FORGOTTEN}
        self.acknowledged: set[int] = set(past.labelled)
        self._before = len(past.labelled)
        self._by_hand = 0
        self._tries = account.rules.oracle_retries + 1 + LOSSES + sessions
        self._ready: set[int] = set()
        self._working: dict[int, int] = {}
        """What each oracle was given and has not answered."""
        self._killed: dict[int, int] = {}
        """What each oracle was at that is to die, and may still answer."""
        self._answers: set[int] = set()
        """Samples whose labels have come and are not yet given to the disk."""
        self._since: dict[int, float] = {}
        """When each running or returned sample became that, the first of them first."""
        self._started = account.time
        self._row = 0
        self._tripped = False
        """Whether so many samples in a row got no label that one at a time is to be tried."""
        self._pause = self._probe_at = 0.0
        self._not_before: dict[int, float] = {}
        self.hears: Ears = {
            ev.OracleReady: self._hear_oracle,
            ev.OracleLost: self._hear_oracle_lost,
            ev.LabelReturned: self._hear_answer,
            ev.LabelFailed: self._hear_answer,
            ev.SampleRequeued: self._hear_requeued,
            ev.LabelGiven: self._hear_label,
            ev.KernelPaused: self._hear_paused,
            ev.RulesChanged: self._hear_rules,
        }
        self.sees: Ears = {
            co.Move: self._see_move,
            co.StartLabel: self._see_start,
            co.CommitLabel: self._see_commit,
            co.KillOracle: self._see_kill,
            co.RetireOracle: self._see_retirement,
            co.RankQueue: self._see_ranking,
        }

    @property
    def recalled(self) -> Sequence[int]:
        """Samples whose oracles were told to die, and may have an answer on its way."""
        return list(self._killed.values())

    # Events --------------------------------------------------------------------------------

    def _hear_oracle(self, event: ev.OracleReady) -> None:
        self._ready.add(event.oracle)
        self._gone(event.oracle)

    def _hear_oracle_lost(self, event: ev.OracleLost) -> None:
        self._ready.discard(event.oracle)
        self._gone(event.oracle)

    def _gone(self, oracle: int) -> None:
        self._working.pop(oracle, None)
        self._killed.pop(oracle, None)

    def _hear_answer(self, event: ev.LabelReturned | ev.LabelFailed) -> None:
        for given in (self._working, self._killed):
            if given.get(event.oracle) == event.sample:
                del given[event.oracle]
                if type(event) is ev.LabelReturned:
                    self._answers.add(event.sample)

    def _hear_requeued(self, event: ev.SampleRequeued) -> None:
        self._not_before.pop(event.candidate.sample, None)

    def _hear_label(self, event: ev.LabelGiven) -> None:
        sample = event.candidate.sample
        if self._account.states.get(sample) not in (State.LABELLED, State.RETURNED):
            self._answers.add(sample)
            self._by_hand += 1

    def _hear_paused(self, event: ev.KernelPaused) -> None:
        if event.kernel == "oracle" and not event.on:
            self._row, self._tripped = 0, False

    def _hear_rules(self, event: ev.RulesChanged) -> None:
        more = event.rules.oracle_retries - self._account.rules.oracle_retries
        self._tries += max(0, more)
        self._tripped &= event.rules.pause_after is not None
        self._started = self._account.time

    # Orders --------------------------------------------------------------------------------

    def _see_move(self, order: co.Move) -> None:
        account, sample, state = self._account, order.sample, order.state
        before = account.states.get(sample)
        ways = NEXT[before]
        if type(account.event) in _WORDS:
            ways = ways | BY_OPERATOR.get(before, set())
        if state not in ways:
            raise Broken("one state", f"sample {sample}: {before} to {state}", (sample,))
        account.states[sample] = state
        self._earlier.discard(sample)
        self._since.pop(sample, None)
        if state is State.RUNNING or state is State.RETURNED:
            self._since[sample] = account.time
        if state is State.LABELLED:
            self._see_label(sample)
        elif state is State.QUEUED and before is State.RUNNING:
            if type(account.event) in _FAILING:
                self._not_before[sample] = account.time + account.rules.backoff
        else:
            self._mind_the_breaker(state)

    def _see_label(self, sample: int) -> None:
        if sample not in self._account.disk.labels:
            found = f"sample {sample} counts as labelled, and its label is not on the disk"
            raise Broken("durable before use", found, (sample,))
        self.acknowledged.add(sample)

    def _mind_the_breaker(self, state: State) -> None:
        if state is State.FAILED or state is State.QUARANTINED:
            self._row += 1
            limit = self._account.rules.pause_after
            if limit is not None and self._row >= limit:
                self._trip()
        elif state is State.RETURNED and type(self._account.event) is ev.LabelReturned:
            self._row, self._tripped = 0, False

    def _trip(self) -> None:
        time = self._account.time
        if not self._tripped:
            self._tripped, self._pause = True, self._account.rules.probe_after
        elif time >= self._probe_at:
            self._pause *= 2
        else:
            return
        self._probe_at = time + self._pause

    def _see_start(self, order: co.StartLabel) -> None:
        oracle, sample = order.oracle, order.sample
        busy = self._working.get(oracle)
        if busy is not None:
            found = f"oracle {oracle} works on sample {busy} and is given {sample}"
            raise Broken("one label at a time", found, (busy, sample))
        if oracle not in self._ready:
            found = f"sample {sample} goes to oracle {oracle}, which is not there"
            raise Broken("one label at a time", found, (sample,))
        if sample in self._working.values():
            found = f"sample {sample} goes to oracle {oracle}, and is being labelled already"
            raise Broken("one label at a time", found, (sample,))
        if order.attempt > self._tries:
            found = f"sample {sample} is tried for the {order.attempt}. time, of {self._tries}"
            raise Broken("poison ends in quarantine", found, (sample,))
        self._spares(order)
        self._working[oracle] = sample
        self._started = self._account.time

    def _spares(self, order: co.StartLabel) -> None:
        """A broken oracle is tried with one sample at a time, a failed sample after a pause."""
        sample, time = order.sample, self._account.time
        if "oracle" in self._account.paused:
            raise Broken("pauses", f"{order} while labelling is paused", (sample,))
        if self._tripped and (self._working or time < self._probe_at):
            under_way = list(self._working.values())
            found = (
                f"{order}: {self._row} in a row got no label, {under_way} are under way, and the "
                f"next is to be tried at {self._probe_at:.2f}"
            )
            raise Broken("pauses", found, (sample, *under_way))
        due = self._not_before.pop(sample, time)
        if time < due:
            raise Broken("pauses", f"{order} at {time:.2f}, not before {due:.2f}", (sample,))

    def _see_commit(self, order: co.CommitLabel) -> None:
        sample = order.sample
        if sample not in self._answers:
            found = f"sample {sample} is to be committed, and there is no answer for it"
            raise Broken("durable before use", found, (sample,))
        self._answers.discard(sample)
        if sample in self._account.disk.labels:
            raise Broken("once in the dataset", f"sample {sample} is committed twice", (sample,))

    def _see_kill(self, order: co.KillOracle) -> None:
        self._ready.discard(order.oracle)
        if order.oracle in self._working:
            self._killed[order.oracle] = self._working.pop(order.oracle)

    def _see_retirement(self, order: co.RetireOracle) -> None:
        busy = self._working.get(order.oracle)
        if busy is not None:
            found = f"oracle {order.oracle} is to go, and works on sample {busy}"
            raise Broken("labels end", found, (busy,))
        self._ready.discard(order.oracle)

    def _see_ranking(self, order: co.RankQueue) -> None:
        states = self._account.states
        absent = tuple(s for s in order.samples if states.get(s) is not State.QUEUED)
        if absent:
            found = f"samples {absent} are to be ranked and do not wait"
            raise Broken("one state", found, absent)

    # After an event ------------------------------------------------------------------------

    def settle(self, manager: Manager, orders: Sequence[co.Command]) -> None:
        """Judge what an event has led to."""
        for order in orders:
            if type(order) is co.Move:
                self._remembers(manager, order.sample)
        longest = (self._account.rules.oracle_deadline or 10.0) + SLACK
        # The first is the oldest: each enters at the end.
        for sample, since in self._since.items():
            waited = self._account.time - since
            if waited > longest:
                found = f"sample {sample} is {self._account.states[sample]} for {waited:.1f} s"
                raise Broken("labels end", found, (sample,))
            break
        if self._account.time - self._started > longest and not self._account.ending:
            self._starts(manager)

    def _remembers(self, manager: Manager, sample: int) -> None:
        told, known = self._account.states[sample], manager.state_of(sample)
        if told is not known and not (known is None and sample in self._earlier):
            found = f"sample {sample} is {known} in memory, and was said to be {told}"
            raise Broken("one state", found, (sample,))

    def _starts(self, manager: Manager) -> None:
        """Where samples and oracles wait for each other, something is to be started."""
        account = self._account
        limit = account.rules.labels
        enough = limit is not None and len(self.acknowledged) >= limit
        spared = self._tripped and account.time < self._probe_at + SLACK
        held = "oracle" in account.paused or spared
        held = held or manager.stage not in (Stage.ALL, Stage.LABEL)
        waiting = tuple(s for s, state in account.states.items() if state is State.QUEUED)
        idle = self._ready.difference(self._working)
        if not (waiting and idle) or enough or held:
            self._started = account.time
            return
        raise Broken("progress", f"samples {waiting} wait, and oracles {idle} do", waiting)

    # The end of a session ------------------------------------------------------------------

    def close(self, manager: Manager) -> None:
        """Judge a session that has ended in good order, with all of it on the disk."""
        account, states = self._account, self._account.states
        for sample, told in states.items():
            self._remembers(manager, sample)
            on_disk = account.disk.states.get(sample)
            if told is State.RETURNED and on_disk is State.LABELLED and account.hurried:
                continue  # nobody waited for the disk; it has it all the same
            if on_disk is not told:
                found = f"sample {sample} is {on_disk} on the disk, and was said to be {told}"
                raise Broken("one state", found, (sample,))
        open_ends = (State.RUNNING,) if account.hurried else (State.RUNNING, State.RETURNED)
        begun = tuple(sample for sample, where in states.items() if where in open_ends)
        if begun:
            found = f"samples {begun} were begun, and have neither ended nor been queued again"
            raise Broken("labels end", found, begun)
        limit, count = account.rules.labels, len(self.acknowledged)
        if limit is not None and count > max(limit, self._before) + self._by_hand:
            raise Broken("bounded", f"{count} labels, where {limit} were wanted")
        self._counts(manager)

    def _counts(self, manager: Manager) -> None:
        counts, states = manager.counts, list(self._account.states.values())
        told = (counts.labelled, counts.failed, counts.quarantined, counts.dropped)
        real = (states.count(State.LABELLED), *map(states.count, _FORGOTTEN))
        if told != real:
            found = f"labelled, failed, quarantined, dropped: counted {told}, are {real}"
            raise Broken("one state", found)
