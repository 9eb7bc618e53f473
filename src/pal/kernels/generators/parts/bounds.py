"""What no geometry may look like, whatever the forces say: overlapping or lost atoms."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from pal.errors import ContractError
from pal.records import Array

BLOCK = 256
"""Atoms whose distances to all others are in memory at a time."""


class Images:
    """The nearest periodic images; for molecules, which have none, vectors stay as they are.

    Rounding to the nearest cell is exact for vectors shorter than half the smallest distance
    between opposite faces of the cell.
    """

    def __init__(self, atoms: Atoms) -> None:
        self._periodic = np.asarray(atoms.pbc, dtype=float)
        self._cell = np.array(atoms.cell.complete(), dtype=float)
        self._inverse = np.linalg.inv(self._cell)

    def shortest(self, vectors: Array) -> Array:
        """Return the shortest equivalents of `vectors` (..., 3) in Å."""
        if not self._periodic.any():
            return vectors
        cells = np.round(vectors @ self._inverse) * self._periodic
        nearest: Array = vectors - cells @ self._cell
        return nearest


class Bounds:
    """Sanity bounds of a geometry.

    `min_distance`: the smallest distance of two atoms, as a fraction of the sum of their covalent
    radii (Cordero et al., Dalton Trans. 2832 (2008)); a bond has about 1. `max_distance`: the
    largest distance of an atom from its nearest neighbour, in Å: farther, it has left.

    Raises:
        ContractError: naming `kernel`; the atoms themselves are out of these bounds.
    """

    def __init__(
        self, atoms: Atoms, kernel: str, *, min_distance: float, max_distance: float = np.inf
    ) -> None:
        if not (0 <= min_distance < 1 and max_distance > 0):
            raise ContractError(
                f"{kernel}: expected 0 <= min_distance < 1 (a fraction of the sum of covalent "
                "radii; 0: no bound) and max_distance > 0 (Å); "
                f"got min_distance = {min_distance}, max_distance = {max_distance}"
            )
        self._images = Images(atoms)
        self._radii = min_distance * covalent_radii[atoms.numbers]
        self._farthest = max_distance
        self._idle = len(atoms) < 2 or (min_distance == 0 and max_distance == np.inf)
        self._seen, self._room = atoms.positions.copy(), -1.0
        if not self.hold(atoms.positions):
            raise ContractError(
                f"{kernel}: the geometry {atoms.get_chemical_formula()} in `start` has atoms that "
                f"overlap or stand alone, by min_distance = {min_distance} (fraction of the sum "
                f"of covalent radii) and max_distance = {max_distance} Å; correct it or change "
                "these options"
            )

    def hold(self, positions: Array) -> bool:
        """Whether positions (atoms, 3) in Å are within the bounds; not so where they are NaN.

        All pairs are looked at only after an atom has moved so far that they may be out.
        """
        if self._idle:
            return True
        moved = np.linalg.norm(positions - self._seen, axis=1).max()
        if 2 * moved < self._room:
            return True
        room = self._measure(positions)
        if not room >= 0:
            return False
        self._seen, self._room = positions.copy(), room
        return True

    def _measure(self, positions: Array) -> float:
        """Return by how much (Å) distances are within the bounds; negative where they are not."""
        room = np.inf
        for begin in range(0, len(positions), BLOCK):
            rows = slice(begin, begin + BLOCK)
            vectors = self._images.shortest(positions[rows, None] - positions)
            distances = np.sqrt(np.einsum("abx,abx->ab", vectors, vectors))
            np.fill_diagonal(distances[:, begin:], np.inf)
            spare = distances - (self._radii[rows, None] + self._radii)
            alone = self._farthest - distances.min(axis=1)
            room = np.minimum(room, np.minimum(spare.min(), alone.min()))
        return float(room)
