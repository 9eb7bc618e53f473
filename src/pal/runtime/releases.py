"""Releases: the newest weights of every member, numbered, handed to predictors, stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pal.records import Weights
from pal.runtime.agent import Agent, Worker
from pal.runtime.messages import NewWeights
from pal.runtime.weights import facts, fetch, store, stored


@dataclass(slots=True)
class Releases:
    """Numbers the weights that trainers send, and passes them on.

    A predictor that has not yet taken what it was sent gets only the newest weights afterwards:
    what waits for it never grows beyond one committee.
    """

    agent: Agent
    models: Path
    members: int
    version: int = 0
    newest: dict[int, Weights] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    """For each member, how many labels its newest weights have learned from."""
    _late: dict[Worker, set[int]] = field(default_factory=dict)
    _stored: int = 0

    def restore(self, start: Path | None) -> None:
        """Take up the weights stored last, or those the settings start from."""
        versions = stored(self.models)
        if versions:
            self.newest = fetch(versions[-1])
            known = facts(versions[-1])
            self.version = self._stored = int(known["version"])
            self.labels = dict.fromkeys(self.newest, int(known["labels"]))
        elif start is not None:
            self.newest = fetch(start)

    @property
    def complete(self) -> bool:
        """Whether every member has weights that are not its random first ones."""
        return len(self.newest) == self.members

    def release(self, members: Mapping[int, Weights], labels: int) -> None:
        """Number new weights and pass them on."""
        self.version += 1
        self.newest.update(members)
        self.labels.update(dict.fromkeys(members, labels))
        for worker in self._predictors():
            self._hand(worker, set(members))

    def install(self, worker: Worker) -> None:
        """Give a predictor that has just started all weights there are."""
        if self.newest and worker in self._predictors():
            self._hand(worker, set(self.newest))

    def _predictors(self) -> list[Worker]:
        """Who computes with weights: predictors where there are any, else the exchange."""
        workers = self.agent.workers.values()
        found = [w for w in workers if w.job.role == "predictor"]
        return found or [w for w in workers if w.job.role == "exchange"]

    def _hand(self, worker: Worker, members: set[int]) -> None:
        members = (members | self._late.pop(worker, set())) & set(worker.job.members)
        if worker.channel is None or not members:
            return
        if worker.channel.backlog:
            self._late[worker] = members
            return
        weights = {member: self.newest[member] for member in sorted(members)}
        self.agent.send(worker, NewWeights(weights, self.version))

    def catch_up(self) -> None:
        """Send late weights to predictors that have room again."""
        for worker in list(self._late):
            self._hand(worker, set())

    def announce(self, exchange: Worker, worker: Worker) -> None:
        """Tell an exchange, whose members live in predictors, that one of them has new weights."""
        if worker.job.role == "predictor":
            self.agent.send(exchange, NewWeights({}, self.version))

    def store(self) -> None:
        """Write the newest weights into the run directory, once for each version."""
        if not self.complete or self.version == self._stored or not self.version:
            return
        labels = min(self.labels.values(), default=0)
        folder = self.models / f"v{self.version:06d}"
        store(folder, self.newest, {"version": self.version, "labels": labels})
        self._stored = self.version
