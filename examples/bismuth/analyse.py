"""Judge a campaign size by size and charge by charge, and run long dynamics on what it learned.

    python examples/bismuth/analyse.py small.toml
    python examples/bismuth/analyse.py small.toml --dynamics 10 --pictures docs/img

Compares the weights that were trained on the first labels only ("pre-trained") with the last
ones ("improved"): errors on the held-out data, and how many of the trajectories on the committee's
mean forces stay intact. Prints tables, and draws them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import units
from ase.data import atomic_masses

from pal.building import joined, nested
from pal.errors import LabelFailure
from pal.kernels.atoms import read_samples
from pal.ledger.export import read_labelled
from pal.records import Array, Batch, LabelledSample, Sample, as_members, named
from pal.roles import Context, Oracle
from pal.runtime.weights import fetch
from pal.settings import Settings, load

HERE = Path(__file__).parent
STAGES = ("pre-trained", "improved")
BASELINE = "GFN1-xTB alone"
COLOURS = {BASELINE: "#e8c468", "pre-trained": "#bbbbbb", "improved": "#2277cc"}
FIELDS = ("energy", "forces")
STEP_FS, WATCH_EVERY = 5.0, 100
STEP = STEP_FS * units.fs
NEAREST, FARTHEST, STRONGEST = 2.2, 4.5, 20.0
"""Å, Å, eV/Å: an intact cluster has no atoms nearer than the first, none farther from all others
than the second, and no force component beyond the third."""


class System(NamedTuple):
    """What the tables have a row for."""

    size: int
    charge: int


def system(sample: Sample) -> System:
    """Return size and charge of a cluster."""
    return System(len(sample["numbers"]), int(sample["charge"]))


def versions(run: Path) -> dict[str, Path]:
    """Return the folders with the weights of the two stages."""
    labels = {
        path.parent: json.loads(path.read_text())["labels"]
        for path in sorted((run / "models").glob("v*/facts.json"))
    }
    early = [folder for folder, count in labels.items() if count == min(labels.values())]
    return dict(zip(STAGES, (early[-1], list(labels)[-1]), strict=True))


class Learned:
    """The committee of a campaign with the weights of one version."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        table = {"kernel": settings.model.kernel, "options": settings.model.options}
        weights = fetch(folder)
        members = []
        for index, arrays in weights.items():
            context = Context("model", index, len(weights), index, folder)
            members.append(nested("model", table, context, "analyse"))
            members[-1].set_weights(arrays)
        self._committee = joined(members)
        self._size = len(members)

    def labels(self, samples: Sequence[Sample]) -> list[dict[str, Array]]:
        """Return the mean of the members' energies and forces for each sample."""
        predicted = self._committee.predict(Batch(samples))
        members = as_members(predicted, self._size, len(samples), "analyse")
        return [
            {name: np.mean([member[name] for member in labels], axis=0) for name in FIELDS}
            for labels in zip(*members, strict=True)
        ]


class Cheap:
    """The baseline of delta learning, as if it were all that is known."""

    def __init__(self, settings: Settings) -> None:
        context = Context("oracle", 0, 1, 0, HERE)
        baseline = settings.model.options["baseline"]
        self._oracle: Oracle = nested("oracle", baseline, context, "analyse")

    def labels(self, samples: Sequence[Sample]) -> list[dict[str, Array]]:
        """Return the labels of the cheap method."""
        return [named(self._oracle.label(sample)) for sample in samples]


# -- errors on held-out data


class Errors(NamedTuple):
    """Root mean square errors of force components and of energies per atom."""

    forces: float
    """meV/Å"""
    energy: float
    """meV/atom"""


def errors(learned: Learned | Cheap, data: Sequence[LabelledSample]) -> dict[System, Errors]:
    """Return the errors of each system."""
    squares: dict[System, list[tuple[float, float]]] = {}
    for item, label in zip(data, learned.labels([item.sample for item in data]), strict=True):
        miss = {name: label[name] - item.label[name] for name in FIELDS}
        energy = float(miss["energy"]) / len(miss["forces"])
        squares.setdefault(system(item.sample), []).append(
            (float(np.square(miss["forces"]).mean()), energy**2)
        )
    return {
        key: Errors(*(1000 * np.sqrt(np.mean(values, axis=0))).tolist())
        for key, values in sorted(squares.items())
    }


