"""The first geometries, before there is any model: the minima, turned and shaken."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pal.kernels.atoms import read_samples, to_atoms, to_sample
from pal.records import Sample

START = Path(__file__).with_name("alanine.xyz")
METHYLS = [
    ((6, 4, 1, 0), [0, 2, 3]),
    ((6, 8, 10, 11), [11, 12, 13]),
    ((14, 16, 18, 19), [19, 20, 21]),
]
BACKBONE = [((4, 6, 8, 14), range(9, 22)), ((6, 8, 14, 16), range(15, 22))]
"""Four atoms that define a dihedral angle, and the atoms that turn with it."""


def distorted(
    count: int = 16, turn: float = 10.0, spread: float = 0.03, seed: int = 0
) -> Iterator[Sample]:
    """Yield the minima in turn.

    Methyl groups point anywhere, the backbone's angles differ by about `turn` (degrees), and each
    coordinate by about `spread` (Å): soft motions far, stiff ones a little.
    """
    rng = np.random.default_rng(seed)
    minima = read_samples(START)
    for number in range(count):
        atoms = to_atoms(minima[number % len(minima)])
        for four, moving in METHYLS:
            atoms.rotate_dihedral(*four, rng.uniform(0, 360), indices=moving)
        for four, moving in BACKBONE:
            atoms.rotate_dihedral(*four, rng.normal(0, turn), indices=moving)
        atoms.positions += rng.normal(0.0, spread, atoms.positions.shape)
        yield to_sample(atoms)
