"""A potential for one molecule: a small neural network on its inverse distances.

The energy of electronic state s of a molecule with a fixed list of atoms is

    E_s(R) = shift_s + unit * net_s((1/r - mean) / spread),    r_ij = |R_i - R_j|, all i < j,

and the forces are its exact negative gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from pal.errors import ContractError
from pal.kernels.models.parts.checkpoints import read_weights
from pal.kernels.models.parts.lessons import States
from pal.kernels.models.parts.stack import Recipe, Stack
from pal.records import Array, Batch, Dataset, Metrics, Weights
from pal.roles import Context


class DistanceNetwork:
    """A fast potential of one molecule: a network on inverse distances, of one or more states.

    Inverse distances make it invariant to translation and rotation; they are the descriptor of
    Chmiela et al., Sci. Adv. 3, e1603015 (2017). It suits single molecules of some tens of
    atoms, and is about as fast as a neural network potential can be: a committee is evaluated,
    and trained, in one stacked call. Sample: `positions` (atoms, 3) in Å, the same atoms in the
    same order each time. Label: `energy` () in eV and `forces` (atoms, 3) in eV/Å; with
    `states` > 1 these are `energies` (states,) and `state_forces` (states, atoms, 3), the
    outputs of one network.

    Options:
        states: number of electronic states.
        state_weights: of each state in the loss, lowest state first; only their ratios matter.
            None: all states count alike.
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
        patience: epochs without a better validation error until the learning rate is halved.
        equivalent: lists of indices of atoms that may change places, such as the hydrogen atoms of
            a methyl group. Each label is then learned in all orders of them: more comes of a
            label, and an epoch takes as many times as long.
        precision: of the network, "float32" or "float64".
        checkpoint: file of weights to start from, such as member-0.npz in a campaign's
            models/v000012, or that folder, of which each member takes its own.

    Example:
        [model]
        kernel = "distance_network"
        members = 4
        options = { hidden = [128, 128], states = 1 }
    """

    def __init__(
        self,
        context: Context,
        *,
        states: int = 1,
        state_weights: Sequence[float] | None = None,
        hidden: Sequence[int] = (128, 128),
        learning_rate: float = 2e-3,
        batch_size: int = 32,
        energy_weight: float = 1.0,
        smoothness: float = 5.0,
        averaging: float = 0.99,
        validation: float = 0.1,
        patience: int = 50,
        equivalent: Sequence[Sequence[int]] = (),
        precision: Literal["float32", "float64"] = "float32",
        checkpoint: Path | str | None = None,
    ) -> None:
        shares = (1.0,) * states if state_weights is None else tuple(state_weights)
        if states < 1 or len(shares) != states or min(shares) < 0 or sum(shares) <= 0:
            raise ContractError(
                "distance_network: expected states >= 1 and a state_weights >= 0 for each; "
                f"got states = {states}, state_weights = {state_weights}"
            )
        if precision not in ("float32", "float64"):
            raise ContractError(
                f'distance_network: expected precision = "float32" or "float64", got {precision!r}'
            )
        torch.set_num_threads(context.threads)
        recipe = Recipe(
            states=States(states),
            state_weights=shares,
            hidden=tuple(hidden),
            learning_rate=learning_rate,
            batch_size=batch_size,
            energy_weight=energy_weight,
            smoothness=smoothness,
            averaging=averaging,
            validation=validation,
            patience=patience,
            equivalent=tuple(map(tuple, equivalent)),
            device=context.device,
            dtype=getattr(torch, precision),
        )
        self._stack = Stack(recipe, [context.seed])
        if checkpoint is not None:
            self.set_weights(read_weights("distance_network", Path(checkpoint), context.index))

    @classmethod
    def committee(cls, models: Sequence[DistanceNetwork]) -> DistanceCommittee:
        """Return these members as one committee, evaluated in one call."""
        return DistanceCommittee(Stack.joined([model._stack for model in models]))

    def predict(self, samples: Batch) -> dict[str, Array]:
        """Return `energy` (n,) and `forces` (n, atoms, 3), or those of several states."""
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
        """Return what the members do, with a leading member axis."""
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
