"""Molecular dynamics of 256 walkers as arrays, against as many objects with ASE's integrators.

    python benchmarks/kernels_dynamics.py     # about 20 minutes

The same committee of four, thermostat, time step and rules; no labels, no training. Prints
Markdown, for benchmarks/README.md. Times are medians over repeats, ratios are taken within one.
A round is measured in a running campaign, by the clock; a step of all walkers by itself, in
processor time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from pal.building import build_ensemble
from pal.kernels.generators.batched_dynamics import BatchedDynamics
from pal.kernels.generators.dynamics import Dynamics
from pal.monitor.metrics import Snapshot
from pal.records import Array, Batch, Feedbacks
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.testing.bench import machine
from pal.testing.noop import Content, Sleeper

WALKERS, MEMBERS = 256, 4
REPEATS = 3
SECONDS = 8.0
STIFFNESS = 5.0  # eV/Å^2

PLACES: Mapping[str, Mapping[str, Any]] = {
    "in the committee's process": {"placement": "committee"},
    "in one pooled host": {"hosts": 1},
}
KERNELS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "arrays": (BatchedDynamics, {}),
    # Without the check of distances, which the arrays do not have.
    "objects": (Dynamics, {"integrator": "langevin", "min_distance": 0.0}),
}


class Springs:
    """The cheapest member that keeps a molecule together: each atom is tied to its place."""

    def __init__(self, context: Context, *, home: Sequence[Sequence[float]]) -> None:
        self._home = np.array(home)
        self._stiffness = STIFFNESS * (1 + 0.01 * context.index)

    def predict(self, samples: Batch) -> dict[str, Array]:
        forces = (self._home - samples["positions"]) * self._stiffness
        return {"energy": np.zeros(len(samples)), "forces": forces}


@dataclass(frozen=True)
class Case:
    """A molecule and its committee."""

    name: str
    atoms: Atoms
    model: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name} ({len(self.atoms)} atoms)"


def cases() -> list[Case]:
    """Return a trivial committee, and one of networks, for a small and for a larger molecule."""
    found = []
    for name, atoms in (("ethanol", molecule("CH3CH2OH")), ("alanine dipeptide", alanine())):
        springs = {"kernel": Springs, "options": {"home": atoms.positions.tolist()}}
        found.append(Case(f"{name}, springs", atoms, springs))
        found.append(Case(f"{name}, distance_network", atoms, {"kernel": "distance_network"}))
    return found


def alanine() -> Atoms:
    """Return the molecule of the example."""
    folder = Path(__file__).parents[1] / "examples" / "alanine"
    return read(next(folder.glob("*.xyz")))


def options(case: Case, kernel: str, folder: Path) -> dict[str, Any]:
    """Return the options of one of the `KERNELS`."""
    write(folder / "start.xyz", Atoms(case.atoms.numbers, case.atoms.positions))
    common = {"start": str(folder / "start.xyz"), "timestep_fs": 0.5, "max_force": 1000.0}
    return {**common, **KERNELS[kernel][1]}


def step_time(case: Case, kernel: str, seconds: float) -> float:
    """Seconds that a step of all walkers takes by itself: no committee, no exchange."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = options(case, kernel, Path(folder))
        walkers = [
            KERNELS[kernel][0](Context("walker", k, WALKERS, k, Path(folder)), **chosen)
            for k in range(WALKERS)
        ]
    ensemble = build_ensemble(walkers) if kernel == "arrays" else None
    everyone = np.arange(WALKERS)
    positions = np.repeat(case.atoms.positions[None], WALKERS, axis=0)
    if ensemble is not None:
        ensemble.step(everyone, None)
    else:
        for walker in walkers:
            walker.step(None)
    times: list[float] = []
    end = time.process_time() + seconds
    while time.process_time() < end:
        feedback = springs(positions, case.atoms.positions)
        start = time.process_time()
        if ensemble is not None:
            positions = ensemble.step(everyone, feedback)["positions"]  # type: ignore[call-overload]
            times.append(time.process_time() - start)
        else:
            samples = [w.step(f) for w, f in zip(walkers, feedback, strict=True)]
            times.append(time.process_time() - start)
            positions = np.array([sample["positions"] for sample in samples])
    return statistics.mean(times)


def springs(positions: Array, home: Array) -> Feedbacks:
    """Return what walkers hear of a committee of springs."""
    mean = Batch.stacked(
        {"energy": np.zeros(len(positions)), "forces": STIFFNESS * (home - positions)}
    )
    return Feedbacks(mean, mean, np.zeros(len(positions)), np.ones(len(positions), bool), 0)


def round_time(case: Case, kernel: str, place: str, seconds: float) -> float:
    """Seconds of a round of the exchange, all walkers predicted for at once, in a campaign."""
    with tempfile.TemporaryDirectory() as folder:
        running = Campaign(
            generator={
                "kernel": KERNELS[kernel][0],
                "walkers": WALKERS,
                "options": options(case, kernel, Path(folder)),
                **PLACES[place],
            },
            model={**case.model, "members": MEMBERS, "train": False},
            oracle={"kernel": Sleeper, "enabled": False},
            selector=Content,
            exchange={"batching": "all"},
            directory=f"{folder}/run",
            stop={"after": 300},
        )
        seen: list[Snapshot] = []
        for news in running:
            if isinstance(news, Snapshot) and news.rounds:
                seen.append(news)
                # The first snapshot falls into the start.
                if len(seen) > 2 and news.time - seen[1].time >= seconds:
                    break
    first, last = seen[1], seen[-1]
    return (last.time - first.time) / (last.rounds - first.rounds)


@dataclass(frozen=True)
class Measured:
    """One repeat of both kernels side by side; seconds of a round, and of the walkers' part."""

    rounds: Mapping[str, float]
    steps: Mapping[str, float]


def measure(
    case: Case, place: str, repeats: int = REPEATS, seconds: float = SECONDS
) -> list[Measured]:
    """Run both kernels in turn."""
    return [
        Measured(
            {kernel: round_time(case, kernel, place, seconds) for kernel in KERNELS},
            {kernel: step_time(case, kernel, 1.0) for kernel in KERNELS},
        )
        for _ in range(repeats)
    ]


def median(found: Sequence[Measured], value: Callable[[Measured], float]) -> float:
    return statistics.median(value(one) for one in found)


def table(repeats: int = REPEATS, seconds: float = SECONDS) -> None:
    """Print samples per second, and the share of a round that the walkers themselves need."""
    print(
        "| 256 walkers | where | samples/s, arrays | samples/s, ASE objects | ratio "
        "| a step of all, arrays | a step of all, objects | share of the round, arrays "
        "| share, objects |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for case in cases():
        for place in PLACES:
            found = measure(case, place, repeats, seconds)
            ratio = median(found, lambda m: m.rounds["objects"] / m.rounds["arrays"])
            cells = [str(case), place]
            cells += [
                f"{WALKERS / median(found, lambda m, k=k: m.rounds[k]):,.0f}" for k in KERNELS
            ]
            cells += [f"{ratio:.1f}"]
            cells += [f"{1e3 * median(found, lambda m, k=k: m.steps[k]):.2f} ms" for k in KERNELS]
            cells += [
                f"{median(found, lambda m, k=k: m.steps[k] / m.rounds[k]):.0%}" for k in KERNELS
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    print(f"Machine: {machine()}\n")
    given = [float(word) for word in sys.argv[1:]]
    table(int(given[0]) if given else REPEATS, given[1] if len(given) > 1 else SECONDS)
