"""Coordinates along which dynamics is biased: distances, angles, and their derivatives.

Values are in Å and radians here, and in Å and degrees where a user writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from ase import Atoms

from pal.errors import ContractError
from pal.kernels.generators.parts.bounds import Images
from pal.records import Array


def distance(arms: Array) -> tuple[float, Array]:
    """Length of `arms` (1, 3), and its derivative by them."""
    length = float(np.linalg.norm(arms[0]))
    return length, arms / length


def difference(arms: Array) -> tuple[float, Array]:
    """Length of the first of `arms` (2, 3) minus that of the second, and the derivative."""
    lengths = np.linalg.norm(arms, axis=1)
    signs = np.array([[1.0], [-1.0]])
    return float(lengths[0] - lengths[1]), signs * arms / lengths[:, None]


def angle(arms: Array) -> tuple[float, Array]:
    """Angle between `arms` (2, 3), from the corner to either end, and the derivative."""
    lengths = np.linalg.norm(arms, axis=1)
    one, other = arms / lengths[:, None]
    cosine = float(np.clip(one @ other, -1.0, 1.0))
    # At 0 and 180 degrees there is no direction of steepest ascent; any finite one will do.
    sine = max(np.sqrt(1.0 - cosine**2), 1e-6)
    slopes = np.array([cosine * one - other, cosine * other - one]) / (sine * lengths[:, None])
    return float(np.arccos(cosine)), slopes


def dihedral(arms: Array) -> tuple[float, Array]:
    """Dihedral angle of the chain of `arms` (3, 3), in (-pi, pi], and the derivative.

    Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996), with derivatives by bond vectors
    rather than by atoms.
    """
    first, axis, last = arms
    one, other = cross(first, axis), cross(axis, last)
    length = np.sqrt(axis @ axis)
    value = float(np.arctan2(length * first @ other, one @ other))
    # The perpendicular parts of the outer arms turn about the axis; 1e-12: atoms in a line.
    by_first = length * one / max(one @ one, 1e-12)
    by_last = length * other / max(other @ other, 1e-12)
    by_axis = -(first @ axis) / length**2 * by_first - (last @ axis) / length**2 * by_last
    return value, np.array([by_first, by_axis, by_last])


def cross(one: Array, other: Array) -> Array:
    """Return the cross product of two vectors; numpy's costs twenty times as much."""
    (a, b, c), (x, y, z) = one.tolist(), other.tolist()
    return np.array([b * z - c * y, c * x - a * z, a * y - b * x])


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of coordinate: which atoms its arms join (from, to), and how it is measured.

    `unit` is what a user writes, and `size` its value in Å or radians.
    """

    arms: tuple[tuple[int, int], ...]
    measure: Callable[[Array], tuple[float, Array]]
    unit: str
    size: float
    period: float = np.inf

    @property
    def atoms(self) -> int:
        """How many atoms define it."""
        return 1 + max(max(arm) for arm in self.arms)


KINDS: Final = {
    "distance": Kind(((0, 1),), distance, "Å", 1.0),
    "difference": Kind(((0, 1), (2, 3)), difference, "Å", 1.0),
    "angle": Kind(((1, 0), (1, 2)), angle, "degrees", np.pi / 180),
    "dihedral": Kind(((0, 1), (1, 2), (2, 3)), dihedral, "degrees", np.pi / 180, period=2 * np.pi),
}


class Coordinate:
    """A coordinate of certain atoms; in a cell, of their nearest images.

    Raises:
        ContractError: naming `kernel`; the kind is not known, or the atoms do not fit.
    """

    def __init__(self, kind: str, indices: Sequence[int], atoms: Atoms, kernel: str) -> None:
        if kind not in KINDS:
            raise ContractError(
                f"{kernel}: coordinate = '{kind}' is not known; expected one of {', '.join(KINDS)}"
            )
        self.kind = KINDS[kind]
        fits = len(indices) == self.kind.atoms and all(0 <= i < len(atoms) for i in indices)
        if not fits or any(indices[one] == indices[other] for one, other in self.kind.arms):
            raise ContractError(
                f"{kernel}: coordinate = '{kind}' needs {self.kind.atoms} indices of different "
                f"atoms from 0 to {len(atoms) - 1}; got atoms = {list(indices)}"
            )
        self._arms = np.zeros((len(self.kind.arms), len(atoms)))
        for row, (one, other) in zip(self._arms, self.kind.arms, strict=True):
            row[indices[one]], row[indices[other]] = -1.0, 1.0
        self._images = Images(atoms)

    def measure(self, positions: Array) -> tuple[float, Array]:
        """Return the value (Å or radians) and its derivative by positions, (atoms, 3)."""
        value, slopes = self.kind.measure(self._images.shortest(self._arms @ positions))
        return value, self._arms.T @ slopes

    def apart(self, value: float, centres: Array) -> Array:
        """Return value minus centres, by the shorter way around where it is periodic."""
        away: Array = np.asarray(value - centres)
        if np.isfinite(self.kind.period):
            away = away - self.kind.period * np.round(away / self.kind.period)
        return away
