"""Placement: which processes a campaign has on this machine, with which threads and cores."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pal.building import METHODS, KernelSpec
from pal.catalogue import check_installed, check_options
from pal.exchange.batching import All, Batching, Ready
from pal.runtime.orders import Job
from pal.runtime.outside.wanted import executor_spec
from pal.settings import Settings


@dataclass(frozen=True, slots=True)
class Placement:
    """The jobs of one node."""

    jobs: tuple[Job, ...]
    cores: int

    def of(self, role: str) -> list[Job]:
        """Return the jobs of one role."""
        return [job for job in self.jobs if job.role == role]

    def lines(self) -> list[str]:
        """Describe the placement, a line for each kind of process."""
        lines = []
        for job in self.jobs:
            what = _describe(job)
            pinned = f", core {','.join(map(str, job.cores))}" if job.cores else ""
            threads = f"{job.threads} thread{'s' if job.threads > 1 else ''}"
            lines.append(f"{job.name}: {what} ({threads}, {job.device}{pinned})")
        return lines


def _describe(job: Job) -> str:
    if job.role == "exchange":
        seat = f"members {_span(job.members)}" if job.members else "no members of its own"
        return seat + (f", walkers {_span(job.walkers)}" if job.walkers else "")
    if job.role == "generator":
        return f"walkers {_span(job.walkers)}"
    if job.role in ("predictor", "trainer"):
        return f"members {_span(job.members)}"
    if job.role == "broker":
        return f"labels beyond the job, {len(job.oracles)} at once"
    return "labels"


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def spread(count: int, places: int) -> list[tuple[int, ...]]:
    """Spread numbers 0..count-1 over places as evenly as possible, in order."""
    bounds = [place * count // places for place in range(places + 1)]
    return [tuple(range(a, b)) for a, b in itertools.pairwise(bounds)]


def available_cores() -> list[int]:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


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
) -> Placement:
    """Plan the processes of a campaign on this machine."""
    common: dict[str, Any] = {
        "kernels": kernels,
        "directory": directory,
        "seed": settings.seed,
        "home": home,
        "save_interval": settings.save_interval,
        "restarts": settings.restart.budget,
        "walker_count": settings.generator.walkers,
        "member_count": settings.model.members,
        "training": settings.model.train,
    }
    jobs = [
        *_exploration(settings, common),
        *_trainers(settings, common),
        *_oracles(settings, common),
    ]
    cores = available_cores()
    return Placement(tuple(_pinned(jobs, cores)), len(cores))


def _exploration(settings: Settings, common: dict[str, Any]) -> list[Job]:
    generator, model = settings.generator, settings.model
    tight = generator.placement == "committee"
    hosts = generator.walkers if generator.hosts == "each" else generator.hosts
    crews = [] if tight else spread(generator.walkers, min(hosts, generator.walkers))
    seats = spread(model.members, model.predictors) if model.predictors > 1 else []
    exchange = Job(
        "exchange",
        0,
        threads=model.threads,
        device=model.device,
        members=() if seats else tuple(range(model.members)),
        walkers=tuple(range(generator.walkers)) if tight else (),
        host_of=tuple(host for host, crew in enumerate(crews) for _ in crew),
        seats=tuple(seats),
        batching=batching(settings),
        serial=settings.mode == "serial",
        **common,
    )
    return [
        exchange,
        *(
            Job(
                "predictor",
                index,
                members=seat,
                threads=model.threads,
                device=_device(model.device, index),
                **common,
            )
            for index, seat in enumerate(seats)
        ),
        *(
            Job("generator", index, walkers=crew, threads=generator.threads, **common)
            for index, crew in enumerate(crews)
        ),
    ]


def _device(device: str, index: int) -> str:
    """Spread the processes of a kernel over several devices: 'cuda:0,1' gives each its own."""
    kind, _, numbers = device.partition(":")
    if "," not in numbers:
        return device
    several = numbers.split(",")
    return f"{kind}:{several[index % len(several)]}"


def _trainers(settings: Settings, common: dict[str, Any]) -> list[Job]:
    model = settings.model
    if not model.train:
        return []
    return [
        Job(
            "trainer",
            index,
            members=members,
            threads=model.threads,
            device=_device(model.train_device, index),
            weights_every=model.weights_every,
            bootstrap=settings.training.bootstrap,
            extra={"start": model.weights},
            **common,
        )
        for index, members in enumerate(spread(model.members, model.trainers))
    ]


def _oracles(settings: Settings, common: dict[str, Any]) -> list[Job]:
    oracle = settings.oracle
    if not oracle.enabled:
        return []
    count = oracle.places
    extra = {"count": count, "deadline": oracle.deadline, "threads": oracle.threads}
    jobs = [
        Job("oracle", index, threads=oracle.threads, oracles=(index,), extra=extra, **common)
        for index in range(oracle.workers)
    ]
    if oracle.executor is not None:
        beyond = tuple(range(oracle.workers, count))
        jobs.append(Job("broker", 0, oracles=beyond, extra=extra, **common))
    return jobs


def _pinned(jobs: list[Job], cores: list[int]) -> list[Job]:
    """Give each process cores of its own, where there are enough for all of them."""
    # A broker only waits; and what its executor starts on this machine must not share one core.
    wanted = [0 if job.role == "broker" else job.threads for job in jobs]
    if sum(wanted) > len(cores):
        return jobs
    free = iter(cores)
    return [
        replace(job, cores=tuple(next(free) for _ in range(count)))
        for job, count in zip(jobs, wanted, strict=True)
    ]
