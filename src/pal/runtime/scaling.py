"""Scaling: workers that come and go while the campaign runs."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pal.building import KernelSpec
from pal.controller import events as ev
from pal.controller.manager import Manager
from pal.errors import SettingsError
from pal.ledger.directory import RunDirectory
from pal.runtime.cluster import Cluster, Station
from pal.runtime.orders import Job
from pal.runtime.placement import Builder, common_of, oracle_job
from pal.runtime.seats import Seats
from pal.settings import Settings

SCALES: Final = {"oracle": "oracle.workers", "generator": "generator.walkers"}
"""The kernels whose workers may come and go, and the setting that counts them."""

_WHY: Final = {
    "training": "the members of the committee are dealt to the trainers at the start",
    "prediction": "the members of the committee are dealt to the predictors at the start",
}


@dataclass(slots=True)
class _Plan:
    """Who comes and who goes."""

    come: list[list[Job]]
    go: list[Station]


class Scaled(Protocol):
    """What scaling needs of a session."""

    kernels: dict[str, KernelSpec]
    directory: RunDirectory
    home: Path | None

    @property
    def clock(self) -> float:
        """Campaign time in seconds."""
        ...

    @property
    def manager(self) -> Manager:
        """The manager that leads."""
        ...

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the manager."""
        ...


