"""An oracle for PAL; a model, a generator or a selector is published in the same way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pal import LabelFailure
from pal.errors import ContractError
from pal.records import Label, Sample


class Morse:
    """Morse potential between all pairs of atoms.

    The energy of a pair at the distance r is depth (1 - exp(-width (r - rest)))^2 - depth
    (Morse, Phys. Rev. 34, 57 (1929)).

    Options:
        depth: of the well, in eV.
        width: in 1/Å.
        rest: distance of the minimum, in Å.

    Example:
        [oracle]
        kernel = "morse"
        options = { depth = 4.7, width = 1.9, rest = 0.74 }
    """

    def __init__(self, *, depth: float = 4.7, width: float = 1.9, rest: float = 0.74) -> None:
        self._depth, self._width, self._rest = depth, width, rest

    def label(self, sample: Sample) -> Label:
        """Return `energy` () in eV and `forces` (atoms, 3) in eV/Å of `positions` in Å."""
        if not isinstance(sample, Mapping):
            raise ContractError("morse: expected a sample with the array 'positions'")
        positions = np.asarray(sample["positions"], dtype=float)
        first, second = np.triu_indices(len(positions), 1)
        vectors = positions[first] - positions[second]
        lengths = np.linalg.norm(vectors, axis=1)
        if (lengths < 1e-3).any():
            # Refusing is better than a label that would spoil the fit.
            raise LabelFailure("morse: two atoms are at the same place")
        decay = np.exp(-self._width * (lengths - self._rest))
        slope = 2 * self._depth * self._width * decay * (1 - decay)
        pulls = -(slope / lengths)[:, None] * vectors
        forces = np.zeros_like(positions)
        np.add.at(forces, first, pulls)
        np.add.at(forces, second, -pulls)
        energy = (self._depth * ((1 - decay) ** 2 - 1)).sum()
        return {"energy": np.asarray(energy), "forces": forces}
