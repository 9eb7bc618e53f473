"""The ledger of a simulated campaign: what survives a session, and how it gets there."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.controller.rules import INITIAL, Restored
from pal.ledger import entries
from pal.simulate.agenda import Agenda
from pal.simulate.faults import Fault, Faults
from pal.simulate.mirror import Mirror

ARRAY: Final = np.zeros(1)
"""Stands for the arrays of every sample and label: the controller never sees them."""


class Disk:
    """Keeps what commits have brought, as `pal.ledger` does, entry for entry.

    With a `mirror` a real ledger gets the same, and must agree at each restart.
    """

    def __init__(self, mirror: Mirror | None = None) -> None:
        self._mirror = mirror
        self.candidates: dict[int, Candidate] = {}
        self.states: dict[int, State] = {}
        self.attempts: dict[int, int] = {}
        self.labels: dict[int, None] = {}
        """Labelled samples in the order of their commits."""
        self._metric: dict[str, int] = {}
        self._newest = 0.0
        self.version = 0
        self.trained: set[int] = set()
        """Members with weights that are not their random first ones; stored beside the ledger."""

    def commit(self, batch: Sequence[entries.Entry]) -> tuple[int, ...]:
        """Write entries; return the samples whose labels are now on disk."""
        if self._mirror is not None:
            self._mirror.commit(batch)
        labels: list[int] = []
        for entry in batch:
            if type(entry) is not entries.NewSample:
                self._newest = max(self._newest, entry.time)
            if type(entry) is entries.StateChange:
                self._move(entry)
            elif type(entry) is entries.NewSample:
                self._add(entry.candidate)
            elif type(entry) is entries.NewLabel:
                self.labels.setdefault(entry.sample)
                self.states[entry.sample] = State.LABELLED
                labels.append(entry.sample)
            elif type(entry) is entries.Metric:
                self._metric = dict(entry.values)
        return tuple(labels)

    def _add(self, candidate: Candidate) -> None:
        if candidate.sample not in self.candidates:
            self.candidates[candidate.sample] = candidate
            self.states[candidate.sample] = State.QUEUED

    def _move(self, entry: entries.StateChange) -> None:
        if self.states[entry.sample] is not State.LABELLED:
            self.states[entry.sample] = entry.state
        if entry.attempts is not None:
            self.attempts[entry.sample] = entry.attempts

    def tear(self, batch: Sequence[entries.Entry]) -> None:
        """Die while these are written: none of them is on disk."""
        if self._mirror is not None:
            self._mirror.tear(batch)

    @property
    def initial(self) -> int:
        """How many initial samples there are."""
        return sum(candidate.walker == INITIAL for candidate in self.candidates.values())

    @property
    def next_sample(self) -> int:
        """The first number that is not in use."""
        return max(self.candidates, default=-1) + 1

    def restore(self) -> Restored:
        """Return where the campaign stood; what was in flight is queued again, and first."""
        if self._mirror is not None:
            self._mirror.die()
        in_flight = self._of(State.RUNNING, State.RETURNED)
        waiting = self._of(State.QUEUED)
        count = list(self.states.values()).count
        past = Restored(
            queued=tuple(
                (self.candidates[s], self.attempts.get(s, 0)) for s in (*in_flight, *waiting)
            ),
            labelled=tuple(self.labels),
            samples=self._metric.get("samples", 0),
            uncertain=self._metric.get("uncertain", 0),
            epochs=self._metric.get("epochs", 0),
            elapsed=self._newest,
            failed=count(State.FAILED),
            quarantined=count(State.QUARANTINED),
            dropped=count(State.DROPPED),
            proposed=len(self.candidates) - self.initial,
        )
        for sample in in_flight:
            self.states[sample] = State.QUEUED
        if self._mirror is not None:
            self._mirror.agrees(past)
        return past

    def _of(self, *states: State) -> list[int]:
        return sorted(sample for sample, state in self.states.items() if state in states)


class Writer:
    """Brings entries to the disk in the order they were put: what gathers goes in one commit."""

    def __init__(
        self,
        disk: Disk,
        agenda: Agenda,
        faults: Faults,
        rng: random.Random,
        on_durable: Callable[[tuple[int, ...]], None],
    ) -> None:
        self._disk = disk
        self._agenda = agenda
        self._faults = faults
        self._rng = rng
        self._on_durable = on_durable
        self._waiting: list[entries.Entry] = []
        self._writing: list[entries.Entry] = []

    def put(self, entry: entries.Entry) -> None:
        """Take an entry; it is written soon."""
        self._waiting.append(entry)
        if not self._writing:
            self._begin()

    def _begin(self) -> None:
        size = len(self._waiting)
        if size > 1 and self._faults.strikes(Fault.SPLIT):
            size = self._rng.randrange(1, size)
        self._writing, self._waiting = self._waiting[:size], self._waiting[size:]
        takes = 0.05 + 0.5 * self._rng.random()
        if self._faults.strikes(Fault.SLOW_DISK):
            takes += 15 * self._rng.random()
        self._agenda.at(takes, self._done)

    def _done(self) -> None:
        batch, self._writing = self._writing, []
        labels = self._disk.commit(batch)
        if labels:
            self._on_durable(labels)
        if self._waiting:
            self._begin()

    @property
    def writes(self) -> bool:
        """Whether a commit is under way."""
        return bool(self._writing)

    def flush(self) -> None:
        """Write all at once, as an orderly end does."""
        self._disk.commit(self._writing + self._waiting)
        self._writing, self._waiting = [], []

    def die(self) -> None:
        """Be killed: the commit under way is on disk whole or not at all, the rest is lost."""
        if self._writing and self._rng.random() < 0.5:
            self._disk.commit(self._writing)
        elif self._writing:
            self._disk.tear(self._writing)
