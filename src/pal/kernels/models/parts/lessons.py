"""What `DistanceNetwork` learns from, and when it has learnt enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pal.errors import ContractError, ShapeError
from pal.records import Array, Batch, Dataset, LabelledSample

MOST_ORDERS: Final = 1000
"""Of equivalent atoms: every sample is there once for each."""


@dataclass(frozen=True, slots=True)
class States:
    """How labels name one or several electronic states; inside, there is always a state axis."""

    count: int

    @property
    def names(self) -> tuple[str, str]:
        """The labels' names of energies and forces."""
        return ("energy", "forces") if self.count == 1 else ("energies", "state_forces")

    def read(self, labels: Batch) -> tuple[Array, Array]:
        """Return energies (n, s) in eV and forces (n, s, a, 3) in eV/Å, float64."""
        energies, forces = (np.asarray(column_of(labels, name), float) for name in self.names)
        if self.count == 1:
            return energies.reshape(len(labels), -1), forces[:, None]
        return energies, forces

    def named(self, energies: Array, forces: Array) -> dict[str, Array]:
        """Return energies (..., n, s) and forces (..., n, s, a, 3) as labels name them."""
        if self.count == 1:
            energies, forces = energies[..., 0], forces[..., 0, :, :]
        return dict(zip(self.names, (energies, forces), strict=True))


class Lessons:
    """The distinct samples of all members' datasets, and which of them each member has.

    A sample has a row for every order of its equivalent atoms: `positions` (u, a, 3) in Å,
    `energies` (u, s) in eV, `forces` (u, s, a, 3) in eV/Å, all float64, and `identities` (u,);
    `elements` (a,) as `elements_of` says; `rows[k]` indexes the rows of member k's samples, as
    often as its dataset repeats them.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        states: States,
        equivalent: Sequence[Sequence[int]] = (),
    ) -> None:
        items: dict[int, LabelledSample] = {}
        for dataset in datasets:
            if not dataset:
                raise ContractError("distance_network: the dataset is empty; label samples first")
            items.update((item.identity, item) for item in dataset)
        samples = Batch([item.sample for item in items.values()])
        positions, self.elements = positions_of(samples), elements_of(samples)
        labels = Batch([item.label for item in items.values()])
        energies, forces = states.read(labels)
        expected = (len(items), states.count, *positions.shape[1:])
        if forces.shape != expected or energies.shape != expected[:2]:
            raise ShapeError(
                f"distance_network: a label needs {states.count} energies, and forces of the "
                f"positions' shape {expected[2:]} for each; got {labels!r}; see its option "
                "`states`"
            )
        orders = orders_of(equivalent, self.elements)
        self.positions = positions[:, orders].reshape(-1, *positions.shape[1:])
        self.energies = energies.repeat(len(orders), axis=0)
        self.forces = np.moveaxis(forces[:, :, orders], 2, 1).reshape(-1, *forces.shape[1:])
        self.identities = np.repeat(list(items), len(orders))
        numbers = np.arange(len(self.identities)).reshape(-1, len(orders))
        own = dict(zip(items, numbers, strict=True))
        self.rows = [np.concatenate([own[item.identity] for item in each]) for each in datasets]


def orders_of(groups: Sequence[Sequence[int]], elements: Array) -> Array:
    """Return all orders (g, a) of atoms that differ within groups; the first is their own.

    Raises:
        ContractError: there are no such atoms, they are of different elements, belong to several
            groups, or may be ordered in more ways than `MOST_ORDERS`.
    """
    named = [index for group in groups for index in group]
    if len(set(named)) < len(named) or not all(0 <= index < len(elements) for index in named):
        raise ContractError(
            "distance_network: expected equivalent = lists of different indices of atoms from 0 "
            f"to {len(elements) - 1}, each in one of them; got {[list(g) for g in groups]}"
        )
    for group in groups:
        kinds = elements[list(group)]
        if (kinds != kinds[:1]).any():
            raise ContractError(
                f"distance_network: the equivalent atoms {list(group)} have the nuclear charges "
                f"{kinds.tolist()}; expected atoms of one element"
            )
    if math.prod(math.factorial(len(group)) for group in groups) > MOST_ORDERS:
        raise ContractError(
            f"distance_network: equivalent = {[list(g) for g in groups]} allows more than "
            f"{MOST_ORDERS} orders of the atoms; name fewer of them"
        )
    orders = []
    for turned in itertools.product(*map(itertools.permutations, groups)):
        order = np.arange(len(elements))
        for group, turn in zip(groups, turned, strict=True):
            order[list(group)] = turn
        orders.append(order)
    return np.array(orders)


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


def elements_of(samples: Batch) -> Array:
    """Return the nuclear charges (a,) of the one molecule; zeros where the samples have none."""
    numbers = samples.columns.get("numbers")
    if numbers is None:
        return np.zeros(samples["positions"].shape[1], dtype=np.int64)
    strange = np.flatnonzero((numbers != numbers[0]).any(axis=1))
    if len(strange):
        raise other_atoms(numbers[0], numbers[strange[0]])
    return np.asarray(numbers[0], dtype=np.int64)


def other_atoms(known: Array, came: Array) -> ShapeError:
    """Describe a molecule that is not the one known, or that has its atoms in another order."""
    return ShapeError(
        f"distance_network knows the molecule of the atoms {known.tolist()} (nuclear charges, in "
        f"this order), got {came.tolist()}; give the same atoms in the same order, or use a model "
        "for any molecules, such as schnet"
    )


def column_of(batch: Batch, name: str) -> Array:
    """Return one named array of all samples or labels, (n, ...)."""
    try:
        columns = batch.columns
    except ShapeError as error:
        raise ShapeError(
            "distance_network learns one molecule: the same atoms, and the same arrays, in every "
            "sample; for molecules of any size take schnet, nequip, allegro or mace, for several "
            f"separate ones a campaign each ({error})"
        ) from error
    if name not in columns:
        raise ContractError(
            f"distance_network needs the array '{name}'; got {sorted(columns)}; "
            "see pal.kernels.atoms for the names, and its option `states`"
        )
    return columns[name]


def level(rows: Sequence[Array]) -> Array:
    """Stack rows of different length, the shorter ones repeated to the longest."""
    longest = max(len(each) for each in rows)
    return np.stack([np.resize(each, longest) for each in rows])
