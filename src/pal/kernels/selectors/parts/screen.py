"""What no sample may be, whichever selector looks at it: the setting `selector.reject`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from pal.records import BARE, Batch, Sample

_FORCES: Final = ("forces", "state_forces")


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
        if min_distance is not None:
            from pal.kernels.selectors.parts.contacts import contact  # needs ASE

            self._contact = contact
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
        closest = self._contact(sample, self._min_distance)
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
