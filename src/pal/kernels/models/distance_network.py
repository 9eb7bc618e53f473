"""A potential for one molecule: a small neural network on its inverse distances.

The energy of a molecule with a fixed list of atoms is

    E(R) = shift + unit * net((1/r - mean) / spread),    r_ij = |R_i - R_j|, all pairs i < j,

and the forces are its exact negative gradient. Inverse distances make it invariant to
translation and rotation; they are the descriptor of Chmiela et al., Sci. Adv. 3, e1603015 (2017).
It suits single molecules of some tens of atoms, and is about as fast as a neural network
potential can be: a committee is evaluated, and trained, in one stacked call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from pal.errors import ContractError, NotFiniteError, ShapeError
from pal.kernels.models.stacked import Adam, Layers, Pairs
from pal.records import Array, Batch, Dataset, LabelledSample, Metrics, Weights
from pal.roles import Context

SCALES: Final = ("mean", "spread", "shift", "unit", "fitted")
OPTIMISER: Final = ("raw", "first", "second", "steps")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the networks look and learn; see `DistanceNetwork`."""

    hidden: tuple[int, ...]
    learning_rate: float
    batch_size: int
    energy_weight: float
    smoothness: float
    averaging: float
    validation: float
    patience: int
    device: str


class DistanceNetwork:
    """One member of the committee. Label: `energy` () in eV and `forces` (atoms, 3) in eV/Å.

    Options:
        hidden: widths of the hidden layers.
        learning_rate: of Adam, at the start of each round of training; halved whenever the
            validation error has not improved for `patience` epochs, until 1/64 of it, where
            training ends.
        batch_size: samples per step.
        energy_weight: weight of the squared energy error per atom (eV^2) beside the mean
            squared error of the force components (eV^2/Å^2).
        smoothness: the inputs' spread over the first dataset is multiplied by it. Larger is
            smoother: it learns slower, and generalises better from few labels.
        averaging: predictions use the running average of the weights over about
            1 / (1 - averaging) steps, which removes the noise of the last few.
        validation: fraction of the labels each member leaves out of its training, a different
            one per member, to see its own error.
    """

    def __init__(
        self,
        context: Context,
        *,
        hidden: Sequence[int] = (128, 128),
        learning_rate: float = 2e-3,
        batch_size: int = 32,
        energy_weight: float = 1.0,
        smoothness: float = 5.0,
        averaging: float = 0.99,
        validation: float = 0.1,
        patience: int = 50,
    ) -> None:
        torch.set_num_threads(context.threads)
        recipe = Recipe(
            hidden=tuple(hidden),
            learning_rate=learning_rate,
            batch_size=batch_size,
            energy_weight=energy_weight,
            smoothness=smoothness,
            averaging=averaging,
            validation=validation,
            patience=patience,
            device=context.device,
        )
        self._stack = Stack(recipe, [context.seed])

    @classmethod
    def committee(cls, models: Sequence[DistanceNetwork]) -> DistanceCommittee:
        """Return these members as one committee, evaluated in one call."""
        return DistanceCommittee(Stack.joined([model._stack for model in models]))

    def predict(self, samples: Batch) -> dict[str, Array]:
        """Return `energy` (n,) in eV and `forces` (n, atoms, 3) in eV/Å."""
        return {name: array[0] for name, array in self._stack.predict(samples).items()}

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Fit energies and forces, from the weights and the optimiser's state as they are."""
        for metrics in self._stack.train([dataset]):
            yield metrics[0]

    def get_weights(self) -> Weights:
        """Return the averaged parameters and the scales of input and output."""
        return self._stack.get_weights(0)

    def set_weights(self, weights: Weights) -> None:
        """Take over another member's weights; the optimiser begins anew."""
        self._stack.set_weights(0, weights)

    def get_state(self) -> Any:
        """Return weights, optimiser and random numbers."""
        return self._stack.get_state(0)

    def set_state(self, state: Any) -> None:
        """Continue from another instance's state."""
        self._stack.set_state(0, state)


class DistanceCommittee:
    """Several `DistanceNetwork`s in one stack; see `pal.roles.Committee`."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def predict(self, samples: Batch) -> dict[str, Array]:
        """Return `energy` (members, n) in eV and `forces` (members, n, atoms, 3) in eV/Å."""
        return self._stack.predict(samples)

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Fit each member to its own dataset, all in the same steps."""
        return self._stack.train(datasets)

    def get_weights(self) -> list[Weights]:
        """Return the weights of each member."""
        return [self._stack.get_weights(member) for member in range(len(self._stack))]

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace the weights of one member; its optimiser begins anew."""
        self._stack.set_weights(member, weights)

    def get_state(self) -> Any:
        """Return the state of each member."""
        return [self._stack.get_state(member) for member in range(len(self._stack))]

    def set_state(self, state: Any) -> None:
        """Continue from another committee's state."""
        for member, part in enumerate(state):
            self._stack.set_state(member, part)


