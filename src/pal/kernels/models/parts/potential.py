"""A potential on graphs: all that is the same for SchNet, NequIP, Allegro, MACE and their like.

The energy of a system is

    E(R) = sum_i reference(Z_i) + scale * network(graphs),

and the forces are its exact negative gradient. The network sees dimensionless energies, one per
system; references and scale are fitted to the first labels, and belong to the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn

from pal.building import Members
from pal.errors import ContractError, ShapeError
from pal.kernels.models.parts.checkpoints import read_weights
from pal.kernels.models.parts.fitting import Fit, Recipe, built
from pal.kernels.models.parts.graphs import Graphs, collate, element_table, require_atoms
from pal.kernels.models.parts.references import NAMES, References
from pal.kernels.models.parts.stacking import Stacked, stacked
from pal.records import Array, Batch, Dataset, LabelledSample, Metrics, Sample, Weights, named
from pal.roles import Context


@dataclass(frozen=True, slots=True)
class Design:
    """What the factory of a potential decides.

    `build(elements)` makes the network for these atomic numbers, ascending: a module whose
    `forward(graphs)` returns one dimensionless energy per system, (n,), differentiable twice with
    respect to `graphs.positions`. It is called with torch's random numbers seeded and the
    default dtype set. `cutoff` in Å. `batched`: whether `stacking` can evaluate all members
    in one call; `largest`: for graphs of how many edges that is still the faster way on
    a CPU, whose caches are small. `elements`: symbols, where they are not to be taken from the
    first data. `checkpoint`: a file of weights to start from, or a folder of `member-<k>.npz`;
    `load` reads it, if it is not such a file of ours.
    """

    kernel: str
    build: Callable[[tuple[int, ...]], nn.Module]
    cutoff: float
    recipe: Recipe
    energy_weight: float = 1.0
    force_weight: float = 1.0
    batched: bool = False
    largest: float = math.inf
    elements: Sequence[str] | None = None
    checkpoint: Path | str | None = None
    load: Callable[[Path], Weights] | None = None

    def __post_init__(self) -> None:
        if self.cutoff <= 0 or self.energy_weight < 0 or self.force_weight < 0:
            raise ContractError(
                f"{self.kernel} needs cutoff > 0 and weights >= 0; got cutoff = {self.cutoff}, "
                f"energy_weight = {self.energy_weight}, force_weight = {self.force_weight}"
            )
        wrong = [name for name in self.elements or () if atomic_numbers.get(name, 0) < 1]
        if wrong:
            raise ContractError(
                f"{self.kernel}: elements = {list(self.elements or ())} holds no symbols of "
                f'elements: {wrong}; write them like ["H", "C", "Cl"]'
            )

    @property
    def numbers(self) -> tuple[int, ...]:
        """The atomic numbers of `elements`, ascending."""
        return tuple(sorted({atomic_numbers[name] for name in self.elements or ()}))


class Lesson(NamedTuple):
    """Some labelled samples as tensors: energies (n,) and forces (N, 3), in units of the scale.

    Energies are those above the references.
    """

    graphs: Graphs
    energies: Tensor
    forces: Tensor


class Potential:
    """One member of a committee; see `pal.roles.Model`. Label: `energy` in eV, `forces` in eV/Å.

    The network is built when its elements are known: from the option, from the first samples, or
    from weights. Until it has learnt, it may meet further elements, and is then built anew.
    """

    def __init__(self, context: Context, design: Design) -> None:
        torch.set_num_threads(context.threads)
        self.design = design
        self._context = context
        self._seed = context.seed
        self._references = References(design.numbers)
        self._fit: Fit[Lesson] | None = None
        self._builds = 0
        if design.checkpoint is not None:
            load = design.load or (lambda path: read_weights(design.kernel, path, context.index))
            self.set_weights(load(Path(design.checkpoint)))

    @classmethod
    def committee(cls, models: Sequence[Potential]) -> PotentialCommittee:
        """Return these members as one committee, which shares the graphs."""
        return PotentialCommittee(models)

    # -- prediction

    def predict(self, samples: Batch) -> Any:
        """Return `energy` (n,) and `forces` (n, atoms, 3); a list of labels for mixed sizes."""
        graphs = self.graphs(samples)
        energies, forces = self.evaluate(graphs)
        return labels(graphs, energies, forces)

    def graphs(self, samples: Sequence[Sample]) -> Graphs:
        """Return samples as graphs, in the precision and on the device of this member."""
        return collate(
            samples,
            self.design.cutoff,
            self.design.recipe.dtype,
            self._context.device,
            self.design.kernel,
        )

    def evaluate(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """Return total energies (n,) in eV, float64, and forces (N, 3) in eV/Å."""
        network = self.network(graphs)
        energies, forces = energies_and_forces(network, graphs)
        energies = energies.double() * self.scale + self.offsets(graphs)
        return energies, forces.double() * self.scale

    def network(self, graphs: Graphs) -> nn.Module:
        """Return the averaged network, which knows the elements in these graphs."""
        return self._meet(graphs.numbers).averaged

    def offsets(self, graphs: Graphs) -> Tensor:
        """Return the sums of reference energies (n,) in eV, float64."""
        table, energies = self._tables
        return graphs.total(energies[table[graphs.numbers]])

    @property
    def scale(self) -> float:
        """The unit of the network's energies in eV."""
        return self._references.scale

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever the weights do."""
        return (self._builds, -1 if self._fit is None else self._fit.version)

    @property
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers that the network knows, ascending."""
        return self._references.elements

    def _meet(self, numbers: Tensor) -> Fit[Lesson]:
        """Return the fit of a network that knows these elements; build it, if need be."""
        if self._fit is not None and not bool((self._tables[0][numbers] < 0).any()):
            return self._fit
        present = set(torch.unique(numbers).tolist())
        unknown = present - set(self.elements)
        if unknown and (self._references.fitted or self.design.elements is not None):
            symbols = [chemical_symbols[number] for number in self.elements]
            raise ContractError(
                f"{self.design.kernel} knows the elements {symbols}, and has met "
                f"{[chemical_symbols[number] for number in sorted(unknown)]}; name all elements "
                "of the campaign in the option elements, and train anew"
            )
        return self._build(References(sorted(present | set(self.elements))))

    def _build(self, references: References) -> Fit[Lesson]:
        design = self.design
        place = self._context.device
        self._references = references
        self._write_tables()
        self._builds += 1
        network = built(
            lambda: design.build(references.elements), self._seed, design.recipe.dtype, place
        )
        error = "force_mae" if design.force_weight else "energy_mae"
        self._fit = Fit(
            design.kernel,
            network,
            self._lesson,
            self._loss,
            design.recipe,
            self._seed,
            error=error,
        )
        return self._fit

    def _write_tables(self) -> None:
        """Keep the references where the graphs are."""
        table = element_table(self.elements)
        energies = torch.as_tensor(self._references.energies)
        self._tables = (table.to(self._context.device), energies.to(self._context.device))

    # -- training

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Fit energies and forces, from the weights and the optimiser's state as they are."""
        if not dataset:
            raise ContractError(f"{self.design.kernel}: the dataset is empty; label samples first")
        fit = self.introduce(dataset)
        numbers = [self._numbers(item) for item in dataset]
        energies = np.array([self._label(item, "energy") for item in dataset]).reshape(-1)
        with_forces = dataset if self.design.force_weight else ()
        forces = [self._label(item, "forces") for item in with_forces]
        self._references.fit(numbers, energies, forces)
        self._write_tables()
        yield from fit.epochs(dataset)

    def introduce(self, dataset: Dataset) -> Fit[Lesson]:
        """Let the network know the elements of a dataset before it learns."""
        numbers = np.concatenate([self._numbers(item) for item in dataset])
        return self._meet(torch.as_tensor(np.unique(numbers)).to(self._context.device))

    def _numbers(self, item: LabelledSample) -> Array:
        """Return the atomic numbers (a,) of a sample."""
        arrays = named(item.sample)
        require_atoms(arrays, self.design.kernel)
        return np.asarray(arrays["numbers"], dtype=np.int64)

    def _label(self, item: LabelledSample, name: str) -> Array:
        """Return one array of a label, of the shape that belongs to the sample."""
        kernel, label = self.design.kernel, item.label
        if not isinstance(label, Mapping) or name not in label:
            advice = "; set force_weight = 0 to learn from energies alone"
            raise ContractError(
                f"{kernel} needs the array '{name}' in each label; got "
                f"{sorted(label) if isinstance(label, Mapping) else 'a bare array'}"
                f"{advice if name == 'forces' else ''}"
            )
        array: Array = np.asarray(label[name], dtype=float)
        expected = np.shape(item.sample["positions"]) if name == "forces" else ()
        if array.size != np.prod(expected, dtype=int):
            raise ShapeError(
                f"{kernel}: expected '{name}' of shape {expected} in the label of sample "
                f"{item.identity}, got {array.shape}"
            )
        return array.reshape(expected)

    def _lesson(self, items: Sequence[LabelledSample]) -> Lesson:
        graphs = self.graphs([item.sample for item in items])
        energies = torch.as_tensor(np.array([self._label(item, "energy") for item in items]))
        if self.design.force_weight:
            forces = np.concatenate([self._label(item, "forces") for item in items])
        else:
            forces = np.zeros((0, 3))
        above = energies.to(self._context.device) - self.offsets(graphs)
        return Lesson(
            graphs,
            (above / self.scale).to(self.design.recipe.dtype),
            torch.as_tensor(forces / self.scale).to(graphs.positions),
        )

    def _loss(self, module: nn.Module, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean absolute error of the forces (eV/Å), or the energies (eV).

        Loss: weighted sum of the mean squared error of the force components and the mean of
        (energy error)^2 / atoms, both in units of the scale.
        """
        design, graphs = self.design, lesson.graphs
        atoms = torch.as_tensor(graphs.counts).to(lesson.energies)
        if not design.force_weight:
            missed = module(graphs) - lesson.energies
            loss = design.energy_weight * (missed.square() / atoms).mean()
            return loss, missed.detach().abs().mean() * self.scale
        energies, forces = energies_and_forces(module, graphs)
        missed, off = energies - lesson.energies, forces - lesson.forces
        loss = design.energy_weight * (missed.square() / atoms).mean()
        loss = loss + design.force_weight * off.square().mean()
        return loss, off.detach().abs().mean() * self.scale

    # -- weights and state

    def get_weights(self) -> Weights:
        """Return the averaged network's arrays, references and scale; empty while not built."""
        if self._fit is None:
            return {}
        network = {f"network.{name}": a for name, a in self._fit.get_weights().items()}
        return self._references.weights() | network

    def set_weights(self, weights: Weights) -> None:
        """Take over another member's weights; the optimiser begins anew."""
        if not weights:
            return
        missing = [name for name in NAMES if name not in weights]
        if missing:
            raise ContractError(
                f"{self.design.kernel}: these are not weights of a potential: {missing} missing; "
                f"got {sorted(weights)[:5]}"
            )
        fit = self._settle(References.of(weights))
        prefix = "network."
        fit.set_weights(
            {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        )

    def _settle(self, references: References) -> Fit[Lesson]:
        """Return the fit of a network for these references, the present one where it fits."""
        if self._fit is None or self.elements != references.elements:
            return self._build(references)
        self._references = references
        self._write_tables()
        return self._fit

    def get_state(self) -> Any:
        """Return weights, optimiser and random numbers."""
        if self._fit is None:
            return {"seed": self._seed}
        state = {"references": self._references.weights(), "fit": self._fit.get_state()}
        return {"seed": self._seed, **state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from another instance's state."""
        self._seed = state["seed"]
        if "fit" in state:
            self._settle(References.of(state["references"])).set_state(state["fit"])


class PotentialCommittee:
    """Several potentials that share the graphs, evaluated in one call where vmap can do it.

    See `pal.roles.Committee`. Each learns from its own dataset, an epoch in turn.
    """

    def __init__(self, models: Sequence[Potential]) -> None:
        self._models = list(models)
        self._members = Members(self._models)
        self._stacked: Stacked | None = None
        self._versions: list[tuple[int, int]] = []

    def predict(self, samples: Batch) -> Any:
        """Return `energy` (m, n), `forces` (m, n, atoms, 3); lists of labels for mixed sizes."""
        graphs = self._models[0].graphs(samples)
        networks = [model.network(graphs) for model in self._models]
        if not self._together(graphs):
            pairs = [model.evaluate(graphs) for model in self._models]
            energies, forces = (torch.stack(part) for part in zip(*pairs, strict=True))
            return labels(graphs, energies, forces)
        versions = [model.version for model in self._models]
        if self._stacked is None or versions != self._versions:
            self._stacked, self._versions = stacked(networks), versions
        energies, forces = self._stacked.energies_and_forces(graphs)
        scales = energies.new_tensor([m.scale for m in self._models], dtype=torch.float64)
        offsets = torch.stack([model.offsets(graphs) for model in self._models])
        energies = energies.double() * scales[:, None] + offsets
        return labels(graphs, energies, forces.double() * scales[:, None, None])

    def _together(self, graphs: Graphs) -> bool:
        """Whether the networks differ in their parameters alone, and one call is faster."""
        design = self._models[0].design
        few = graphs.edges.is_cuda or graphs.edges.shape[1] <= design.largest
        return few and design.batched and len({model.elements for model in self._models}) == 1

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Fit each member to its own dataset, yielding one metrics per member and epoch."""
        # A member's bootstrap may lack an element that another one's has.
        everything = list({item.identity: item for each in datasets for item in each}.values())
        for model in self._models if everything else ():
            model.introduce(everything)
        return self._members.train(datasets)

    def get_weights(self) -> list[Weights]:
        """Return the weights of each member."""
        return self._members.get_weights()

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace the weights of one member; its optimiser begins anew."""
        self._members.set_weights(member, weights)

    def get_state(self) -> Any:
        """Return the state of each member."""
        return self._members.get_state()

    def set_state(self, state: Any) -> None:
        """Continue from another committee's state."""
        self._members.set_state(state)


def energies_and_forces(network: nn.Module, graphs: Graphs) -> tuple[Tensor, Tensor]:
    """Return energies (n,) and forces (N, 3) of a network; differentiable while it learns."""
    positions = graphs.positions.detach().requires_grad_()
    energies = network(graphs.at(positions))
    (slopes,) = torch.autograd.grad(energies.sum(), positions, create_graph=network.training)
    return energies if network.training else energies.detach(), -slopes


def labels(graphs: Graphs, energies: Tensor, forces: Tensor) -> Any:
    """Return energies (n,) and forces (N, 3) as labels: arrays, or a list for mixed sizes.

    With a leading axis of members, (m, n) and (m, N, 3), the same for each of them.
    """
    energy, force = energies.cpu().numpy(), forces.cpu().numpy()
    if graphs.uniform:
        shape = (*energy.shape, graphs.counts[0], 3)
        return {"energy": energy, "forces": force.reshape(shape)}
    if energies.ndim > 1:
        return [labels(graphs, e, f) for e, f in zip(energies, forces, strict=True)]
    parts = np.split(force, np.cumsum(graphs.counts)[:-1])
    return [{"energy": np.asarray(e), "forces": f} for e, f in zip(energy, parts, strict=True)]