def table(title: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    for row in (title, ["---"] * len(title), *rows):
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def print_errors(found: Mapping[str, Mapping[System, Errors]], trained: set[int]) -> None:
    """Print the errors of all systems at each stage; energies of those that learned them."""
    heads = [f"forces, {stage}" for stage in found] + [f"energy, {stage}" for stage in STAGES]
    rows = [
        [
            f"Bi{key.size}" + ("" if key.size in trained else ", left out"),
            f"{key.charge:+d}",
            *(f"{stage[key].forces:.0f}" for stage in found.values()),
            *(f"{found[stage][key].energy:.0f}" for stage in STAGES),
        ]
        for key in found[STAGES[0]]
    ]
    print("Root mean square errors, meV/Å and meV/atom:\n")
    table(["cluster", "charge", *heads], rows)
    for name, wanted in (("of sizes that were trained", True), ("of the size left out", False)):
        means = [
            np.mean(
                [error.forces for key, error in each.items() if (key.size in trained) == wanted]
            )
            for each in found.values()
        ]
        text = ", ".join(f"{stage} {mean:.0f}" for stage, mean in zip(found, means, strict=True))
        print(f"Mean force error {name}: {text} meV/Å")
    print()


# -- long dynamics


class Journey(NamedTuple):
    """How trajectories went, one entry for each."""

    systems: list[System]
    picoseconds: float
    """How long they were to be."""
    lived_ps: Array
    """Until the cluster broke."""
    drift: Array
    """Change of the total energy per atom in eV, until then."""
    seen: list[Sample]
    """Geometries on the way."""
    forces: list[Array]
    """The committee's mean forces there."""


@dataclass
class Cluster:
    """One that moves by velocity Verlet (Swope et al., J. Chem. Phys. 76, 637 (1982))."""

    sample: dict[str, Array]
    masses: Array
    velocities: Array
    label: Mapping[str, Array]
    lived: int = 0

    def kick(self) -> None:
        """Change the velocities by half a step of the forces."""
        self.velocities = self.velocities + 0.5 * STEP * self.label["forces"] / self.masses

    def move(self) -> None:
        """Change the positions by a step of the velocities."""
        self.sample["positions"] = self.sample["positions"] + STEP * self.velocities

    def total(self) -> float:
        """Return potential and kinetic energy per atom in eV."""
        kinetic = 0.5 * float((self.masses * self.velocities**2).sum())
        return (float(self.label["energy"]) + kinetic) / len(self.masses)


def travel(
    learned: Learned, starts: Sequence[Sample], picoseconds: float, kelvins: Sequence[float]
) -> Journey:
    """Run each start at each temperature at constant energy, until it breaks."""
    rng = np.random.default_rng(0)
    clusters = [
        begin(start, label, kelvin, rng)
        for start, label in zip(starts, learned.labels(starts), strict=True)
        for kelvin in kelvins
    ]
    first = np.array([cluster.total() for cluster in clusters])
    seen: list[Sample] = []
    forces: list[Array] = []
    moving = list(clusters)
    for number in range(round(1000 * picoseconds / STEP_FS)):
        if not moving:
            break
        for cluster in moving:
            cluster.kick()
            cluster.move()
        labels = learned.labels([cluster.sample for cluster in moving])
        for cluster, label in zip(moving, labels, strict=True):
            cluster.label = label
            cluster.kick()
        moving = [cluster for cluster in moving if intact(cluster.sample, cluster.label)]
        for cluster in moving:
            cluster.lived += 1
        if number % WATCH_EVERY == 0:
            seen += [dict(cluster.sample) for cluster in moving]
            forces += [cluster.label["forces"] for cluster in moving]
    drift = np.array([cluster.total() for cluster in clusters]) - first
    lived = np.array([cluster.lived for cluster in clusters]) * STEP_FS / 1000
    systems = [system(cluster.sample) for cluster in clusters]
    return Journey(systems, picoseconds, lived, drift, seen, forces)


def begin(
    start: Sample, label: Mapping[str, Array], kelvin: float, rng: np.random.Generator
) -> Cluster:
    """Return a cluster with random velocities, as a whole at rest.

    At a minimum, half of the first kinetic energy soon is potential energy, so velocities are
    drawn for twice the temperature.
    """
    masses = atomic_masses[start["numbers"]][:, None]
    velocities = rng.normal(size=(len(masses), 3)) * np.sqrt(2 * units.kB * kelvin / masses)
    velocities -= (masses * velocities).sum(0) / masses.sum()
    return Cluster(dict(start), masses, velocities, label)


def intact(sample: Sample, label: Mapping[str, Array]) -> bool:
    """Whether a cluster is one, and has forces that a cluster may have."""
    positions = np.asarray(sample["positions"])
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1)
    np.fill_diagonal(apart, np.inf)
    strongest = np.abs(label["forces"]).max()
    return bool(
        apart.min() > NEAREST and apart.min(axis=1).max() < FARTHEST and strongest < STRONGEST
    )


