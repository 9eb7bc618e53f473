"""All members of a `DistanceNetwork` committee in one set of arrays: predicting and learning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from pal.errors import ContractError, NotFiniteError, ShapeError
from pal.kernels.models.parts.lessons import (
    Lessons,
    Plateau,
    States,
    elements_of,
    level,
    other_atoms,
    positions_of,
)
from pal.kernels.models.parts.networks import Adam, Layers, Pairs
from pal.records import Array, Batch, Dataset, Metrics, Weights

SCALES: Final = ("mean", "spread", "shift", "unit", "fitted")
"""What belongs to the weights beside the networks' parameters."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the networks look and learn; see `DistanceNetwork`."""

    states: States
    state_weights: tuple[float, ...]
    hidden: tuple[int, ...]
    learning_rate: float
    batch_size: int
    energy_weight: float
    smoothness: float
    averaging: float
    validation: float
    patience: int
    equivalent: tuple[tuple[int, ...], ...]
    device: str
    dtype: torch.dtype


class Stack:
    """The members' networks: what one does, all do in the same call.

    `_data` maps names to tensors with a leading member axis; it is empty until the first
    sample, label or weights tell the number of atoms. `_elements` (a,) are their nuclear charges,
    zeros as long as nobody has told.
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[int]) -> None:
        self._recipe = recipe
        self._seeds = list(seeds)
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._data: dict[str, Tensor] = {}
        self._elements: Array = np.zeros(0, dtype=np.int64)
        self._pairs = Pairs(0, recipe.device, recipe.dtype)
        self._layers = Layers(0, recipe.hidden, recipe.states.count)
        shares = torch.tensor(recipe.state_weights, dtype=recipe.dtype, device=recipe.device)
        self._shares = shares / shares.sum()

    def __len__(self) -> int:
        return len(self._seeds)

    @classmethod
    def joined(cls, stacks: Sequence[Self]) -> Self:
        """Return one stack of all members of `stacks`, which must not be used any more."""
        joined = cls(stacks[0]._recipe, [seed for stack in stacks for seed in stack._seeds])
        joined._rngs = [rng for stack in stacks for rng in stack._rngs]
        atoms = max(stack._pairs.atoms for stack in stacks)
        if atoms:
            for stack in stacks:
                stack._build(atoms)
            joined._shape(atoms)
            for stack in stacks:
                joined._meet(stack._elements)
            joined._data = {
                name: torch.cat([stack._data[name] for stack in stacks])
                for name in stacks[0]._data
            }
        return joined

    def _shape(self, atoms: int) -> None:
        self._pairs = Pairs(atoms, self._recipe.device, self._recipe.dtype)
        self._layers = Layers(len(self._pairs), self._recipe.hidden, self._recipe.states.count)
        self._elements = np.zeros(atoms, dtype=np.int64)

    def _meet(self, elements: Array) -> None:
        """Remember the elements of the first molecule, and refuse any other one."""
        if not self._elements.any():
            self._elements = elements
        elif elements.any() and (elements != self._elements).any():
            raise other_atoms(self._elements, elements)

    def _build(self, atoms: int) -> None:
        if self._data:
            if atoms == self._pairs.atoms:
                return
            raise ShapeError(
                f"distance_network: this model knows a molecule of {self._pairs.atoms} atoms, "
                f"got one of {atoms}; use a model that is made for several molecules"
            )
        if atoms < 2:
            raise ShapeError(f"distance_network needs at least 2 atoms, got {atoms}")
        self._shape(atoms)
        m, p = len(self), len(self._pairs)
        initial = np.stack([self._layers.initial(rng) for rng in self._rngs])
        raw = torch.as_tensor(initial, dtype=self._recipe.dtype)
        data = {
            "raw": raw,
            "averaged": raw.clone(),
            "first": torch.zeros_like(raw),
            "second": torch.zeros_like(raw),
            "steps": raw.new_zeros(m, 1),
            "mean": raw.new_zeros(m, 1, p),
            "spread": raw.new_ones(m, 1, p),
            "shift": torch.zeros(m, 1, self._recipe.states.count, dtype=torch.float64),
            "unit": raw.new_ones(m, 1, 1),
            "fitted": torch.zeros(m, dtype=torch.bool),
        }
        self._data = {name: part.to(self._recipe.device) for name, part in data.items()}

    # -- prediction

    def predict(self, samples: Batch) -> dict[str, Array]:
        """Return what `DistanceCommittee.predict` says."""
        positions = positions_of(samples)
        self._build(positions.shape[1])
        if len(positions):
            self._meet(elements_of(samples))
        with torch.no_grad():
            inverse, places = self._pairs.describe(positions)
            energies, forces = self._evaluate("averaged", inverse, places)
            total = energies.double() + self._data["shift"]
        return self._recipe.states.named(total.cpu().numpy(), forces.double().cpu().numpy())

    def _evaluate(self, name: str, inverse: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (m, n, s) above the shifts, and forces (m, n, s, a, 3)."""
        data = self._data
        unit, spread = data["unit"], data["spread"]
        values, slopes = self._layers.values_and_slopes(
            data[name], (inverse - data["mean"]) / spread
        )
        return values * unit, self._pairs.forces(slopes, unit / spread, inverse, places)

    # -- training

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Yield one metrics per member after each epoch, until no member improves."""
        lessons = Lessons(datasets, self._recipe.states, self._recipe.equivalent)
        self._build(lessons.positions.shape[1])
        self._meet(lessons.elements)
        inverse, places = self._pairs.describe(lessons.positions)
        parts = [self._divide(k, rows, lessons) for k, rows in enumerate(lessons.rows)]
        learn, check = level([part[0] for part in parts]), level([part[1] for part in parts])
        self._fit_scales(learn, inverse, lessons)
        tables = (inverse, places, *self._targets(lessons))
        plateau = Plateau(self._recipe.learning_rate, self._recipe.patience, len(self))
        while not plateau.finished:
            rates = torch.as_tensor(
                plateau.rates[:, None], dtype=self._recipe.dtype, device=self._recipe.device
            )
            loss, error = self._epoch(learn, tables, rates)
            checked = self._check(check, tables)
            plateau.update(checked)
            names = ("loss", "force_mae", "validation_force_mae", "learning_rate")
            columns = zip(loss, error, checked, plateau.rates, strict=True)
            yield [dict(zip(names, map(float, column), strict=True)) for column in columns]

    def _divide(self, member: int, rows: Array, lessons: Lessons) -> tuple[Array, Array]:
        """Split a member's rows into those it learns from and those it checks itself with.

        Drawn from the sample's identity, so that it stays where it is in all rounds.
        """
        seed, fraction = self._seeds[member], self._recipe.validation
        draws = {
            row: np.random.default_rng((seed, lessons.identities[row])).random()
            for row in set(rows.tolist())
        }
        checking = np.array([draws[row] < fraction for row in rows.tolist()])
        if checking.all() or not checking.any():
            return rows, rows
        return rows[~checking], rows[checking]

    def _fit_scales(self, learn: Array, inverse: Tensor, lessons: Lessons) -> None:
        """Set the scales of each member's inputs and outputs, once, from its first dataset."""
        data = self._data
        for member in np.flatnonzero(~data["fitted"].cpu().numpy()):
            rows = learn[member]
            features = inverse[rows]
            # Bonds of the first few samples may hardly differ; the floor keeps inputs finite.
            spread = features.std(0, correction=0).clamp_min(1e-3)
            data["mean"][member, 0] = features.mean(0)
            data["spread"][member, 0] = spread * self._recipe.smoothness
            data["shift"][member, 0].copy_(torch.as_tensor(lessons.energies[rows].mean(0)))
            rms = float(np.sqrt(np.square(lessons.forces[rows]).mean()))
            data["unit"][member] = max(rms, 1e-3)
            data["fitted"][member] = True

    def _targets(self, lessons: Lessons) -> tuple[Tensor, Tensor]:
        """Return energies (rows, m, s) above each member's shifts, and forces (rows, s, a, 3)."""
        energies = torch.as_tensor(lessons.energies, device=self._recipe.device)
        forces = torch.as_tensor(lessons.forces, device=self._recipe.device)
        dtype = self._recipe.dtype
        return (energies[:, None] - self._data["shift"][:, 0]).to(dtype), forces.to(dtype)

    def _epoch(
        self, learn: Array, tables: tuple[Tensor, ...], rates: Tensor
    ) -> tuple[Array, Array]:
        """Go through the rows (m, n) once; return mean loss and force error, each (m,)."""
        order = np.stack(
            [rng.permutation(rows) for rng, rows in zip(self._rngs, learn, strict=True)]
        )
        steps = max(1, order.shape[1] // self._recipe.batch_size)
        done = [self._learn(order[:, step::steps], tables, rates) for step in range(steps)]
        loss, error = torch.stack(done).mean(0).cpu().numpy()
        return loss, error

    def _learn(self, rows: Array, tables: tuple[Tensor, ...], rates: Tensor) -> Tensor:
        data = self._data
        data["raw"].requires_grad_()
        loss, error = self._loss("raw", rows, tables)
        (gradient,) = torch.autograd.grad(loss.sum(), data["raw"])
        data["raw"] = data["raw"].detach()
        Adam.update(data["raw"], data, gradient, rates)
        # A short memory at first, so that the random beginning is forgotten.
        keep = (data["steps"] / (data["steps"] + 10)).clamp_max(self._recipe.averaging)
        data["averaged"].lerp_(data["raw"], 1 - keep)
        return torch.stack([loss.detach(), error])

    def _loss(self, name: str, rows: Array, tables: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return loss and mean absolute force error (eV/Å) over rows (m, n), each (m,)."""
        chosen = torch.as_tensor(rows, device=self._recipe.device)
        inverse, places, energies, forces = tables
        members = torch.arange(len(self), device=self._recipe.device)[:, None]
        energy, force = self._evaluate(name, inverse[chosen], places[chosen])
        off = force - forces[chosen]
        missed = (energy - energies[chosen, members]).square().mean(1) / self._pairs.atoms
        each = off.square().mean((1, 3, 4)) + self._recipe.energy_weight * missed
        return each @ self._shares, off.detach().abs().mean((1, 2, 3, 4))

    def _check(self, check: Array, tables: tuple[Tensor, ...]) -> Array:
        with torch.no_grad():
            errors: Array = self._loss("averaged", check, tables)[1].cpu().numpy()
        if not np.isfinite(errors).all():
            raise NotFiniteError(
                "distance_network: the training diverged, its error is not finite; "
                f"lower learning_rate (now {self._recipe.learning_rate:g})"
            )
        return errors

    # -- weights and state

    def get_weights(self, member: int) -> dict[str, Array]:
        """Return one member's weights by name; empty as long as there are none."""
        if not self._data:
            return {}
        views = self._layers.split(self._data["averaged"][member : member + 1])
        weights = {
            name: _copy(view[0]) for name, view in zip(self._layers.shapes, views, strict=True)
        }
        weights |= {name: _copy(self._data[name][member]) for name in SCALES}
        return weights | {"elements": self._elements.copy()}

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace one member's weights."""
        if not weights:
            return
        self._build(_atoms_of(weights))
        expected = {name: tuple(array.shape) for name, array in self.get_weights(member).items()}
        came = {name: np.shape(array) for name, array in weights.items()}
        came.setdefault("elements", expected["elements"])  # of weights made before they were kept
        if expected != came:
            raise ShapeError(
                f"distance_network: these weights do not fit; expected {expected}, got {came}; "
                "use the same options `hidden` and `states` that they were made with"
            )
        if "elements" in weights:
            self._meet(np.asarray(weights["elements"], dtype=np.int64))
        flat = np.concatenate([np.ravel(weights[name]) for name in self._layers.shapes])
        self._put(member, {name: weights[name] for name in SCALES})
        self._put(member, {"raw": flat, "averaged": flat, "first": 0, "second": 0, "steps": 0})

    def get_state(self, member: int) -> dict[str, Any]:
        """Return all there is of one member, as a value that can be pickled."""
        arrays = {name: _copy(part[member]) for name, part in self._data.items()}
        return {
            "seed": self._seeds[member],
            "random": self._rngs[member].bit_generator.state,
            "weights": self.get_weights(member),
            "arrays": arrays,
        }

    def set_state(self, member: int, state: Mapping[str, Any]) -> None:
        """Continue from `get_state`."""
        self.set_weights(member, state["weights"])
        self._put(member, state["arrays"])
        self._seeds[member] = state["seed"]
        self._rngs[member].bit_generator.state = state["random"]

    def _put(self, member: int, arrays: Mapping[str, Any]) -> None:
        for name, array in arrays.items():
            part = self._data[name]
            part[member] = torch.as_tensor(array, dtype=part.dtype, device=part.device)


def _copy(tensor: Tensor) -> Array:
    return np.array(tensor.detach().cpu().numpy())


def _atoms_of(weights: Weights) -> int:
    """Invert p = a (a - 1) / 2 for the number of atoms a."""
    if "mean" not in weights:
        raise ContractError(
            "distance_network: these are not its weights: 'mean' is missing, "
            f"got {sorted(weights)}"
        )
    return round((1 + math.sqrt(1 + 8 * np.size(weights["mean"]))) / 2)