class Scaling:
    """Starts oracles and walkers where there is room, and lets them go in good order.

    An oracle that goes finishes its label first. Walkers come as shards of their own, with a
    committee; they go with their hosts, after their states are saved, and should they come
    again they go on from there. `lose`: wait no more for a worker that predicts.
    """

    def __init__(self, cluster: Cluster, session: Scaled, lose: Callable[[Station], None]) -> None:
        self._cluster = cluster
        self._session = session
        self._lose = lose
        self._leaving: set[int] = set()
        """Oracles that go when they have made their labels."""

    @staticmethod
    def refusal(kernel: str) -> str:
        """Say why the workers of a kernel cannot be scaled."""
        why = _WHY.get(kernel, f"scaled are {' and '.join(SCALES)}")
        return f"{kernel} cannot be scaled: {why}"

    def count(self, kernel: str) -> int:
        """Return how many workers a kernel has, of those that can come and go."""
        if kernel == "oracle":
            return len(self._oracles())
        return sum(len(station.job.walkers) for station in self._crews())

    def idle(self, kernel: str) -> int:
        """Return how many workers could go at once. A walker can at any time."""
        if kernel == "generator":
            return self.count(kernel) - 1
        return sum(station.job.index in self._free for station in self._oracles())

    @property
    def _free(self) -> Container[int]:
        """The oracles that have nothing to do."""
        return self._session.manager.labelling.oracles.free

    def _common(self, fresh: Settings) -> dict[str, Any]:
        session = self._session
        return common_of(fresh, session.directory.path, session.kernels, session.home)

    def to(self, fresh: Settings, keys: Container[str]) -> list[str]:
        """Have as many workers as these settings say, where `keys` name their number.

        Returns what happens, in words. Who was given up counts as gone, and is replaced.

        Raises:
            SettingsError: it cannot be done, and nothing was.
        """
        planners = {"oracle": self._plan_oracles, "generator": self._plan_walkers}
        plans = [plan(fresh) for kernel, plan in planners.items() if SCALES[kernel] in keys]
        if self._session.manager.ending is not None and any(
            plan.come or plan.go for plan in plans
        ):
            raise SettingsError("the campaign is ending: no workers come or go")
        words: list[str] = []
        for plan in plans:
            words += self._start(plan.come)
            words += self._let_go(plan.go)
        return words

    # Who -------------------------------------------------------------------------------------

    def _oracles(self) -> list[Station]:
        """The oracles of the job that are to stay."""
        found = [station for station in self._cluster.of("oracle") if not station.given_up]
        self._leaving.intersection_update(station.job.index for station in found)
        return [station for station in found if station.job.index not in self._leaving]

    def _crews(self) -> list[Station]:
        """Who has walkers: hosts, or exchanges, those of the first walkers first."""
        stations = [*self._cluster.of("generator"), *self._cluster.of("exchange")]
        found = [s for s in stations if s.job.walkers and not s.given_up]
        return sorted(found, key=lambda station: station.job.walkers)

    def _plan_oracles(self, fresh: Settings) -> _Plan:
        staying = self._oracles()
        if not fresh.oracle.enabled:
            return _Plan([], [])
        more = fresh.oracle.workers - len(staying)
        taken = {
            oracle
            for station in self._cluster.stations.values()
            if not station.retired or station.leaving
            for oracle in station.job.oracles
        }
        common = self._common(fresh)
        come = [[oracle_job(fresh, index, common)] for index in _unused(taken, more)]
        # Idle ones first, of these the last.
        staying.sort(key=lambda station: (station.job.index not in self._free, -station.job.index))
        return _Plan(come, staying[: max(0, -more)])

    def _plan_walkers(self, fresh: Settings) -> _Plan:
        crews = self._crews()
        more = fresh.generator.walkers - sum(len(station.job.walkers) for station in crews)
        if more < 0:
            return _Plan([], self._crews_to_go(crews, -more))
        taken = {
            walker
            for station in self._cluster.stations.values()
            if not station.retired or station.leaving
            for walker in station.job.walkers
        }
        crew = tuple(_unused(taken, more))
        return _Plan([self._shard(fresh, crew)] if crew else [], [])

    def _crews_to_go(self, crews: list[Station], fewer: int) -> list[Station]:
        """Choose whole hosts, those of the last walkers first."""
        total = sum(len(station.job.walkers) for station in crews)
        going: list[Station] = []
        reached = [total]
        for station in reversed(crews[1:]):
            if self._apart(station):
                continue
            going.append(station)
            reached.append(reached[-1] - len(station.job.walkers))
            if total - reached[-1] >= fewer:
                break
        if total - reached[-1] != fewer:
            numbers = ", ".join(map(str, reached[1:])) or "no other number"
            raise SettingsError(
                f"{total - fewer} walkers cannot be had: walkers go with the process they live "
                f"in, and with their committee's node; possible: {numbers}"
            )
        return going

    def _apart(self, station: Station) -> bool:
        """Whether a host's committee is on another node, which could not follow."""
        return any(job.role == "relay" for job in self._group(station))

    def _group(self, station: Station) -> tuple[Job, ...]:
        """Return who shares roads with a worker, itself among them."""
        key = station.job.key
        groups = (group.jobs for group in self._cluster.groups)
        return next((jobs for jobs in groups if key in {job.key for job in jobs}), ())

    def _shard(self, fresh: Settings, crew: tuple[int, ...]) -> list[Job]:
        """Return the jobs of a new shard with these walkers."""
        cluster = self._cluster
        shards = [station.job.shard for station in cluster.of("exchange")]
        common = self._common(fresh) | {"shard_count": len(set(shards)) + 1}
        hosts = 1 + max((s.job.index for s in cluster.of("generator")), default=-1)
        predictors = 1 + max((s.job.index for s in cluster.of("predictor")), default=-1)
        builder = Builder(fresh, common, hosts, predictors)
        return builder.shard(max(shards) + 1, crew, fresh.model.predictors, [])

    # Coming and going ------------------------------------------------------------------------

    def _start(self, groups: Iterable[list[Job]]) -> list[str]:
        started: list[str] = []
        for jobs in groups:
            seats = Seats(self._cluster.living, self._cluster.groups)
            group = seats.take(None, jobs)
            self._cluster.start(group)
            started += [job.name for job in group.jobs]
        return [f"started {', '.join(started)}"] if started else []

    def _let_go(self, stations: Iterable[Station]) -> list[str]:
        at_once, later = list[str](), list[str]()
        for station in stations:
            job = station.job
            busy = job.role == "oracle" and job.index not in self._free
            (later if busy else at_once).append(job.name)
            if job.role == "oracle":
                self._leaving.add(job.index)
                self._session.feed(ev.OracleRetired(self._session.clock, job.index))
            else:
                self._let_walkers_go(station)
        words = [f"let go {', '.join(at_once)}"] if at_once else []
        return words + ([f"{', '.join(later)} after the present label"] if later else [])

    def _let_walkers_go(self, station: Station) -> None:
        """Let a host go, and its committee when it has no walkers left."""
        others = [job for job in self._group(station) if job.key != station.job.key]
        self._cluster.retire(station)
        if station.job.role == "exchange":
            self._lose(station)
        if any(job.role in ("generator", "outpost") for job in others):
            return
        for job in others:
            other = self._cluster.stations[job.key]
            self._cluster.retire(other)
            self._lose(other)


def _unused(taken: set[int], count: int) -> list[int]:
    """Return the lowest numbers that nobody has."""
    numbers: list[int] = []
    candidate = 0
    while len(numbers) < count:
        if candidate not in taken:
            numbers.append(candidate)
        candidate += 1
    return numbers
