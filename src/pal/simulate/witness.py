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

_FORGOTTEN: Final = (State.FAILED, State.QUARANTINED, State.DROPPED)
"""What ended so in an earlier session, the manager does not know."""

ON_THE_WAY: Final = (State.QUEUED, State.RUNNING, State.RETURNED)

SLACK: Final = 40.0
"""Seconds beyond which nothing may stay as it is: more than a frozen node and a slow disk take."""


class Witness:
    """What may be demanded of a session, from what was said in it and what is on the disk."""

    def __init__(self, rules: Rules, disk: Disk, past: Restored, sessions: int) -> None:
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
        }
        self._sees: dict[type, Callable[[Any], None]] = {
            co.Move: self._see_move,
            co.StartLabel: self._see_start,
            co.CommitLabel: self._see_commit,
            co.KillOracle: self._see_kill,
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
        if self.finish is None:
            self._hurries(manager)
            self._learns(manager)

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

    # Orders --------------------------------------------------------------------------------

    def _see_move(self, order: co.Move) -> None:
        sample, state = order.sample, order.state
        before = self.states.get(sample)
        self._require(
            state in NEXT[before], "one state", f"sample {sample}: {before} to {state}", (sample,)
        )
        self.states[sample] = state
        self._since.pop(sample, None)
        if state in (State.RUNNING, State.RETURNED):
            self._since[sample] = self.time
        if state is State.LABELLED:
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
        most = self._rules.oracle_retries + 1 + LOSSES + self._sessions
        found = f"sample {sample} is tried for the {order.attempt}. time, of {most} at most"
        self._require(order.attempt <= most, "poison ends in quarantine", found, (sample,))
        self._working[oracle] = (sample, self.time)
        self._started = self.time

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

    def _see_lesson(self, order: co.Teach) -> None:
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
        self.exploring = order.on

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
        labelling = manager.stage in (Stage.ALL, Stage.LABEL)
        waiting = tuple(s for s, state in self.states.items() if state is State.QUEUED)
        idle = self._ready.difference(self._working)
        if not (waiting and idle) or enough or not labelling:
            self._started = self.time
            return
        raise Broken("progress", f"samples {waiting} wait, and oracles {idle} do", waiting)

    def _learns(self, manager: Manager) -> None:
        """Enough new labels and a trainer that is there: then a round begins."""
        rules = self._rules
        if not (rules.training and self._ready_trainers) or manager.ending is not None:
            return
        if rules.serial or not manager.labelling.initial_done:
            return
        found = f"{self._new_labels} labels came since the last round; no other has begun"
        self._require(self._new_labels < rules.retrain_size, "progress", found)
        untaught = [t for t in self._ready_trainers if not self._held[t]]
        others = any(self._held[t] for t in self._ready_trainers)
        found = f"trainers {untaught} are there, and were taught nothing"
        self._require(not (untaught and others), "progress", found)

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
        enough = limit is None or count <= max(limit, self._labels_before)
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
