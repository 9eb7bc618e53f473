"""A round of the paper's photodynamics: 89 walkers, four networks of 805 outputs.

    python benchmarks/photodynamics_round.py                            # on CPUs
    python benchmarks/photodynamics_round.py --device cuda --oracles 12

The molecule is 3-methyl-4'-phenyl-diphenylsulfone: 38 atoms and seven states, so that a network
says 7 x (38 x 3 + 1) = 805 numbers of a geometry. The networks learn from labels first; then a
round is measured while PySCF labels and all members train, and with the same weights and nothing
else. TDDFT of seven states takes minutes here, too long for a benchmark: the ground state is
calculated, and the others are put above it (see `Ladder`). A round is the forward pass of the
whole committee, and the rest: selection, communication, and the propagation of all walkers.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import PalError
from pal.kernels.oracles.pyscf import PySCF
from pal.monitor.metrics import Snapshot
from pal.records import Array, Sample, named
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.testing.bench import machine

WALKERS, MEMBERS, STATES = 89, 4, 7
GEOMETRIES = Path(__file__).parents[1] / "examples" / "photodynamics" / "sulfone.xyz"
PAPER = {"forward": 51.5, "rest": 4.27}
"""Milliseconds, as published, on two GPU nodes."""


class Ladder:
    """A label that keeps a core busy as PySCF does: the ground state by HF/STO-3G, and above it a
    ladder of states, 0.4 eV apart, with other lengths of the bonds from sulphur to carbon.
    """

    def __init__(self, context: Context) -> None:
        options: dict[str, Any] = {"functional": "HF", "basis": "STO-3G", "max_force": 1000.0}
        self._ground = PySCF(context, density_fitting=True, convergence=1e-7, **options)

    def label(self, sample: Sample) -> dict[str, Array]:
        """Return `energies` (7,) and `state_forces` (7, 38, 3)."""
        ground = named(self._ground.label(sample))
        positions, numbers = sample["positions"], sample["numbers"]
        arms = positions - positions[0]
        lengths = np.linalg.norm(arms, axis=1)
        rungs = np.arange(STATES, dtype=float)
        energies = ground["energy"] + 3.0 * (rungs > 0) + 0.4 * rungs
        forces = np.repeat(ground["forces"][None], STATES, axis=0)
        for atom in np.flatnonzero((numbers == 6) & (lengths < 2.4)):
            pull = 0.5 * rungs
            energies -= pull * (lengths[atom] - 1.77)
            push = pull[:, None] * arms[atom] / lengths[atom]
            forces[:, atom] += push
            forces[:, 0] -= push
        return {"energies": energies, "state_forces": forces}


@dataclass(frozen=True)
class Round:
    """Mean milliseconds of a round's parts, and what else was done in that time."""

    forward: float
    rest: float
    rounds: int
    labels: int
    epochs: int

    @property
    def whole(self) -> float:
        """Milliseconds of a round."""
        return self.forward + self.rest

    @classmethod
    def between(cls, first: Snapshot, last: Snapshot) -> Round:
        """Measure from one snapshot to another."""
        rounds = last.rounds - first.rounds
        if not rounds:
            raise PalError("no round was made in the time of the measurement; give more --seconds")
        forward = 1e3 * (last.totals["prediction"] - first.totals["prediction"]) / rounds
        whole = 1e3 * (last.time - first.time) / rounds
        labels, epochs = last.labelled - first.labelled, last.epochs - first.epochs
        return cls(forward, whole - forward, rounds, labels, epochs)


