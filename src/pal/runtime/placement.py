"""Placement: which processes a campaign has, on which node, with which threads and devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pal.building import METHODS, KernelSpec
from pal.catalogue import check_installed, check_options
from pal.errors import SettingsError
from pal.exchange.batching import All, Batching, Ready
from pal.runtime.labels import Sanity
from pal.runtime.machines import HEAD, Machine, deal, spread, this_machine
from pal.runtime.orders import Job
from pal.runtime.outside.wanted import executor_spec
from pal.runtime.seats import Group, Seats, proportional
from pal.runtime.watch import REACT, limits
from pal.settings import Settings


@dataclass(frozen=True, slots=True)
class Placement:
    """The workers of a campaign in groups, and the nodes they are on."""

    groups: tuple[Group, ...]
    machines: tuple[Machine, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that processes do."""
        return tuple(job for group in self.groups for job in group.jobs if job.process)

    def of(self, role: str) -> list[Job]:
        """Return the jobs of one role, by their numbers."""
        return sorted((j for j in self.jobs if j.role == role), key=lambda job: job.index)

    def on(self, rank: int) -> list[Job]:
        """Return the jobs of one node."""
        return [job for group in self.groups if group.node == rank for job in group.jobs]

    def lines(self) -> list[str]:
        """Describe the placement, a line for each process; with several nodes, node by node."""
        if len(self.machines) == 1:
            return [_line(job) for job in self.on(self.machines[0].rank)]
        lines = []
        for machine in self.machines:
            here = self.on(machine.rank)
            threads = sum(job.load for job in here)
            count = sum(job.process for job in here)
            lines.append(f"{machine}: {count} processes with {threads} threads")
            lines += [f"  {_line(job)}" for job in here]
        return lines

    def summary(self) -> list[str]:
        """Describe the placement, a line for each node."""
        return [
            f"{machine}: {_counted(self.on(machine.rank)) or 'nothing'}"
            for machine in self.machines
        ]


def _counted(jobs: Iterable[Job]) -> str:
    walkers, counts = 0, dict[str, int]()
    for job in jobs:
        if job.role != "outpost":
            walkers += len(job.walkers)
        if job.process and job.role != "generator":
            counts[job.role] = counts.get(job.role, 0) + 1
    counts["walker"] = walkers
    words = {"exchange": "committee"}
    return ", ".join(
        f"{count} {words.get(role, role)}{'s' if count > 1 else ''}"
        for role, count in counts.items()
        if count
    )


def _line(job: Job) -> str:
    if not job.process:
        return f"{job.name}: {_describe(job)}"
    pinned = f", core {','.join(map(str, job.cores))}" if job.cores else ""
    threads = f"{job.threads} thread{'s' if job.threads > 1 else ''}"
    return f"{job.name}: {_describe(job)} ({threads}, {job.device}{pinned})"


def _describe(job: Job) -> str:
    if job.role == "exchange":
        seat = f"members {_span(job.members)}" if job.members else "no members of its own"
        return seat + (f", walkers {_span(job.walkers)}" if job.walkers else "")
    if job.role == "generator":
        return f"walkers {_span(job.walkers)}"
    if job.role in ("predictor", "trainer"):
        return f"members {_span(job.members)}"
    if job.role == "outpost":
        return f"walkers {_span(job.walkers)} on another node"
    if job.role == "relay":
        return f"to the committee of shard {job.shard}"
    if job.role == "broker":
        return f"labels beyond the job, {len(job.oracles)} at once"
    return "labels"


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


_SCREEN = "pal.kernels.selectors.parts.screen:Screen"


