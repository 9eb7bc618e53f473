"""What no sample may be, whichever selector looks at it: the setting `selector.reject`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pal.records import BARE, Array, Arrays, Batch, Sample, named

_FORCES: Final = ("forces", "state_forces")

_DENSE: Final = 400
"""Atoms up to which all distances at once are the fastest way."""


class Screen:
    """Tells what is unphysical about samples.

    Options:
        min_distance: two atoms nearer than this fraction of the sum of their covalent radii
            (Cordero et al., Dalton Trans. 2008, 2832) overlap.
        max_force: in eV/Å; a larger component of the mean forces is not physical.
        bounds: for fields of the sample the smallest and the largest value of any element.
    """

    def __init__(
        self,
        *,
        min_distance: float | None = None,
        max_force: float | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self._min_distance = min_distance
        self._max_force = max_force
        self._bounds = bounds or {}

    def exploded(self, mean: Batch) -> dict[int, str]:
        """Say of those samples whose predicted forces exploded what is wrong."""
        most = self._max_force
        if most is None:
            return {}
        return {
            index: f"a predicted force of {value:g} eV/Å exceeds {most:g}"
            for index, value in _beyond(mean, _FORCES, -most, most)
        }

    def outside(self, samples: Batch) -> dict[int, str]:
        """Say of those samples that are out of bounds what is wrong."""
        return {
            index: f"{name} = {value:g} is outside [{low:g}, {high:g}]"
            for name, (low, high) in self._bounds.items()
            for index, value in _beyond(samples, (name, BARE), low, high)
        }

    def overlap(self, sample: Sample) -> str:
        """Say which atoms of a sample overlap, if any do."""
        if self._min_distance is None:
            return ""
        closest = contact(sample, self._min_distance)
        if closest is None:
            return ""
        first, second, distance = closest
        return f"atoms {first} and {second} are {distance:.2f} Å apart"


def _beyond(
    batch: Batch, names: tuple[str, ...], low: float, high: float
) -> Iterator[tuple[int, float]]:
    """Yield (index, value) for the records of which an element of these fields is outside."""
    for indices, group in batch.groups() if not batch.uniform else ((None, batch),):
        columns = group.columns
        for column in (columns[name] for name in names if name in columns):
            if column.min(initial=high) >= low and column.max(initial=low) <= high:
                continue
            flat = column.reshape(len(column), -1)
            for row in np.flatnonzero(((flat < low) | (flat > high)).any(axis=1)).tolist():
                wrong = flat[row][(flat[row] < low) | (flat[row] > high)]
                yield row if indices is None else indices[row], float(wrong[0])


def contact(sample: Sample, fraction: float) -> tuple[int, int, float] | None:
    """Return the atoms nearest to each other, by their radii, of those that overlap.

    Two atoms overlap where they are nearer than `fraction` of the sum of their covalent radii.
    What is no atoms has none that do.
    """
    if not (isinstance(sample, Mapping) and {"positions", "numbers"} <= sample.keys()):
        return None
    radii = _radii()[np.asarray(sample["numbers"])] * fraction
    first, second, distances = _near(named(sample), 2 * radii.max(initial=0.0))
    excess = distances - radii[first] - radii[second]
    if not (excess < 0).any():
        return None
    worst = int(np.argmin(excess))
    return int(first[worst]), int(second[worst]), float(distances[worst])


@cache
def _radii() -> NDArray[np.float64]:
    from ase.data import covalent_radii  # only where there are atoms

    return np.asarray(covalent_radii, float)


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
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(np.asarray(cell, float)))


def _heights(cell: Array) -> NDArray[np.float64]:
    """Return the distances between opposite faces of a cell."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def _listed(
    positions: Array, cell: Array, pbc: Array, cutoff: float
) -> tuple[Array, Array, Array]:
    """Return the pairs of many atoms, or of a small cell, cell by cell."""
    from ase.neighborlist import primitive_neighbor_list

    if not pbc.any():  # a box around them, which that divides into cells
        positions = positions - positions.min(axis=0)
        cell = np.diag(positions.max(axis=0) + cutoff)
    result: tuple[Any, Any, Any] = primitive_neighbor_list("ijd", pbc, cell, positions, cutoff)
    return result
