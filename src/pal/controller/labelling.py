"""The way of a candidate to its label: queue, oracles, and where each sample stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pal.controller.commands import Command, CommitLabel, KillOracle, Move, StartLabel, State
from pal.controller.events import Candidate, QueueRanked
from pal.controller.oracles import OraclePool
from pal.controller.queue import Entry, LabelQueue
from pal.controller.rules import INITIAL, LOSSES, Restored, Rules
from pal.errors import Failure


class Labelling:
    """Leads every candidate through its states; each method answers with the orders it gives."""

    def __init__(self, rules: Rules, restored: Restored) -> None:
        self._rules = rules
        self.queue = LabelQueue(rules.queue_capacity, rules.when_full)
        self.oracles = OraclePool(rules.oracle_deadline, rules.n_oracles - rules.untimed)
        self.returned: dict[int, Entry] = {}
        self.states: dict[int, State] = dict.fromkeys(restored.labelled, State.LABELLED)
        self.totals: Counter[State] = Counter(
            {
                State.LABELLED: len(restored.labelled),
                State.FAILED: restored.failed,
                State.QUARANTINED: restored.quarantined,
                State.DROPPED: restored.dropped,
            }
        )
        """Samples that came to each final state, over all sessions."""
        self.proposed = restored.proposed
        self.failures_in_a_row = 0
        self.last_failure = ""
        # Before exploration there are only initial samples, so all that ended count as such.
        self._initial_ended = len(restored.labelled) + restored.failed + restored.quarantined
        for candidate, attempts in restored.queued:
            self.queue.restore(Entry(candidate, attempts))
            self.states[candidate.sample] = State.QUEUED

    @property
    def labelled(self) -> int:
        """Labels on disk."""
        return self.totals[State.LABELLED]

    @property
    def idle(self) -> bool:
        """Whether no candidate is on its way."""
        return not (self.queue or len(self.oracles) or self.returned)

    @property
    def initial_done(self) -> bool:
        """Whether exploration need not wait for initial labels; failed ones are not waited for."""
        return not self._rules.labelling or self._initial_ended >= self._rules.initial_labels

    def propose(self, candidates: Iterable[Candidate], refusal: str) -> list[Command]:
        """Queue what is new, or drop it for the reason `refusal`; pass over known numbers."""
        orders: list[Command] = []
        for candidate in candidates:
            if candidate.sample in self.states:
                continue
            self.proposed += candidate.walker != INITIAL
            entry = Entry(candidate)
            orders += [self._drop(entry, refusal)] if refusal else self._queue(entry)
        return orders

    def rank(self, answer: QueueRanked) -> list[Command]:
        """Order the queue anew and drop what the selector left out."""
        left_out = self.queue.rank(answer.ranked, answer.order, answer.uncertainty)
        return [self._drop(entry, "ranked out") for entry in left_out]

    def start(self, now: float) -> list[Command]:
        """Give free oracles work, as long as there is some and labels are wanted."""
        orders: list[Command] = []
        while self.oracles.free and self._wanted() and (pair := self._pair()):
            entry, oracle = pair
            entry.attempts += 1
            self.oracles.start(oracle, entry, now)
            orders.append(self._move(entry, State.RUNNING, f"oracle {oracle}"))
            orders.append(StartLabel(oracle, entry.sample, entry.attempts))
        return orders

    def oracle_ready(self, oracle: int) -> list[Command]:
        """Note that an oracle can take a sample."""
        orphan = self.oracles.ready(oracle)
        if orphan is None:
            return []
        failure = Failure("oracle", oracle, "lost", "it started again", sample=orphan.sample)
        return self._fail(orphan, oracle, failure)

    def oracle_lost(self, oracle: int, failure: Failure) -> list[Command]:
        """Try what the dead oracle worked on elsewhere, or put it under quarantine."""
        entry = self.oracles.lost(oracle)
        return self._fail(entry, oracle, failure) if entry else []

    def label_returned(self, oracle: int, sample: int) -> list[Command]:
        """Have a label written to disk; ignore one that nobody waits for."""
        entry = self.oracles.answered(oracle, sample)
        if entry is None:
            return []
        self.returned[sample] = entry
        self.failures_in_a_row = 0
        return [self._move(entry, State.RETURNED, f"oracle {oracle}"), CommitLabel(sample)]

    def label_failed(self, oracle: int, sample: int, failure: Failure) -> list[Command]:
        """Try the sample again, or give it up."""
        entry = self.oracles.answered(oracle, sample)
        if entry is None:
            return []
        entry.survived = True
        return self._fail(entry, oracle, failure)

    def labels_durable(self, samples: Iterable[int]) -> list[Move]:
        """Count these labels, from now on safe; ignore those already counted."""
        entries = [self.returned.pop(sample) for sample in samples if sample in self.returned]
        return [self._end(entry, State.LABELLED, "") for entry in entries]

    def kill_overdue(self, now: float) -> list[Command]:
        """Kill each oracle that exceeds the deadline."""
        reason = f"no label within {self._rules.oracle_deadline} s"
        return [KillOracle(oracle, reason) for oracle in self.oracles.overdue(now)]

    def recall(self) -> list[Command]:
        """Put what is still running back into the queue, for another session."""
        orders: list[Command] = []
        for oracle, entry, alive in self.oracles.recall():
            if alive:
                orders.append(KillOracle(oracle, "the campaign ends"))
            self.queue.restore(entry)
            orders.append(self._move(entry, State.QUEUED, "requeued at the end"))
        return orders

    def _pair(self) -> tuple[Entry, int] | None:
        return self.queue.take(self.oracles.choose)

    def _wanted(self) -> bool:
        limit = self._rules.labels
        under_way = len(self.oracles) + len(self.returned)
        return limit is None or self.labelled + under_way < limit

    def _queue(self, entry: Entry) -> list[Command]:
        victim = self.queue.add(entry)
        orders: list[Command] = []
        if victim is not entry:
            orders.append(self._move(entry, State.QUEUED, ""))
        if victim is not None:
            orders.append(self._drop(victim, f"queue full, {self._rules.when_full}"))
        return orders

    def _drop(self, entry: Entry, reason: str) -> Move:
        return self._end(entry, State.DROPPED, reason)

    def _fail(self, entry: Entry, oracle: int, failure: Failure) -> list[Command]:
        detail = f"attempt {entry.attempts} on oracle {oracle}: {failure.kind}: {failure.message}"
        entry.avoid |= {oracle}
        # What the physics refuses it refuses again; a crash or an exception may be bad luck.
        refused = failure.kind == "LabelFailure"
        entry.excused += failure.kind == "lost" and entry.excused < LOSSES
        if entry.attempts - entry.excused <= self._rules.oracle_retries and not refused:
            self.queue.restore(entry)
            return [self._move(entry, State.QUEUED, detail)]
        self.failures_in_a_row += 1
        self.last_failure = f"sample {entry.sample}, {detail}"
        return [self._end(entry, State.FAILED if entry.survived else State.QUARANTINED, detail)]

    def _end(self, entry: Entry, state: State, detail: str) -> Move:
        self.totals[state] += 1
        self._initial_ended += entry.initial
        return self._move(entry, state, detail)

    def _move(self, entry: Entry, state: State, detail: str) -> Move:
        self.states[entry.sample] = state
        return Move(entry.sample, state, detail)
