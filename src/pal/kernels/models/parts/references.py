"""Reference energies of the elements: the large part of a total energy, which nobody need learn.

    E = sum_i reference(Z_i) + scale * network

Fitted to the first labels by least squares. Where the compositions do not determine them (one
molecule only, say), those of least norm are taken, which give the mean energy just as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pal.records import Array, Weights

NAMES: Final = ("elements", "references", "referenced", "scale")
"""The arrays that belong to the weights beside the network's."""

FLOOR: Final = 1e-3
"""The smallest scale in eV (eV/Å): labels at a minimum have no forces to speak of."""


class References:
    """`elements` (k,) atomic numbers, `energies` (k,) in eV, `known` (k,) bool: which are fitted.

    `scale`: the root mean square of the first forces, in eV/Å; the network's unit of energy, with
    lengths in Å.
    """

    def __init__(self, elements: Sequence[int]) -> None:
        self.elements = tuple(elements)
        self.energies: Array = np.zeros(len(self.elements))
        self.known: Array = np.zeros(len(self.elements), dtype=bool)
        self.scale = 1.0

    @property
    def fitted(self) -> bool:
        """Whether there has been anything to fit."""
        return bool(self.known.any())

    def compositions(self, numbers: Sequence[Array]) -> Array:
        """Return how many atoms of each element each system has: (n, k)."""
        table = np.asarray(self.elements)
        return np.array([(each[:, None] == table).sum(0) for each in numbers], dtype=float)

    def fit(self, numbers: Sequence[Array], energies: Array, forces: Sequence[Array]) -> None:
        """Fit energies of elements not seen before, and the scale, if it is the first time.

        `energies` (n,) in eV; `numbers` and `forces` (a, 3) in eV/Å of each system; without
        forces the scale is the spread of the energies per square root of the number of atoms.
        What is known stays: the network has learnt the rest.
        """
        counts = self.compositions(numbers)
        new = counts.any(0) & ~self.known
        if not new.any():
            return
        rows = counts[:, new].any(1)
        missing = energies[rows] - counts[rows] @ self.energies
        found = np.linalg.lstsq(counts[np.ix_(rows, new)], missing, rcond=1e-9)[0]
        if not self.fitted:
            left = (missing - counts[np.ix_(rows, new)] @ found) / np.sqrt(counts[rows].sum(1))
            sizes = np.concatenate([np.ravel(each) for each in forces]) if len(forces) else left
            self.scale = max(float(np.sqrt(np.square(sizes).mean())), FLOOR)
        self.energies[new] = found
        self.known |= new

    def weights(self) -> dict[str, Array]:
        """Return all of it as named arrays."""
        values = (self.elements, self.energies, self.known, self.scale)
        return {name: np.array(value) for name, value in zip(NAMES, values, strict=True)}

    @classmethod
    def of(cls, weights: Weights) -> References:
        """Undo `weights`."""
        references = cls([int(number) for number in weights["elements"]])
        references.energies = np.array(weights["references"], dtype=float)
        references.known = np.array(weights["referenced"], dtype=bool)
        references.scale = float(weights["scale"])
        return references