def specs(settings: Settings, paths: Sequence[str]) -> dict[str, KernelSpec]:
    """Return how each role's kernel is built.

    Raises:
        SettingsError: a kernel with a short name does not know an option, or not such a value.
        KernelImportError: there is no such short name, or its library is missing.
    """
    found = {}
    for role in METHODS:
        section = getattr(settings, role)
        if section.kernel is not None:
            check_installed(role, section.kernel)
            check_options(role, section.kernel, section.options)
            found[role] = KernelSpec.of(role, section.kernel, section.options, paths)
    if settings.oracle.executor is not None:
        found["executor"] = executor_spec(settings.oracle, paths)
    if settings.selector.reject.options:
        found["screen"] = KernelSpec.of("screen", _SCREEN, settings.selector.reject.options)
    return found


def batching(settings: Settings) -> Batching:
    """Return the batching policy the settings name."""
    wanted = settings.exchange
    if wanted.batching == "all":
        return All(wanted.max_size)
    return Ready(wanted.min_size, wanted.max_wait, wanted.max_size)


def place(
    settings: Settings,
    directory: Path,
    kernels: dict[str, KernelSpec],
    home: Path | None = None,
    machines: Sequence[Machine] = (),
) -> Placement:
    """Plan the processes of a campaign on these nodes; without any, on this machine.

    Raises:
        SettingsError: numbers by hand do not fit the nodes, or what there is to place.
    """
    found = tuple(machines) or (this_machine(),)
    common = common_of(settings, directory, kernels, home)
    seats = Seats(found)
    shards = _shards(settings, found)
    _place_walkers(settings, seats, shards, common | {"shard_count": len(shards)})
    _place_trainers(settings, seats, common)
    _place_oracles(settings, seats, common)
    return Placement(seats.taken(), found)


def common_of(
    settings: Settings, directory: Path, kernels: dict[str, KernelSpec], home: Path | None
) -> dict[str, Any]:
    """Return what all jobs of a campaign are told."""
    return {
        "kernels": kernels,
        "directory": directory,
        "seed": settings.seed,
        "home": home,
        "save_interval": settings.save_interval,
        "restarts": _first(settings.generator.restarts, settings.restart.budget),
        "walker_count": settings.generator.walkers,
        "member_count": settings.model.members,
        "training": settings.model.train,
    }


def _first(own: int | None, otherwise: int) -> int:
    return otherwise if own is None else own


def by_hand(
    name: str, counts: Sequence[int] | None, nodes: int, total: int | None = None
) -> Sequence[int] | None:
    """Return a setting of `placement` after checking that it fits.

    Raises:
        SettingsError: there is not one number for each node, or they do not add up to `total`.
    """
    if counts is None:
        return None
    where = f"placement.{name} = {list(counts)}"
    if len(counts) != nodes:
        raise SettingsError(
            f"{where} has {len(counts)} numbers and there are {nodes} nodes; give one number for "
            "each node, or leave it out"
        )
    if total is not None and sum(counts) != total:
        raise SettingsError(f"{where} places {sum(counts)} of them; expected {total} in all")
    return counts


# Walkers and committees -----------------------------------------------------------------------


def _shards(settings: Settings, machines: Sequence[Machine]) -> dict[int, int]:
    """Return the nodes that have a committee: {rank: its predictor processes}."""
    model, walkers = settings.model, settings.generator.walkers
    fixed = by_hand("prediction", settings.placement.prediction, len(machines))
    if fixed is not None:
        ranks = {m.rank: min(n, model.members) for m, n in zip(machines, fixed, strict=True) if n}
        if not ranks:
            raise SettingsError("placement.prediction has no committee anywhere; give one a 1")
        return ranks
    able = [m for m in machines if m.devices or not _needs_device(model.device)] or machines
    most = min(model.replicas or len(able), walkers)
    return {machine.rank: model.predictors for machine in able[:most]}


def _needs_device(device: str | Sequence[str]) -> bool:
    return any(d.startswith("cuda") for d in ([device] if isinstance(device, str) else device))