def settings(given: argparse.Namespace, place: Mapping[str, Any]) -> dict[str, Any]:
    """Return the campaign's settings; the kernels are those of the example."""
    return {
        "generator": {
            "kernel": "surface_hopping",
            "walkers": WALKERS,
            "options": {
                "start": str(GEOMETRIES),
                "initial_state": 3,
                "patience": 10,
                "max_force": 1000.0,
                "max_drift_eV": 1000.0,
                "min_distance": 0.2,
            },
            **place,
        },
        "model": {
            "kernel": "distance_network",
            "members": MEMBERS,
            "options": {"states": STATES, "hidden": given.hidden},
            "device": given.device,
            "train_device": given.train_device or given.device,
            "threads": given.threads,
        },
        "oracle": {"kernel": Ladder, "workers": given.oracles, "grace": 0},
        "selector": {
            "kernel": "deviation",
            "options": {"field": "state_forces", "threshold": 0.1, "every": 500},
        },
        "exchange": {"batching": "all"},
        "training": {"retrain_size": 4},
        "initial": {
            "kernel": "frames",
            "options": {"start": str(GEOMETRIES), "count": given.initial},
        },
    }


def measured(given: argparse.Namespace, directory: Path, chosen: Mapping[str, Any]) -> Round:
    """Run a campaign until it has gone round for long enough."""
    stop = {"after": given.limit, "final_training": 0}
    running = Campaign(directory=str(directory), fresh=True, stop=stop, **chosen)
    seen: list[Snapshot] = []
    for news in running:
        if isinstance(news, Snapshot) and news.rounds:
            seen.append(news)
            # The first snapshots fall into the start.
            if len(seen) > 3 and news.time - seen[2].time >= given.seconds:
                break
    if len(seen) < 4:
        raise PalError(
            f"the walkers had not begun after {given.limit:g} s: the first {given.initial} labels "
            "took too long; give more --oracles, fewer --initial, or a longer --limit"
        )
    return Round.between(seen[2], seen[-1])


def row(name: str, place: str, found: Round) -> str:
    """Return a line of the table."""
    return (
        f"| {name} | {place} | {found.forward:.2f} ms | {found.rest:.2f} ms "
        f"| {found.rounds} | {found.labels} | {found.epochs} |"
    )


def places(hosts: Sequence[int]) -> dict[str, Mapping[str, Any]]:
    """Return where the walkers may live, by what it is called; the first is that of both rows."""
    pooled = {f"pooled in {n} host{'s' * (n > 1)}": {"hosts": n} for n in hosts}
    return {**pooled, "in the committee's process": {"placement": "committee"}}


def table(given: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    homes = places(given.hosts)
    first = next(iter(homes))
    print("| | walkers | forward pass | rest of the round | rounds | labels | epochs |")
    print("|---|---|---|---|---|---|---|")
    print(f"| published | two nodes, MPI | {PAPER['forward']} ms | {PAPER['rest']} ms | | | |")
    busy = measured(given, folder / "busy", settings(given, homes[first]))
    print(row("with oracles and training", first, busy), flush=True)
    ratios = {}
    weights = sorted((folder / "busy" / "models").glob("v*"))[-1]
    for place, home in homes.items():
        alone = settings(given, home)
        alone["model"] |= {"train": False, "weights": str(weights)}
        alone["oracle"]["enabled"] = False
        del alone["initial"]
        runs = [measured(given, folder / "alone", alone) for _ in range(given.repeats)]
        middle = sorted(runs, key=lambda run: run.whole)[len(runs) // 2]
        print(row("the same weights, nothing else", place, middle), flush=True)
        ratios[place] = busy.whole / middle.whole
    print(f"\nA round with oracles and training takes {ratios[first]:.2f} times that without.")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", help="of the predictors: cpu, cuda")
    parser.add_argument("--train-device", help="of the trainer; default: as --device")
    parser.add_argument("--oracles", type=int, default=1, help="PySCF processes, a core each")
    parser.add_argument("--initial", type=int, default=8, help="labels before the walkers start")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1], help="processes of walkers")
    parser.add_argument("--threads", type=int, default=1, help="of the predictor and the trainer")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a measurement")
    parser.add_argument("--limit", type=float, default=600.0, help="longest campaign, in seconds")
    parser.add_argument(
        "--repeats", type=int, default=1, help="without oracles; the median counts"
    )
    given = parser.parse_args(argv)
    print(f"Machine: {machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        table(given, Path(folder))


if __name__ == "__main__":
    main()
