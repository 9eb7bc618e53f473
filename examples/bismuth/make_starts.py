"""Write the clusters where walkers start: isomers of each size and charge.

Random heaps of atoms, relaxed with GFN1-xTB; of each size and charge the lowest ones that
differ. clusters.xyz holds all, the lowest isomers of all sizes and charges first, so that any
number of walkers is spread over them; bi2-bi3.xyz and bi4-bi8.xyz those that campaigns learn
from: Bi4, and Bi6, are the sizes left out. It takes about three minutes on one core; the results
are in the repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.io import write
from ase.optimize import BFGS
from tblite.ase import TBLite

HERE = Path(__file__).parent
SIZES = range(2, 9)
CHARGES = (-1, 0, 1)
TRIES, KEPT = 24, 3
FILES = {"clusters.xyz": SIZES, "bi2-bi3.xyz": (2, 3), "bi4-bi8.xyz": (4, 5, 7, 8)}
APART_EV = 0.05
"""Isomers whose energies differ by less count as one."""


def calculator(charge: int) -> TBLite:
    """Return GFN1-xTB with as few unpaired electrons as the cluster can have."""
    return TBLite(method="GFN1-xTB", charge=charge, verbosity=0)


def heap(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return positions (size, 3) in a ball, each atom with a neighbour and none too near."""
    while True:
        positions = rng.uniform(-1, 1, (size, 3)) * 2.4 * size ** (1 / 3)
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 99 * np.eye(size)
        if distances.min() > 2.4 and distances.min(axis=1).max() < 3.6:
            return positions


def isomers(size: int, charge: int, rng: np.random.Generator) -> Iterator[Atoms]:
    """Yield the lowest isomers found."""
    found: list[Atoms] = []
    for _ in range(TRIES):
        atoms = Atoms(f"Bi{size}", heap(size, rng), calculator=calculator(charge))
        try:
            if BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.01, steps=400):
                found.append(atoms)
        except CalculationFailed:
            continue
    found.sort(key=lambda atoms: atoms.get_potential_energy())
    last = -np.inf
    kept = 0
    for atoms in found:
        energy = atoms.get_potential_energy()
        if kept < KEPT and energy > last + APART_EV:
            last, kept = energy, kept + 1
            bare = Atoms(atoms.numbers, np.round(atoms.positions - atoms.get_center_of_mass(), 5))
            bare.info.update(charge=charge, isomer=kept)
            print(f"{atoms.symbols} {charge:+d} isomer {kept}: {energy:.3f} eV", flush=True)
            yield bare


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    frames = [
        atoms for size in SIZES for charge in CHARGES for atoms in isomers(size, charge, generator)
    ]
    frames.sort(key=lambda atoms: int(atoms.info["isomer"]))
    for name, sizes in FILES.items():
        write(HERE / name, [a for a in frames if len(a) in sizes], format="extxyz")