def _place_walkers(
    settings: Settings, seats: Seats, shards: dict[int, int], common: dict[str, Any]
) -> None:
    crews = _crews(settings, seats.machines, shards)
    builder = Builder(settings, common)
    outposts: dict[int, list[Job]] = {rank: [] for rank in shards}
    sizes = {rank: len(crews.get(rank, ())) for rank in shards}
    relays = []
    for rank, crew in crews.items():
        if rank not in shards:
            # To the committee that has the fewest walkers.
            host = min(sizes, key=lambda shard: sizes[shard])
            sizes[host] += len(crew)
            shard = list(shards).index(host)
            relays.append((rank, crew, shard))
            outposts[host].append(builder.outpost(shard, crew, len(relays) - 1))
    for shard, (rank, predictors) in enumerate(shards.items()):
        crew = crews.get(rank, ())
        seats.take(rank, builder.shard(shard, crew, predictors, outposts[rank]))
    for index, (rank, crew, shard) in enumerate(relays):
        seats.take(rank, builder.relay(shard, crew, index))


def _crews(
    settings: Settings, machines: Sequence[Machine], shards: dict[int, int]
) -> dict[int, tuple[int, ...]]:
    """Return the walkers of each node: by hand, or on the committees' nodes by their cores."""
    generator = settings.generator
    fixed = by_hand("generator", settings.placement.generator, len(machines), generator.walkers)
    ranks = [machine.rank for machine in machines if fixed is not None or machine.rank in shards]
    if fixed is None:
        cores = [len(machine.cores) for machine in machines if machine.rank in shards]
        fixed = proportional(generator.walkers, cores)
    tight = generator.placement == "committee"
    lonely = [rank for rank, n in zip(ranks, fixed, strict=True) if n and rank not in shards]
    if tight and (lonely or max(shards.values()) > 1):
        raise SettingsError(
            "generator.placement = 'committee' needs a whole committee in one process on every "
            f"node with walkers; change placement.prediction (nodes {lonely or list(shards)})"
        )
    crews, start = {}, 0
    for rank, count in zip(ranks, fixed, strict=True):
        if count:
            crews[rank] = tuple(range(start, start + count))
            start += count
    return crews


class Builder:
    """Makes the jobs of shards and relays, counting hosts and predictors over all nodes."""

    def __init__(
        self, settings: Settings, common: dict[str, Any], hosts: int = 0, predictors: int = 0
    ) -> None:
        self._settings = settings
        self._common = {**common, "nice": settings.exchange.nice}
        self._hosts = hosts
        self._predictors = predictors

    def shard(
        self, shard: int, crew: tuple[int, ...], predictors: int, outposts: list[Job]
    ) -> list[Job]:
        """Return exchange, predictors, hosts and outposts of a shard."""
        settings, model = self._settings, self._settings.model
        tight = settings.generator.placement == "committee"
        hosts = [] if tight else self.hosts(shard, crew)
        seats = spread(model.members, predictors) if predictors > 1 else []
        away = [walker for outpost in outposts for walker in outpost.walkers]
        exchange = Job(
            "exchange",
            shard,
            budget=model.restarts,
            deadlines=limits(settings, REACT if seats else "predict", *(("step",) * tight)),
            shard=shard,
            threads=model.threads,
            members=() if seats else tuple(range(model.members)),
            walkers=crew if tight else (),
            rows=(*crew, *away),
            host_of=tuple(
                host for host, job in enumerate([*hosts, *outposts]) for _ in job.walkers
            ),
            seats=tuple(seats),
            batching=batching(settings),
            serial=settings.mode == "serial",
            wanted=device_of(model.device, 0),
            **self._common,
        )
        return [exchange, *self._seated(shard, seats), *hosts, *outposts]

    def _seated(self, shard: int, seats: Sequence[tuple[int, ...]]) -> list[Job]:
        model = self._settings.model
        first, self._predictors = self._predictors, self._predictors + len(seats)
        return [
            Job(
                "predictor",
                first + place,
                budget=model.restarts,
                deadlines=limits(self._settings, "predict"),
                shard=shard,
                members=seat,
                threads=model.threads,
                wanted=device_of(model.device, place),
                **self._common,
            )
            for place, seat in enumerate(seats)
        ]

    def hosts(self, shard: int, crew: tuple[int, ...]) -> list[Job]:
        """Return the hosts of a node's walkers."""
        generator = self._settings.generator
        count = len(crew)
        if generator.hosts != "each":
            count = min(count, max(1, round(generator.hosts * len(crew) / generator.walkers)))
        first, self._hosts = self._hosts, self._hosts + count
        return [
            Job(
                "generator",
                first + place,
                budget=generator.restarts,
                deadlines=limits(self._settings, "step"),
                shard=shard,
                walkers=tuple(walkers),
                threads=generator.threads,
                **self._common,
            )
            for place, walkers in enumerate(deal(crew, count))
        ]

    def outpost(self, shard: int, crew: tuple[int, ...], index: int) -> Job:
        """Return the place in a shard of walkers that live on another node."""
        return Job("outpost", index, shard=shard, walkers=crew, threads=0, **self._common)

    def relay(self, shard: int, crew: tuple[int, ...], index: int) -> list[Job]:
        """Return hosts, and what stands for the exchange on their node."""
        relay = Job(
            "relay",
            index,
            shard=shard,
            rows=crew,
            threads=0,
            batching=batching(self._settings),
            **self._common,
        )
        hosts = self.hosts(shard, crew)
        of = tuple(host for host, job in enumerate(hosts) for _ in job.walkers)
        return [replace(relay, host_of=of), *hosts]


