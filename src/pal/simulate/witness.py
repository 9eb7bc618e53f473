"""The witness: sees all events and orders of a campaign, and holds them to its invariants.

It keeps books of its own, from what is said and from what is on the disk, and believes nothing
that the controller tells of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.invariants import InvariantError, validate
from pal.controller.manager import Manager, Stage
from pal.controller.rules import INITIAL, LOSSES, Restored, Rules
from pal.simulate.broken import Broken
from pal.simulate.disk import Disk
from pal.simulate.scene import Site

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

_FAILING: Final = (ev.LabelFailed, ev.OracleLost, ev.OracleReady)
_WORDS: Final = (ev.SampleDropped, ev.SampleRequeued, ev.LabelGiven)

_FORGOTTEN: Final = (State.FAILED, State.QUARANTINED, State.DROPPED)
"""What ended so in an earlier session, the manager does not know."""

ON_THE_WAY: Final = (State.QUEUED, State.RUNNING, State.RETURNED)

SLACK: Final = 40.0
"""Seconds beyond which nothing may stay as it is: more than a frozen node and a slow disk take."""


class Witness:
    """What may be demanded of a session, from what was said in it and what is on the disk."""

    def __init__(
        self, rules: Rules, site: Site, disk: Disk, past: Restored, sessions: int
    ) -> None:
        self._rules = rules
        self._disk = disk
        self._sessions = sessions
        self.time = past.elapsed
        self.states: dict[int, State] = dict(disk.states)
        self._earlier = {s for s, state in self.states.items() if state in _FORGOTTEN}
        self._ready: set[int] = set()
        self._working: dict[int, tuple[int, float]] = {}
        """What each oracle was given and has not answered, and since when."""
        self._killed: dict[int, tuple[int, float]] = {}
        """What each oracle was at that is to die, and may still answer."""
        self._since: dict[int, float] = {}
        """When each running or returned sample became that."""
        self._started = self.time
        self._answers: set[int] = set()
        self.acknowledged: set[int] = set(past.labelled)
        self._held: dict[int, set[int]] = {}
        self._ready_trainers: set[int] = set()
        self._round = 0
        self._new_labels = 0
        self._proposed = self._granted = past.proposed
        self._labels_before = len(past.labelled)
        self._event: ev.Event | None = None
        self._paused: set[str] = set()
        self._explored = False
        self._waiting = len(past.queued)
        self._room = rules.queue_capacity + rules.n_oracles + len(past.queued) + site.initial
        self._tries = rules.oracle_retries
        self._by_hand = 0
        self._row = 0
        self._tripped = False
        """Whether so many samples in a row got no label that one at a time is to be tried."""
        self._not_before: dict[int, float] = {}
        self.exploring = False
        self.finish: co.Finish | None = None
        self._hears: dict[type, Callable[[Any], None]] = {
            ev.OracleReady: self._hear_oracle,
            ev.OracleLost: self._hear_oracle_lost,
            ev.LabelReturned: self._hear_answer,
            ev.LabelFailed: self._hear_answer,
            ev.TrainerReady: self._hear_trainer,
            ev.TrainerLost: self._hear_trainer_lost,
            ev.CandidatesProposed: self._hear_candidates,
            ev.SampleRequeued: self._hear_requeued,
            ev.LabelGiven: self._hear_label,
            ev.KernelPaused: self._hear_paused,
            ev.RulesChanged: self._hear_rules,
        }
        self._sees: dict[type, Callable[[Any], None]] = {
            co.Move: self._see_move,
            co.StartLabel: self._see_start,
            co.CommitLabel: self._see_commit,
            co.KillOracle: self._see_kill,
            co.RetireOracle: self._see_retirement,
            co.Teach: self._see_lesson,
            co.Explore: self._see_explore,
            co.GrantCandidates: self._see_grant,
            co.RankQueue: self._see_ranking,
            co.Finish: self._see_finish,
        }

    @property
    def recalled(self) -> list[int]:
        """Samples whose oracles were told to die, and may have an answer on its way."""
        return [sample for sample, _ in self._killed.values()]

    def hear(self, event: ev.Event) -> None:
        """Take down an event, before the manager hears it."""
        self.time = max(self.time, event.time)
        self._event = event
        hear = self._hears.get(type(event))
        if hear is not None:
            hear(event)

    def see(self, order: co.Command) -> None:
        """Judge an order of the manager."""
        self._require(self.finish is None, "orderly end", f"{order} after the end")
        see = self._sees.get(type(order))
        if see is not None:
            see(order)

    def settle(self, manager: Manager, orders: Sequence[co.Command]) -> None:
        """Judge where the campaign stands once all orders of an event are carried out."""
        try:
            validate(manager)
        except InvariantError as error:
            raise Broken("controller", str(error)) from error
        for order in orders:
            if type(order) is co.Move:
                self._remembers(manager, order.sample)
        found = f"{self._waiting} samples wait, where there is room for {self._room}"
        self._require(self._waiting <= self._room, "bounded", found)
        if self.finish is None:
            self._hurries(manager)
            if manager.ending is None:
                self._learns(manager)
                self._explores()

    def _require(
        self, holds: bool, invariant: str, found: str, samples: tuple[int, ...] = ()
    ) -> None:
        if not holds:
            raise Broken(invariant, found, samples)

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
            if event.oracle in given and given[event.oracle][0] == event.sample:
                del given[event.oracle]
                if type(event) is ev.LabelReturned:
                    self._answers.add(event.sample)

    def _hear_trainer(self, event: ev.TrainerReady) -> None:
        self._ready_trainers.add(event.trainer)
        self._held[event.trainer] = set()

    def _hear_trainer_lost(self, event: ev.TrainerLost) -> None:
        self._ready_trainers.discard(event.trainer)

    def _hear_candidates(self, event: ev.CandidatesProposed) -> None:
        self._proposed += sum(
            candidate.walker != INITIAL and candidate.sample not in self.states
            for candidate in event.candidates
        )

    def _hear_requeued(self, event: ev.SampleRequeued) -> None:
        self._room += 1
        self._not_before.pop(event.candidate.sample, None)

    def _hear_label(self, event: ev.LabelGiven) -> None:
        if self.states.get(event.candidate.sample) not in (State.LABELLED, State.RETURNED):
            self._answers.add(event.candidate.sample)
            self._by_hand += 1

    def _hear_paused(self, event: ev.KernelPaused) -> None:
        if event.on:
            self._paused.add(event.kernel)
            return
        self._paused.discard(event.kernel)
        if event.kernel == "oracle":
            self._row, self._tripped = 0, False

    def _hear_rules(self, event: ev.RulesChanged) -> None:
        old, new = self._rules, event.rules
        self._room += max(0, new.queue_capacity - old.queue_capacity)
        self._room += max(0, new.n_oracles - old.n_oracles)
        self._tries = max(self._tries, new.oracle_retries)
        self._rules = new
        self._tripped &= new.pause_after is not None
        self._started = self.time

    # Orders --------------------------------------------------------------------------------

    def _see_move(self, order: co.Move) -> None:
        sample, state = order.sample, order.state
        before = self.states.get(sample)
        ways = NEXT[before]
        if type(self._event) in _WORDS:
            ways = ways | BY_OPERATOR.get(before, set())
        self._require(state in ways, "one state", f"sample {sample}: {before} to {state}", (sample,))
        self.states[sample] = state
        self._earlier.discard(sample)
        self._since.pop(sample, None)
        self._waiting += (state is State.QUEUED) - (before is State.QUEUED)
        if state in (State.RUNNING, State.RETURNED):
            self._since[sample] = self.time
        if state is State.QUEUED:
            if before is State.RUNNING and type(self._event) in _FAILING:
                self._not_before[sample] = self.time + self._rules.backoff
        elif state is State.LABELLED:
            self._see_label(sample)
        elif state in (State.FAILED, State.QUARANTINED):
            self._row += 1
            limit = self._rules.pause_after
            self._tripped |= limit is not None and self._row >= limit
        elif state is State.RETURNED and type(self._event) is ev.LabelReturned:
            self._row, self._tripped = 0, False

    def _see_label(self, sample: int) -> None:
        on_disk = sample in self._disk.labels
        found = f"sample {sample} counts as labelled, and its label is not on the disk"
        self._require(on_disk, "durable before use", found, (sample,))
        self.acknowledged.add(sample)
        self._new_labels += 1

    def _see_start(self, order: co.StartLabel) -> None:
        oracle, sample = order.oracle, order.sample
        found = f"sample {sample} goes to oracle {oracle}, which is not there"
        self._require(oracle in self._ready, "one label at a time", found, (sample,))
        if oracle in self._working:
            busy = self._working[oracle][0]
            found = f"oracle {oracle} works on sample {busy} and is given {sample}"
            raise Broken("one label at a time", found, (busy, sample))
        twice = [k for k, (given, _) in self._working.items() if given == sample]
        found = f"sample {sample} goes to oracle {oracle}, and is with {twice} already"
        self._require(not twice, "one label at a time", found, (sample,))
        self._spares(order)
        most = self._tries + 1 + LOSSES + self._sessions
        found = f"sample {sample} is tried for the {order.attempt}. time, of {most} at most"
        self._require(order.attempt <= most, "poison ends in quarantine", found, (sample,))
        self._working[oracle] = (sample, self.time)
        self._started = self.time

    def _spares(self, order: co.StartLabel) -> None:
        """A broken oracle is tried with one sample at a time, a failed sample after a pause."""
        sample = order.sample
        self._require("oracle" not in self._paused, "pauses", f"{order} while labelling is paused")
        busy = [given for given, _ in self._working.values()]
        found = f"{order}, when {self._row} in a row got no label, and {busy} are under way"
        self._require(not (self._tripped and busy), "pauses", found, (sample,))
        due = self._not_before.pop(sample, 0.0)
        found = f"{order} at {self.time:.2f}, not to be tried before {due:.2f}"
        self._require(self.time >= due, "pauses", found, (sample,))

    def _see_commit(self, order: co.CommitLabel) -> None:
        sample = order.sample
        found = f"sample {sample} is to be committed, and there is no answer for it"
        self._require(sample in self._answers, "durable before use", found, (sample,))
        self._answers.discard(sample)
        found = f"sample {sample} is committed twice"
        self._require(sample not in self._disk.labels, "once in the dataset", found, (sample,))

    def _see_kill(self, order: co.KillOracle) -> None:
        self._ready.discard(order.oracle)
        if order.oracle in self._working:
            self._killed[order.oracle] = self._working.pop(order.oracle)

    def _see_retirement(self, order: co.RetireOracle) -> None:
        found = f"oracle {order.oracle} is to go, and works on {self._working}"
        self._require(order.oracle not in self._working, "labels end", found)
        self._ready.discard(order.oracle)

    def _see_lesson(self, order: co.Teach) -> None:
        found = f"{order} while training is paused"
        self._require("training" not in self._paused, "pauses", found)
        held = self._held.get(order.trainer, set())
        there = order.trainer in self._ready_trainers
        self._require(there, "once in the dataset", f"{order}: this trainer is not there")
        twice = tuple(held.intersection(order.add))
        self._require(not twice, "once in the dataset", f"{order}: it holds {twice}", twice)
        repeated = len(set(order.add)) < len(order.add)
        self._require(not repeated, "once in the dataset", f"{order}: one sample twice")
        absent = tuple(set(order.remove) - held)
        found = f"{order}: it does not hold {absent}"
        self._require(not absent, "once in the dataset", found, absent)
        unsafe = tuple(sample for sample in order.add if sample not in self._disk.labels)
        found = f"{order}: labels of {unsafe} are not on the disk"
        self._require(not unsafe, "durable before use", found, unsafe)
        held.difference_update(order.remove)
        held.update(order.add)
        self._complete(order, held)
        if order.round > self._round:
            self._round, self._new_labels = order.round, 0

    def _complete(self, order: co.Teach, held: set[int]) -> None:
        window, labels = self._rules.window, list(self._disk.labels)
        newest = labels if window is None else labels[-window:]
        states = self.states
        lacking = tuple(s for s in newest if s not in held and states[s] is State.LABELLED)
        found = f"{order}: it is not told of {lacking}"
        self._require(not lacking, "no label lost", found, lacking)
        size = f"{order}: it holds {len(held)} samples of {window}"
        self._require(window is None or len(held) <= window, "bounded", size)

    def _see_explore(self, order: co.Explore) -> None:
        found = f"walkers are told again what they do: {order}"
        self._require(order.on != self.exploring, "walkers", found)
        found = "walkers are let go while they are paused"
        self._require(not (order.on and "generator" in self._paused), "pauses", found)
        self.exploring = order.on
        self._explored |= order.on

    def _see_grant(self, order: co.GrantCandidates) -> None:
        self._require(order.total > self._granted, "bounded", f"{order} after {self._granted}")
        self._granted = order.total
        places = self._rules.queue_capacity
        found = f"{order}, when {self._proposed} are proposed and the queue holds {places}"
        self._require(order.total - self._proposed <= places, "bounded", found)

    def _see_ranking(self, order: co.RankQueue) -> None:
        absent = tuple(s for s in order.samples if self.states.get(s) is not State.QUEUED)
        found = f"samples {absent} are to be ranked and do not wait"
        self._require(not absent, "one state", found, absent)

    def _see_finish(self, order: co.Finish) -> None:
        self.finish = order

    # After an event ------------------------------------------------------------------------

    def _remembers(self, manager: Manager, sample: int) -> None:
        told, known = self.states[sample], manager.state_of(sample)
        if known is None and sample in self._earlier:
            return
        found = f"sample {sample} is {known} in memory, and was said to be {told}"
        self._require(told is known, "one state", found, (sample,))

    def _hurries(self, manager: Manager) -> None:
        """Nothing that was begun may stay as it is for ever."""
        longest = (self._rules.oracle_deadline or 10.0) + SLACK
        # In the order of their beginning, as each enters at its end.
        for sample, since in self._since.items():
            waited = self.time - since
            if waited <= longest:
                break
            state = self.states[sample]
            found = f"sample {sample} is {state} for {waited:.1f} s"
            raise Broken("labels end", found, (sample,))
        if self.time - self._started > longest and manager.ending is None:
            self._starts(manager)

    def _starts(self, manager: Manager) -> None:
        """Where samples and oracles wait for each other, something is to be started."""
        limit = self._rules.labels
        enough = limit is not None and len(self.acknowledged) >= limit
        labelling = manager.stage in (Stage.ALL, Stage.LABEL) and "oracle" not in self._paused
        labelling = labelling and not self._tripped
        waiting = tuple(s for s, state in self.states.items() if state is State.QUEUED)
        idle = self._ready.difference(self._working)
        if not (waiting and idle) or enough or not labelling:
            self._started = self.time
            return
        raise Broken("progress", f"samples {waiting} wait, and oracles {idle} do", waiting)

    def _learns(self, manager: Manager) -> None:
        """Enough new labels and a trainer that is there: then a round begins."""
        rules = self._rules
        if not (rules.training and self._ready_trainers) or "training" in self._paused:
            return
        if rules.serial or not manager.labelling.initial_done:
            return
        found = f"{self._new_labels} labels came since the last round; no other has begun"
        self._require(self._new_labels < rules.retrain_size, "progress", found)
        untaught = [t for t in self._ready_trainers if not self._held[t]]
        others = any(self._held[t] for t in self._ready_trainers)
        found = f"trainers {untaught} are there, and were taught nothing"
        self._require(not (untaught and others), "progress", found)

    def _explores(self) -> None:
        """Walkers that were let go once are held only while somebody says so."""
        held = not self._explored or self._rules.serial or "generator" in self._paused
        self._require(held or self.exploring, "walkers", "walkers are held, and nobody says so")

    # The end of a session --------------------------------------------------------------------

    def close(self, manager: Manager) -> None:
        """Judge a session that has ended in good order, with all of it on the disk."""
        for sample in self.states:
            self._remembers(manager, sample)
            on_disk = self._disk.states.get(sample)
            told = self.states[sample]
            found = f"sample {sample} is {on_disk} on the disk, and was said to be {told}"
            self._require(on_disk is told, "one state", found, (sample,))
        begun = tuple(s for s, where in self.states.items() if where in ON_THE_WAY[1:])
        found = f"samples {begun} were begun, and have neither ended nor been queued again"
        self._require(not begun, "labels end", found, begun)
        self._require(not self.exploring, "walkers", "walkers explore after the end")
        limit, count = self._rules.labels, len(self.acknowledged)
        enough = limit is None or count <= max(limit, self._labels_before) + self._by_hand
        self._require(enough, "bounded", f"{count} labels, where {limit} were wanted")
        self._counts(manager)

    def _counts(self, manager: Manager) -> None:
        counts, states = manager.counts, list(self.states.values())
        told = (counts.labelled, counts.failed, counts.quarantined, counts.dropped)
        real = tuple(
            states.count(state)
            for state in (State.LABELLED, State.FAILED, State.QUARANTINED, State.DROPPED)
        )
        found = f"labelled, failed, quarantined, dropped: counted {told}, are {real}"
        self._require(told == real, "one state", found)
