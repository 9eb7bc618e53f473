"""What an agent's node has: its name, cores and graphics processors, and who shares them."""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HEAD = 0
"""The rank of the agent that leads the campaign."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the agent of one rank may use.

    `cores` are numbers of processor cores, `devices` numbers of graphics processors as CUDA
    counts them. `of`: how many cores the whole machine has.
    """

    rank: int
    host: str
    cores: tuple[int, ...]
    devices: tuple[str, ...] = ()
    of: int = 0

    def __str__(self) -> str:
        cores = f"{len(self.cores)} core{'s' if len(self.cores) != 1 else ''}"
        gpus = f", GPU {', '.join(self.devices)}" if self.devices else ""
        return f"node {self.rank} on {self.host} ({cores}{gpus})"


def deal(items: Sequence[T], places: int) -> list[Sequence[T]]:
    """Deal items out to places in runs as even as possible, in order."""
    bounds = [place * len(items) // places for place in range(places + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def spread(count: int, places: int) -> list[tuple[int, ...]]:
    """Spread numbers 0..count-1 over places as evenly as possible, in order."""
    return [tuple(run) for run in deal(range(count), places)]


def available_cores() -> list[int]:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_devices(folder: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the graphics processors this process may use, without loading a library for it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(number.strip() for number in visible.split(",") if number.strip())
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in folder.glob("nvidia*"))
    return tuple(sorted((match[1] for match in found if match), key=int))


def this_machine(rank: int = 0) -> Machine:
    """Describe what this process may use."""
    cores = tuple(available_cores())
    return Machine(rank, socket.gethostname(), cores, available_devices(), os.cpu_count() or 1)


def _portions(items: tuple[T, ...], count: int) -> list[tuple[T, ...]]:
    """Deal items to places in runs as even as possible; with too few, several share one."""
    if len(items) < count:
        return [(items[place % len(items)],) for place in range(count)]
    return [tuple(portion) for portion in deal(items, count)]


def shared(machines: Sequence[Machine]) -> tuple[Machine, ...]:
    """Let agents that were started several to a node share its cores and devices fairly.

    Those that the launcher has bound to different cores keep what they have.
    """
    cores = _shares(machines, lambda machine: machine.cores)
    devices = _shares(machines, lambda machine: machine.devices)
    return tuple(
        replace(machine, cores=cores[machine.rank], devices=devices[machine.rank])
        for machine in sorted(machines, key=lambda machine: machine.rank)
    )


def _shares(
    machines: Sequence[Machine], have: Callable[[Machine], tuple[T, ...]]
) -> dict[int, tuple[T, ...]]:
    """Divide what several agents of one host have in common; {rank: its share}."""
    together: dict[tuple[str, tuple[T, ...]], list[int]] = {}
    for machine in machines:
        together.setdefault((machine.host, have(machine)), []).append(machine.rank)
    return {
        rank: portion
        for (_, items), ranks in together.items()
        for rank, portion in zip(
            ranks, _portions(items, len(ranks)) if items else [()] * len(ranks), strict=True
        )
    }


def bound_tightly(machine: Machine, ranks_here: int) -> str:
    """Return a warning where a launcher has bound an agent to few of its machine's cores."""
    fair = machine.of // max(1, ranks_here)
    if len(machine.cores) * 4 > fair or sys.platform != "linux":
        return ""
    return (
        f"the agent on {machine.host} may use {len(machine.cores)} of {machine.of} cores, so all "
        "its workers share them: the launcher has bound it; start it with `mpirun --bind-to "
        "none`, or `srun --cpu-bind=none -c <cores>`"
    )
