"""What `DistanceNetwork` learns from, and when it has learnt enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pal.errors import ContractError, ShapeError
from pal.records import Array, Batch, Dataset, LabelledSample


class Lessons:
    """The distinct samples of all members' datasets, and which of them each member has.

    `positions` (u, a, 3) in Å, `energies` (u,) in eV, `forces` (u, a, 3) in eV/Å, all float64;
    `rows[k]` indexes member k's samples, as often as its dataset repeats them.
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        items: dict[int, LabelledSample] = {}
        for dataset in datasets:
            if not dataset:
                raise ContractError("distance_network: the dataset is empty; label samples first")
            items.update((item.identity, item) for item in dataset)
        number = {identity: row for row, identity in enumerate(items)}
        self.identities = list(items)
        self.rows = [np.array([number[item.identity] for item in each]) for each in datasets]
        self.positions = positions_of(Batch([item.sample for item in items.values()]))
        labels = Batch([item.label for item in items.values()])
        self.energies = np.asarray(column_of(labels, "energy"), dtype=float).reshape(-1)
        self.forces = np.asarray(column_of(labels, "forces"), dtype=float)
        if self.forces.shape != self.positions.shape or len(self.energies) != len(items):
            raise ShapeError(
                "distance_network: a label needs one energy, and forces of the positions' "
                f"shape {self.positions.shape[1:]}; got {labels!r}"
            )


class Plateau:
    """Each member's learning rate: halved on a plateau of its validation error, then the end."""

    LAST: Final = 1 / 64
    """Fraction of the first learning rate where training has nothing more to give."""

    def __init__(self, rate: float, patience: int, members: int) -> None:
        self._patience = patience
        self._end = rate * self.LAST
        self.rates = np.full(members, rate, dtype=np.float32)
        self._best = np.full(members, np.inf)
        self._waited = np.zeros(members, dtype=int)

    def update(self, errors: Array) -> None:
        """Note the errors (m,) after an epoch."""
        better = errors < self._best
        self._best = np.minimum(errors, self._best)
        self._waited = np.where(better, 0, self._waited + 1)
        tired = self._waited >= self._patience
        self.rates[tired] /= 2
        self._waited[tired] = 0

    @property
    def finished(self) -> bool:
        """Whether every member has reached the last learning rate."""
        return bool((self.rates <= self._end).all())


def positions_of(samples: Batch) -> Array:
    """Return positions (n, a, 3) in Å as float64."""
    positions = np.asarray(column_of(samples, "positions"), dtype=float)
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise ShapeError(
            "distance_network: positions must have the shape (atoms, 3); "
            f"got {positions.shape[1:]}"
        )
    return positions


def column_of(batch: Batch, name: str) -> Array:
    """Return one named array of all samples or labels, (n, ...)."""
    columns = batch.columns
    if name not in columns:
        raise ContractError(
            f"distance_network needs the array '{name}'; got {sorted(columns)}; "
            "see pal.kernels.atoms for the names"
        )
    return columns[name]


def level(rows: Sequence[Array]) -> Array:
    """Stack rows of different length, the shorter ones repeated to the longest."""
    longest = max(len(each) for each in rows)
    return np.stack([np.resize(each, longest) for each in rows])