def device_of(device: str | Sequence[str], index: int) -> str:
    """Deal the devices of a kernel out: 'cuda:0,1' gives its processes one each, in turn."""
    if not isinstance(device, str):
        return device[index % len(device)]
    kind, _, numbers = device.partition(":")
    if "," not in numbers:
        return device
    several = numbers.split(",")
    return f"{kind}:{several[index % len(several)]}"


# Trainers and oracles -------------------------------------------------------------------------


def _place_trainers(settings: Settings, seats: Seats, common: dict[str, Any]) -> None:
    model = settings.model
    if not model.train:
        return
    fixed = by_hand("training", settings.placement.training, len(seats.machines), model.trainers)
    where = seats.by_hand(fixed)
    for index, members in enumerate(spread(model.members, model.trainers)):
        job = Job(
            "trainer",
            index,
            budget=model.restarts,
            deadlines=limits(settings, "train"),
            members=members,
            threads=model.threads,
            wanted=device_of(model.train_device, index),
            weights_every=model.weights_every,
            bootstrap=settings.training.bootstrap,
            extra={"start": model.weights},
            **common,
        )
        seats.take(next(where, None), [job])


def _place_oracles(settings: Settings, seats: Seats, common: dict[str, Any]) -> None:
    oracle = settings.oracle
    if not oracle.enabled:
        return
    fixed = by_hand("oracle", settings.placement.oracle, len(seats.machines), oracle.workers)
    where = seats.by_hand(fixed)
    for index in range(oracle.workers):
        seats.take(next(where, None), [oracle_job(settings, index, common)])
    if oracle.executor is not None:
        beyond = tuple(range(oracle.workers, oracle.places))
        more = _told_oracles(settings)
        seats.take(HEAD, [Job("broker", 0, oracles=beyond, **common, **more)])


def oracle_job(settings: Settings, index: int, common: dict[str, Any]) -> Job:
    """Return the job of one oracle; `common` is what all jobs are told."""
    threads, more = settings.oracle.threads, _told_oracles(settings)
    return Job("oracle", index, threads=threads, oracles=(index,), **common, **more)


def _told_oracles(settings: Settings) -> dict[str, Any]:
    """Return what oracles are told besides."""
    oracle = settings.oracle
    extra = {
        "count": oracle.places,
        "deadline": oracle.deadline,
        "threads": oracle.threads,
        "sanity": Sanity(oracle.bounds, oracle.converged),
        "memory": oracle.memory,
    }
    return {"budget": oracle.restarts, "extra": extra}
