"""What no geometry may look like, whatever the forces say: overlapping or lost atoms."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from pal.errors import ContractError
from pal.records import Array


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
        radii = covalent_radii[atoms.numbers]
        self._images = Images(atoms)
        self._touching = (min_distance * (radii[:, None] + radii)) ** 2
        self._farthest = max_distance**2
        self._idle = len(atoms) < 2 or (min_distance == 0 and max_distance == np.inf)
        if not self.hold(atoms.positions):
            raise ContractError(
                f"{kernel}: the geometry {atoms.get_chemical_formula()} in `start` has atoms that "
                f"overlap or stand alone, by min_distance = {min_distance} (fraction of the sum "
                f"of covalent radii) and max_distance = {max_distance} Å; correct it or change "
                "these options"
            )

    def hold(self, positions: Array) -> bool:
        """Whether positions (atoms, 3) in Å are within the bounds; not so where they are NaN."""
        if self._idle:
            return True
        vectors = self._images.shortest(positions[:, None] - positions)
        squares = np.einsum("abx,abx->ab", vectors, vectors)
        np.fill_diagonal(squares, np.inf)
        return bool((squares >= self._touching).all()) and bool(
            squares.min(axis=1).max() <= self._farthest
        )