def true_error(journey: Journey, oracle: Oracle) -> float:
    """Return the root mean square force error where the trajectories went, in meV/Å."""
    squares = []
    for sample, forces in zip(journey.seen, journey.forces, strict=True):
        try:
            label = oracle.label(sample)
        except LabelFailure:
            continue
        squares.append(np.square(forces - label["forces"]).mean())
    return 1000 * float(np.sqrt(np.mean(squares)))


def print_dynamics(found: Mapping[str, Journey], trained: set[int]) -> None:
    """Print how many trajectories stayed whole, by size."""
    length = found[STAGES[0]].picoseconds
    rows = []
    for size in sorted({key.size for key in found[STAGES[0]].systems}):
        row = [f"Bi{size}" + ("" if size in trained else ", left out")]
        for journey in found.values():
            own = np.array([key.size == size for key in journey.systems])
            whole = own & np.isclose(journey.lived_ps, length)
            row += [f"{whole.sum()} of {own.sum()}"]
            row += [f"{1000 * np.median(np.abs(journey.drift[whole])):.1f}" if whole.any() else ""]
        rows.append(row)
    heads = [f"{stage}: {what}" for stage in STAGES for what in ("intact", "drift, meV/atom")]
    print(f"Trajectories of {length:.0f} ps that stayed intact; median of their energy drift:\n")
    table(["cluster", *heads], rows)


def draw(found: Mapping[str, Mapping[System, Errors]], trained: set[int], path: Path) -> None:
    """Draw the force errors of all systems before and after."""
    from matplotlib.figure import Figure

    systems = list(found[STAGES[0]])
    figure = Figure(figsize=(0.5 * len(systems) + 2, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(systems))
    width = 0.8 / len(found)
    for number, (stage, each) in enumerate(found.items()):
        shift = (number - (len(found) - 1) / 2) * width
        heights = [each[key].forces for key in systems]
        axes.bar(places + shift, heights, width, label=stage, color=COLOURS[stage])
    axes.set_xticks(places, [_name(key, trained) for key in systems])
    axes.set_ylabel("force error, meV/Å (RMS)")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    print(path)


def _name(key: System, trained: set[int]) -> str:
    charge = {-1: "$^-$", 0: "", 1: "$^+$"}[key.charge]
    return f"Bi$_{key.size}${charge}" + ("" if key.size in trained else "\nleft\nout")


def main() -> None:
    """Analyse one campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", type=Path, help="settings file of a campaign that was run")
    parser.add_argument("--directory", type=Path, help="its run directory, if another one")
    parser.add_argument("--dynamics", type=float, metavar="PS", help="run dynamics of this length")
    parser.add_argument("--kelvin", type=float, nargs="+", default=[300.0, 900.0])
    parser.add_argument("--pictures", type=Path, help="folder for pictures")
    given = parser.parse_args()
    settings = load(given.settings)
    run = given.directory or settings.directory
    assert settings.evaluation.data is not None
    data = read_labelled(settings.evaluation.data)
    trained = {len(item.sample["numbers"]) for item in read_labelled(run / "dataset.extxyz")}
    learned = {stage: Learned(settings, path) for stage, path in versions(run).items()}
    found = {stage: errors(each, data) for stage, each in learned.items()}
    if "baseline" in settings.model.options:
        found = {BASELINE: errors(Cheap(settings), data), **found}
    print_errors(found, trained)
    sizes = {key.size for key in found[STAGES[0]]}
    if given.dynamics:
        # Frames are sorted: the lowest isomers of all systems come first.
        starts = {
            system(s): s
            for s in reversed(read_samples(HERE / "clusters.xyz"))
            if len(s["numbers"]) in sizes
        }
        journeys = {
            s: travel(each, list(starts.values()), given.dynamics, given.kelvin)
            for s, each in learned.items()
        }
        print_dynamics(journeys, trained)
        if settings.oracle.kernel == "xtb":
            oracle = nested(
                "oracle",
                {"kernel": "xtb", "options": settings.oracle.options},
                Context("oracle", 0, 1, 0, run),
                "analyse",
            )
            for stage, journey in journeys.items():
                print(
                    f"true force error on the way, {stage}: "
                    f"{true_error(journey, oracle):.0f} meV/Å"
                )
    if given.pictures is not None:
        draw(found, trained, given.pictures / f"bismuth-{given.settings.stem}.svg")


if __name__ == "__main__":
    main()
