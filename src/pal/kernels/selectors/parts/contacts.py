"""Atoms that are nearer to each other than atoms can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase.data import covalent_radii
from ase.geometry import complete_cell
from ase.neighborlist import primitive_neighbor_list
from numpy.typing import NDArray

from pal.records import Array, Arrays, Sample, named

_DENSE: Final = 400
"""Atoms up to which all distances at once are the fastest way."""


def contact(sample: Sample, fraction: float) -> tuple[int, int, float] | None:
    """Return the atoms nearest to each other, by their radii, of those that overlap.

    Two atoms overlap where they are nearer than `fraction` of the sum of their covalent radii.
    What is no atoms has none that do.
    """
    if not (isinstance(sample, Mapping) and {"positions", "numbers"} <= sample.keys()):
        return None
    radii = covalent_radii[np.asarray(sample["numbers"])] * fraction
    first, second, distances = _near(named(sample), 2 * radii.max(initial=0.0))
    excess = distances - radii[first] - radii[second]
    if not (excess < 0).any():
        return None
    worst = int(np.argmin(excess))
    return int(first[worst]), int(second[worst]), float(distances[worst])


def _near(sample: Arrays, cutoff: float) -> tuple[Array, Array, Array]:
    """Return pairs of atoms, and their distances in Å; all that are nearer than the cutoff."""
    positions = np.asarray(sample["positions"], dtype=float)
    pbc = np.broadcast_to(np.asarray(sample.get("pbc", False), bool), 3)
    cell = _whole(sample["cell"]) if pbc.any() else np.eye(3)
    # Twice the cutoff between a cell's faces: each pair is met in one image at most.
    wide = not pbc.any() or bool((_heights(cell)[pbc] > 2 * cutoff).all())
    if len(positions) > _DENSE or not wide:
        return _listed(positions, cell, pbc, cutoff)
    vectors = positions[:, None] - positions
    if pbc.any():
        turns = np.rint(vectors @ np.linalg.inv(cell)) * pbc
        vectors -= turns @ cell
    squares = np.einsum("abx,abx->ab", vectors, vectors)
    first, second = np.nonzero(squares < cutoff * cutoff)
    pairs = first < second
    first, second = first[pairs], second[pairs]
    return first, second, np.sqrt(squares[first, second])


def _whole(cell: Array) -> Array:
    """Return a cell with a vector of its own for directions in which nothing repeats."""
    return np.asarray(complete_cell(np.asarray(cell, float)))


def _heights(cell: Array) -> NDArray[np.float64]:
    """Return the distances between opposite faces of a cell."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def _listed(
    positions: Array, cell: Array, pbc: Array, cutoff: float
) -> tuple[Array, Array, Array]:
    """Return the pairs of many atoms, or of a small cell, cell by cell."""
    if not pbc.any():  # a box around them, which that divides into cells
        positions = positions - positions.min(axis=0)
        cell = np.diag(positions.max(axis=0) + cutoff)
    result: tuple[Any, Any, Any] = primitive_neighbor_list("ijd", pbc, cell, positions, cutoff)
    return result
