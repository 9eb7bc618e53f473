"""Random displacements of known geometries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from pal.errors import ContractError
from pal.kernels.atoms import starts, to_atoms, to_sample
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.numbered import Numbered, rng_of
from pal.records import Array, Sample
from pal.roles import Context

TRIES = 1000
"""Draws in a row that may leave the bounds before it is taken for a mistake."""


class Displacement(Numbered):
    """Start geometries with every atom displaced at random.

    Each sample is drawn anew around one of the start geometries, whatever the committee says of
    the last one; those with overlapping atoms are drawn again. It serves as a walker, and as
    `initial.kernel` for the first labels.

    Options:
        start: file of one or more geometries, taken in turn by samples and walkers.
        scales: in Å, taken in turn after the geometries; the standard deviation of each
            coordinate for "gaussian", its largest displacement for "uniform".
        distribution: "gaussian" or "uniform".
        atoms: indices of the atoms that are displaced; none: all.
        strain: standard deviation of each component of a random symmetric strain of the cell,
            and of the atoms with it; without unit. 0: the cell stays.
        min_distance: fraction of the sum of two atoms' covalent radii; samples with closer ones
            are drawn again. 0: no bound.
        count: samples made for `initial.kernel`; walkers go on for ever.

    Example:
        [initial]
        kernel = "displacement"
        options = { start = "start.xyz", scales = [0.02, 0.05, 0.1], count = 60 }
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        scales: Sequence[float] = (0.05,),
        distribution: Literal["gaussian", "uniform"] = "gaussian",
        atoms: Sequence[int] | None = None,
        strain: float = 0.0,
        min_distance: float = 0.5,
        count: int = 100,
    ) -> None:
        if not scales or min(scales) < 0 or strain < 0:
            raise ContractError(
                "displacement: expected one or more scales >= 0 (Å), and strain >= 0; "
                f"got scales = {list(scales)}, strain = {strain}"
            )
        if distribution not in ("gaussian", "uniform"):
            raise ContractError(
                "displacement: expected distribution = 'gaussian' or 'uniform'; "
                f"got {distribution!r}"
            )
        self._context = context
        self._homes = [to_atoms(geometry) for geometry in starts(start, "displacement")]
        self._moving = [chosen(home, atoms, "displacement") for home in self._homes]
        self._bounds = [
            Bounds(home, "displacement", min_distance=min_distance) for home in self._homes
        ]
        self._scales = scales
        self._uniform = distribution == "uniform"
        self._strain = strain
        super().__init__(context, count)

    def _make(self, number: int) -> Sample:
        turn, place = divmod(number, len(self._homes))
        scale = self._scales[turn % len(self._scales)]
        rng = rng_of(self._context, number)
        atoms, moving = self._homes[place].copy(), self._moving[place]

        def draw() -> Array:
            away = np.zeros_like(atoms.positions)
            shape = (len(moving), 3)
            away[moving] = rng.uniform(-1, 1, shape) if self._uniform else rng.normal(size=shape)
            return np.asarray(scale * away)

        atoms.positions += bounded(draw, atoms.positions, self._bounds[place], "displacement")
        if self._strain and atoms.pbc.any():
            strained(atoms, self._strain, rng)
        return to_sample(atoms)


def chosen(home: Atoms, indices: Sequence[int] | None, kernel: str) -> Array:
    """Return the indices of the atoms that move.

    Raises:
        ContractError: naming `kernel`; an index is out of range.
    """
    if indices is None:
        return np.arange(len(home))
    if not indices or not all(0 <= index < len(home) for index in indices):
        raise ContractError(
            f"{kernel}: expected indices of atoms from 0 to {len(home) - 1}; "
            f"got atoms = {list(indices)}"
        )
    return np.array(indices)


def bounded(draw: Any, positions: Array, bounds: Bounds, kernel: str) -> Array:
    """Return the first displacement that `draw()` gives and that keeps within the bounds.

    Raises:
        ContractError: naming `kernel`; none of a thousand does.
    """
    for _ in range(TRIES):
        away: Array = draw()
        if bounds.hold(positions + away):
            return away
    raise ContractError(
        f"{kernel}: {TRIES} random displacements in a row made atoms overlap; choose smaller "
        "ones, or a smaller min_distance"
    )


def strained(atoms: Atoms, size: float, rng: np.random.Generator) -> None:
    """Strain a cell and its atoms by a random symmetric matrix; open directions stay."""
    random = rng.normal(0.0, size, (3, 3))
    symmetric = np.triu(random) + np.triu(random, 1).T
    periodic = np.asarray(atoms.pbc, dtype=float)
    deformation = np.eye(3) + symmetric * periodic[:, None] * periodic
    atoms.set_cell(atoms.cell @ deformation, scale_atoms=False)
    atoms.positions = atoms.positions @ deformation