class Stack:
    """The members' networks: what one does, all do in the same call.

    `_data` maps names to tensors with a leading member axis; it is empty until the first
    sample, label or weights tell the number of atoms.
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[int]) -> None:
        self._recipe = recipe
        self._seeds = list(seeds)
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._data: dict[str, Tensor] = {}
        self._pairs = Pairs(0, recipe.device)
        self._layers = Layers(0, recipe.hidden)

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
            joined._data = {
                name: torch.cat([stack._data[name] for stack in stacks])
                for name in stacks[0]._data
            }
        return joined

    def _shape(self, atoms: int) -> None:
        self._pairs = Pairs(atoms, self._recipe.device)
        self._layers = Layers(len(self._pairs), self._recipe.hidden)

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
        raw = torch.as_tensor(np.stack([self._layers.initial(rng) for rng in self._rngs]))
        data = {
            "raw": raw,
            "averaged": raw.clone(),
            "first": torch.zeros_like(raw),
            "second": torch.zeros_like(raw),
            "steps": torch.zeros(m, 1),
            "mean": torch.zeros(m, 1, p),
            "spread": torch.ones(m, 1, p),
            "shift": torch.zeros(m, 1, dtype=torch.float64),
            "unit": torch.ones(m, 1),
            "fitted": torch.zeros(m, dtype=torch.bool),
        }
        self._data = {name: part.to(self._recipe.device) for name, part in data.items()}

    # -- prediction

    def predict(self, samples: Batch) -> dict[str, Array]:
        """Return what `DistanceCommittee.predict` says."""
        positions = _positions(samples)
        self._build(positions.shape[1])
        with torch.no_grad():
            inverse, centred = self._pairs.describe(positions)
            energy, forces = self._evaluate("averaged", inverse, centred)
            total = energy.double() + self._data["shift"]
        return {"energy": total.cpu().numpy(), "forces": forces.double().cpu().numpy()}

    def _evaluate(self, name: str, inverse: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (m, n) above the shift, and forces (m, n, a, 3)."""
        data = self._data
        value, slope = self._layers.value_and_slope(
            data[name], (inverse - data["mean"]) / data["spread"]
        )
        slope = slope * (data["unit"][..., None] / data["spread"])
        return value * data["unit"], self._pairs.forces(slope, inverse, centred)

    # -- training

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Yield one metrics per member after each epoch, until no member improves."""
        lessons = Lessons(datasets)
        self._build(lessons.positions.shape[1])
        inverse, centred = self._pairs.describe(lessons.positions)
        parts = [self._divide(k, rows, lessons) for k, rows in enumerate(lessons.rows)]
        learn, check = _level([part[0] for part in parts]), _level([part[1] for part in parts])
        self._fit_scales(learn, inverse, lessons)
        tables = (inverse, centred, *self._targets(lessons))
        plateau = Plateau(self._recipe, len(self))
        while not plateau.finished:
            rates = torch.as_tensor(plateau.rates[:, None], device=self._recipe.device)
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
            data["shift"][member] = float(lessons.energies[rows].mean())
            rms = float(np.sqrt(np.square(lessons.forces[rows]).mean()))
            data["unit"][member] = max(rms, 1e-3)
            data["fitted"][member] = True

    def _targets(self, lessons: Lessons) -> tuple[Tensor, Tensor]:
        """Return energies (rows, m) above each member's shift, and forces (rows, a, 3)."""
        energies = torch.as_tensor(lessons.energies, device=self._recipe.device)
        forces = torch.as_tensor(lessons.forces, device=self._recipe.device)
        return (energies[:, None] - self._data["shift"][:, 0]).float(), forces.float()

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
        inverse, centred, energies, forces = tables
        members = torch.arange(len(self), device=self._recipe.device)[:, None]
        energy, force = self._evaluate(name, inverse[chosen], centred[chosen])
        off = force - forces[chosen]
        missed = (energy - energies[chosen, members]).square().mean(1) / self._pairs.atoms
        loss = off.square().mean((1, 2, 3)) + self._recipe.energy_weight * missed
        return loss, off.detach().abs().mean((1, 2, 3))

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
        return weights | {name: _copy(self._data[name][member]) for name in SCALES}

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace one member's weights."""
        if not weights:
            return
        self._build(_atoms_of(weights))
        expected = {name: tuple(array.shape) for name, array in self.get_weights(member).items()}
        came = {name: np.shape(array) for name, array in weights.items()}
        if expected != came:
            raise ShapeError(
                f"distance_network: these weights do not fit; expected {expected}, got {came}; "
                "use the same option `hidden` that they were made with"
            )
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
        self.positions = _positions(Batch([item.sample for item in items.values()]))
        labels = Batch([item.label for item in items.values()])
        self.energies = np.asarray(_column(labels, "energy"), dtype=float).reshape(-1)
        self.forces = np.asarray(_column(labels, "forces"), dtype=float)
        if self.forces.shape != self.positions.shape or len(self.energies) != len(items):
            raise ShapeError(
                "distance_network: a label needs one energy, and forces of the positions' "
                f"shape {self.positions.shape[1:]}; got {labels!r}"
            )


class Plateau:
    """Each member's learning rate: halved on a plateau of its validation error, then the end."""

    LAST: Final = 1 / 64
    """Fraction of the first learning rate where training has nothing more to give."""

    def __init__(self, recipe: Recipe, members: int) -> None:
        self._patience = recipe.patience
        self._end = recipe.learning_rate * self.LAST
        self.rates = np.full(members, recipe.learning_rate, dtype=np.float32)
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


def _positions(samples: Batch) -> Array:
    """Return positions (n, a, 3) in Å as float64."""
    positions = np.asarray(_column(samples, "positions"), dtype=float)
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise ShapeError(
            "distance_network: positions must have the shape (atoms, 3); "
            f"got {positions.shape[1:]}"
        )
    return positions


def _column(batch: Batch, name: str) -> Array:
    columns = batch.columns
    if name not in columns:
        raise ContractError(
            f"distance_network needs the array '{name}'; got {sorted(columns)}; "
            "see pal.kernels.atoms for the names"
        )
    return columns[name]


def _level(rows: Sequence[Array]) -> Array:
    """Stack rows of different length, the shorter ones repeated to the longest."""
    longest = max(len(each) for each in rows)
    return np.stack([np.resize(each, longest) for each in rows])


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
