"""Releases: the newest weights of every member, numbered, handed to predictors, stored."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pal.errors import LedgerDiskError
from pal.records import Weights
from pal.runtime.cluster import Cluster, Station
from pal.runtime.messages import NewWeights
from pal.runtime.weights import fetch, last_version, newest, store


@dataclass(slots=True)
class Releases:
    """Numbers the weights that trainers send, and passes them on.

    A predictor that has not yet taken what it was sent gets only the newest weights afterwards:
    what waits for it never grows beyond one committee.
    """

    cluster: Cluster
    models: Path
    members: int
    version: int = 0
    newest: dict[int, Weights] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    """For each member, how many labels its newest weights have learned from."""
    _since: dict[int, int] = field(default_factory=dict)
    """The version with which the newest weights of each member came."""
    _taken_back: set[int] = field(default_factory=set)
    """Members whose trainer has sent none since its last ones were taken back."""
    _busy: set[Station] = field(default_factory=set)
    """Predictors that have not yet taken what they were sent."""
    _late: dict[Station, set[int]] = field(default_factory=dict)
    """The members whose newest weights a predictor lacks."""
    _installed: dict[Station, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """What was found damaged when the weights were restored."""
    _last: int = 0
    """The highest number ever given: that of damaged weights is not given again."""
    _stored: int = 0
    _storing: Future[None] | None = None

    def restore(self, start: Path | None) -> None:
        """Take up the weights stored last, or those the settings start from."""
        found = newest(self.models)
        self.remarks = found.remarks
        self.version = self._stored = found.version
        self._last = last_version(self.models)
        self.newest = dict(found.members)
        if found.version:
            self.labels = dict.fromkeys(self.newest, found.labels)
        elif start is not None:
            self.newest = fetch(start)

    @property
    def complete(self) -> bool:
        """Whether every member has weights that are not its random first ones."""
        return len(self.newest) == self.members

    def release(self, members: Mapping[int, Weights], labels: int) -> None:
        """Number new weights and pass them on."""
        self._taken_back.difference_update(members)
        self._pass_on(members, labels)

    def _pass_on(self, members: Mapping[int, Weights], labels: int) -> None:
        self.version = self._last = max(self.version, self._last) + 1
        for member, weights in members.items():
            self.newest[member], self.labels[member] = weights, labels
            self._since[member] = self.version
        predictors = self._predictors()
        for station in predictors:
            self._owe(station, set(members))
        self._pay(predictors)

    def distrust(self, member: int, version: int, good: Weights | None) -> Weights | None:
        """Take back weights that give nothing but NaN; return those that replace them.

        These are the `good` ones, or else what is on disk. The bad ones are not kept there, so
        that no later session starts from them.
        """
        since = self._since.get(member, 0)
        if since > version or member not in self.newest or member in self._taken_back:
            return None  # it has others already, or something else than its weights is wrong
        self._taken_back.add(member)
        del self.newest[member]
        labels = self.labels.pop(member, 0)
        if self._stored >= max(1, since):
            with suppress(LedgerDiskError):
                self.settle()
            shutil.rmtree(self.models / _folder(self._stored), ignore_errors=True)
            self._stored = 0
        earlier = self._on_disk(member) if good is None else good
        if earlier is not None:
            self._pass_on({member: earlier}, labels)
        return earlier

    def _on_disk(self, member: int) -> Weights | None:
        return newest(self.models).members.get(member)

    def welcome(self, station: Station) -> None:
        """Give a predictor that has just started all weights there are."""
        self._busy.discard(station)
        self._installed[station] = 0
        if station in self._predictors():
            self._owe(station, set(self.newest))
            self._pay([station])

    def installed(self, station: Station, version: int) -> None:
        """Note that a predictor uses a version; send it what has come since."""
        self._installed[station] = version
        self._busy.discard(station)
        self._pay([station])

    def again(self) -> None:
        """Send anew what may have been on its way through a node that is lost."""
        waiting = [station for station in self._predictors() if station in self._busy]
        for station in waiting:
            self._busy.remove(station)
            self._owe(station, set(self.newest))
        self._pay(waiting)

    def lost(self, station: Station) -> None:
        """Note that a predictor is gone, and does not hold the others back."""
        self._busy.discard(station)
        self._late.pop(station, None)
        self._installed.pop(station, None)

    @property
    def everywhere(self) -> int:
        """The oldest version that a predictor uses."""
        return min((self._installed.get(s, 0) for s in self._predictors()), default=0)

    def _predictors(self) -> list[Station]:
        """Who computes with weights, and lives: an exchange with members, or predictors."""
        stations = [*self.cluster.of("exchange"), *self.cluster.of("predictor")]
        return [station for station in stations if station.ready and station.job.members]

    def _owe(self, station: Station, members: set[int]) -> None:
        lacking = (members | self._late.get(station, set())) & set(station.job.members)
        if lacking:
            self._late[station] = lacking

    def _pay(self, stations: list[Station]) -> None:
        """Send what they lack to predictors that have taken all before; alike ones together."""
        alike: dict[tuple[int, ...], list[Station]] = {}
        for station in stations:
            if station in self._late and station not in self._busy:
                # Without those whose weights were taken back meanwhile.
                members = tuple(sorted(self._late.pop(station) & self.newest.keys()))
                self._busy.add(station)
                alike.setdefault(members, []).append(station)
        for members, together in alike.items():
            weights = {member: self.newest[member] for member in members}
            self.cluster.spread(together, NewWeights(weights, self.version))

    def store(self) -> None:
        """Begin to write the newest weights into the run directory, once for each version.

        A thread does it: disks take seconds for hundreds of megabytes, and messages must not wait
        for them. Only where a version comes before the last one is on disk, this waits for that.
        What a full disk has refused is tried again, or the version after it.
        """
        if self._storing is not None and (self._storing.done() or self.version != self._stored):
            with suppress(LedgerDiskError):
                self.settle()
        if not self.complete or self.version == self._stored or not self.version:
            return
        known = {"version": self.version, "labels": min(self.labels.values(), default=0)}
        folder = self.models / _folder(self.version)
        thread = ThreadPoolExecutor(1, "weights")
        self._storing = thread.submit(store, folder, dict(self.newest), known)
        thread.shutdown(wait=False)
        self._stored = self.version

    def settle(self) -> None:
        """Wait until all that was given to `store` is on disk.

        Raises:
            LedgerDiskError: the disk refused it.
        """
        storing, self._storing = self._storing, None
        try:
            if storing is not None:
                storing.result()
        except OSError as error:
            self._stored = 0
            raise LedgerDiskError(f"the disk refused weights: {error}; free some space") from error
        except LedgerDiskError:
            self._stored = 0
            raise


def _folder(version: int) -> str:
    return f"v{version:06d}"
