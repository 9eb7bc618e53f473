"""The way of a candidate to its label: queue, oracles, and where each sample stands."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from pal.controller.breaker import Breaker
from pal.controller.commands import (
    Command,
    CommitLabel,
    KillOracle,
    Move,
    RetireOracle,
    StartLabel,
    State,
    Tell,
)
from pal.controller.events import Candidate, QueueRanked
from pal.controller.oracles import OraclePool
from pal.controller.queue import Entry, LabelQueue
from pal.controller.rules import INITIAL, LOSSES, Restored, Rules
from pal.errors import Failure

ENDED: Final = frozenset({State.FAILED, State.QUARANTINED, State.DROPPED})
"""Ends without a label, from which the operator may bring a sample back."""

_LONGEST_BACKOFF: Final = 3600.0
"""Seconds before a sample is tried again, at most."""


class Labelling:
    """Leads every candidate through its states; each method answers with the orders it gives."""

    def __init__(self, rules: Rules, restored: Restored) -> None:
        self._rules = rules
        self.queue = LabelQueue(rules.queue_capacity, rules.when_full)
        self.oracles = OraclePool(rules.oracle_deadline, rules.outside, rules.nodes)
        self.breaker = Breaker(rules)
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
        self.last_failure = ""
        self.insisted = 0
        """Samples that the operator queued again, whatever the queue's capacity."""
        # Before exploration there are only initial samples, so all that ended count as such.
        self._initial_ended = self.totals.total()
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
        self.queue.mature(now)
        while self.oracles.free and self._wanted(now) and (pair := self._pair()):
            entry, oracle = pair
            entry.attempts += 1
            self.oracles.start(oracle, entry, now)
            orders.append(self._move(entry, State.RUNNING, f"oracle {oracle}"))
            orders.append(StartLabel(oracle, entry.sample, entry.attempts))
        return orders

    def oracle_ready(self, oracle: int, now: float) -> list[Command]:
        """Note that an oracle can take a sample."""
        orphan = self.oracles.ready(oracle)
        orders = self._let_go(oracle)
        if orphan is None:
            return orders
        failure = Failure("oracle", oracle, "lost", "it started again", sample=orphan.sample)
        return orders + self._fail(orphan, oracle, failure, now)

    def oracle_lost(self, oracle: int, failure: Failure, now: float) -> list[Command]:
        """Try what the dead oracle worked on elsewhere, or put it under quarantine."""
        entry = self.oracles.lost(oracle)
        return self._fail(entry, oracle, failure, now) if entry else []

    def retire(self, oracle: int) -> list[Command]:
        """Let an oracle go: at once, or when it has made its label."""
        self.oracles.retire(oracle)
        return self._let_go(oracle)

    def label_returned(self, oracle: int, sample: int) -> list[Command]:
        """Have a label written to disk; ignore one that nobody waits for."""
        entry = self.oracles.answered(oracle, sample)
        if entry is None:
            return []
        orders = self._let_go(oracle) + self._commit(entry, f"oracle {oracle}")
        if self.breaker.close():
            orders.append(Tell(f"sample {sample} got its label: labelling goes on"))
        return orders

    def label_failed(
        self, oracle: int, sample: int, failure: Failure, now: float
    ) -> list[Command]:
        """Try the sample again, or give it up."""
        entry = self.oracles.answered(oracle, sample)
        if entry is None:
            return []
        entry.survived = True
        return self._let_go(oracle) + self._fail(entry, oracle, failure, now)

    def labels_durable(self, samples: Iterable[int]) -> list[Move]:
        """Count these labels, from now on safe; ignore those already counted."""
        entries = [self.returned.pop(sample) for sample in samples if sample in self.returned]
        return [self._end(entry, State.LABELLED, "") for entry in entries]

    def drop(self, sample: int, by: str) -> list[Command]:
        """Give up a sample that waits or runs, because the operator says so."""
        entry, orders = self._fetch(sample, f"dropped by {by}")
        return [*orders, self._drop(entry, f"by {by}")] if entry else []

    def requeue(self, candidate: Candidate, ended: State | None, by: str) -> list[Command]:
        """Have another label made, with nothing held against the sample."""
        orders: list[Command] = []
        entry = self._bring_back(candidate, ended)
        if entry is None and self.states.get(candidate.sample) is State.RUNNING:
            entry, orders = self._fetch(candidate.sample, f"requeued by {by}")
        if entry is None:
            return []
        self.insisted += 1
        # As one to be tried again: it is next, and does not give way to others.
        self.queue.defer(Entry(entry.candidate), -math.inf)
        return [*orders, self._move(entry, State.QUEUED, f"by {by}")]

    def label_given(self, candidate: Candidate, ended: State | None, by: str) -> list[Command]:
        """Have a label written to disk that the operator brings."""
        orders: list[Command] = []
        entry = self._bring_back(candidate, ended)
        if entry is None:
            entry, orders = self._fetch(candidate.sample, f"label given by {by}")
        return orders + self._commit(entry, f"by hand, {by}") if entry else []

    def govern(self, rules: Rules) -> None:
        """Go by other rules from now on."""
        self._rules = rules
        self.queue.govern(rules.queue_capacity, rules.when_full)
        self.oracles.deadline = rules.oracle_deadline
        self.breaker.govern(rules)

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

    def _wanted(self, now: float) -> bool:
        limit = self._rules.labels
        under_way = len(self.oracles) + len(self.returned)
        if limit is not None and self.labelled + under_way >= limit:
            return False
        return self.breaker.allows(now, len(self.oracles))

    def _let_go(self, oracle: int) -> list[Command]:
        return [RetireOracle(oracle)] if self.oracles.leave(oracle) else []

    def _commit(self, entry: Entry, detail: str) -> list[Command]:
        self.returned[entry.sample] = entry
        return [self._move(entry, State.RETURNED, detail), CommitLabel(entry.sample)]

    def _fetch(self, sample: int, reason: str) -> tuple[Entry | None, list[Command]]:
        """Take a sample out of the queue, or from its oracle, which is killed."""
        taken = self.oracles.withdraw(sample)
        if taken is None:
            return self.queue.remove(sample), []
        oracle, entry, alive = taken
        return entry, [KillOracle(oracle, reason)] if alive else []

    def _bring_back(self, candidate: Candidate, ended: State | None) -> Entry | None:
        """Undo the end of a sample that ended without a label; None if it did not."""
        state = self.states.get(candidate.sample, ended)
        if state not in ENDED:
            return None
        self.totals[state] -= 1
        entry = Entry(candidate)
        if entry.initial and not self.initial_done:
            self._initial_ended -= 1
        return entry

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

    def _fail(self, entry: Entry, oracle: int, failure: Failure, now: float) -> list[Command]:
        detail = f"attempt {entry.attempts} on oracle {oracle}: {failure.kind}: {failure.message}"
        entry.avoid |= {oracle}
        # What the physics refuses it refuses again; a crash or an exception may be bad luck.
        refused = failure.kind == "LabelFailure"
        entry.excused += failure.kind == "lost" and entry.excused < LOSSES
        tries = entry.attempts - entry.excused
        if tries <= self._rules.oracle_retries and not refused:
            self.queue.defer(entry, now + self._backoff(tries))
            return [self._move(entry, State.QUEUED, detail)]
        self.last_failure = f"sample {entry.sample}, {detail}"
        orders: list[Command] = [
            self._end(entry, State.FAILED if entry.survived else State.QUARANTINED, detail)
        ]
        if self.breaker.failed(now):
            orders.append(Tell(self._broken(), "warning"))
        return orders

    def _backoff(self, tries: int) -> float:
        return min(self._rules.backoff * 2.0 ** min(max(tries - 1, 0), 40), _LONGEST_BACKOFF)

    def _broken(self) -> str:
        return (
            f"{self.breaker.in_a_row} samples in a row got no label (oracle.pause_after = "
            f"{self._rules.pause_after}): labelling is paused, and one sample tried from time to "
            "time; look at the oracle, then `pal resume oracle`. The last one: "
            f"{self.last_failure}"
        )

    def _end(self, entry: Entry, state: State, detail: str) -> Move:
        self.totals[state] += 1
        self._initial_ended += entry.initial
        return self._move(entry, state, detail)

    def _move(self, entry: Entry, state: State, detail: str) -> Move:
        self.states[entry.sample] = state
        return Move(entry.sample, state, detail)
