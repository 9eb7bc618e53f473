"""Write the ways to the transition states of the reactions that campaigns explore.

    python make_paths.py        # 15 minutes on two cores; the results are in the repository

From random geometries of each reaction, in which one fragment leans over the other in any way, the
oracle's own transition states are searched, and dynamics runs off them. So the first samples hold
what random transfers never do: fragments at ease beside the hydrogen in transit, hydrogen bonds
between them included.

    paths.xyz    geometries on these ways, some steps apart, shuffled, without labels
    tops.xyz     the transition states found, where walkers begin their own searches
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write
from barriers import ORACLE, Surface
from make_reactions import fall

from pal.kernels.atoms import read_samples, to_atoms
from pal.kernels.generators.transfer import Transfer
from pal.records import Array, Sample
from pal.roles import Context

HERE = Path(__file__).parent
SEARCHES, TILT = 3, 60.0
"""Searches of each reaction, and by how many degrees its fragments lean at most."""
APART, LARGEST = 0.25, 15.0
"""Å that an atom has moved from one geometry to the next; eV/Å, of forces worth learning."""


class Watched(Surface):
    """The oracle's surface, which remembers where it was asked, but where forces are extreme."""

    def __init__(self) -> None:
        super().__init__(ORACLE)
        self.asked: list[Array] = []
        exact = self.label

        def label(sample: Sample) -> Any:
            found = exact(sample)
            if np.abs(found["forces"]).max() < LARGEST:
                self.asked.append(np.array(sample["positions"]))
            return found

        self.label = label


def spread(positions: list[Array]) -> Iterator[Array]:
    """Yield those of a path that differ from the last one yielded."""
    last = np.inf
    for each in positions:
        if np.abs(each - last).max() > APART:
            last = each
            yield each


surface = cache(Watched)


def ways(task: tuple[int, Sample]) -> tuple[list[Atoms], Atoms | None]:
    """Return geometries on the way from a start up and down again, and the transition state."""
    number, start = task
    atoms = to_atoms(start)
    surface().asked.clear()
    top = surface().transition(atoms)
    if top is not None:
        for _ in fall(surface(), top, number):
            pass
    path = [Atoms(atoms.numbers, each) for each in spread(surface().asked)]
    return path, None if top is None else Atoms(top.numbers, top.positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    reactions = HERE / "reactions.xyz"
    starts = Transfer(
        Context("generator", 0, 1, 0, HERE),
        start=reactions,
        atoms=[0, 1, 2],
        distances=[2.4, 2.8],
        stretch=0.1,
        tilt=TILT,
        scales=[0.02],
        count=SEARCHES * len(read_samples(reactions)),
    )
    paths: list[Atoms] = []
    tops: list[Atoms] = []
    with get_context("spawn").Pool(given.processes) as pool:
        for number, (path, top) in enumerate(pool.imap(ways, enumerate(starts)), 1):
            paths += path
            tops += [] if top is None else [top]
            print(f"{number} searches, {len(tops)} tops, {len(paths)} geometries", flush=True)
    shuffled = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]
    for name, frames in (("paths.xyz", shuffled), ("tops.xyz", tops)):
        for each in frames:
            each.positions = each.positions.round(3)
        write(HERE / name, frames, format="extxyz")


if __name__ == "__main__":
    main()
