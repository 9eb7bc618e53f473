"""SchNet: continuous-filter convolutions over the distances between atoms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pal.errors import ContractError
from pal.kernels.models.parts.electrons import Electrons
from pal.kernels.models.parts.fitting import Recipe
from pal.kernels.models.parts.graphs import Graphs, element_table
from pal.kernels.models.parts.potential import Design, Potential
from pal.roles import Context

with warnings.catch_warnings():
    # torch_geometric compiles some of itself with torch.jit as it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.nn.models.schnet import (
        GaussianSmearing,
        InteractionBlock,
        ShiftedSoftplus,
    )


def schnet(
    context: Context,
    *,
    hidden: int = 64,
    filters: int = 64,
    interactions: int = 3,
    gaussians: int = 32,
    cutoff: float = 5.0,
    learning_rate: float = 5e-3,
    batch_size: int = 8,
    energy_weight: float = 1.0,
    force_weight: float = 1.0,
    averaging: float = 0.99,
    validation: float = 0.1,
    patience: int = 50,
    precision: Literal["float32", "float64"] = "float32",
    elements: Sequence[str] | None = None,
    checkpoint: Path | str | None = None,
) -> Potential:
    """SchNet, a graph network on distances; fast, for molecules and crystals of any size.

    Atoms exchange messages with their neighbours, weighted by learnt functions of the distance
    that vanish smoothly at the cutoff: Schütt et al., NeurIPS 30 (2017) and J. Chem. Phys. 148,
    241722 (2018), with the interaction blocks of torch_geometric. Total charge and spin are
    spread over the atoms of a system by learnt shares, and enter the atoms' first features, as
    in SpookyNet: Unke et al., Nat. Commun. 12, 7273 (2021). A committee is evaluated in one
    call: always on a GPU, and on a CPU while the batch is small enough for its caches. Labels:
    `energy` in eV, `forces` in eV/Å.

    Options:
        hidden: features of an atom.
        filters: features of a message.
        interactions: how many times the atoms exchange messages.
        gaussians: functions of the distance that the filters are made of, evenly spaced.
        cutoff: distance in Å beyond which atoms do not see each other.
        learning_rate: of Adam, at the start of each round of training; halved whenever the
            validation error has not improved for `patience` epochs, until 1/64 of it, where
            training ends.
        batch_size: samples per step.
        energy_weight: weight of the squared energy error per atom in the loss, which counts in
            units of the first labels' root mean square force (eV, with lengths in Å).
        force_weight: weight of the mean squared error of the force components; 0 learns from
            energies alone, and needs no forces in the labels.
        averaging: predictions use the running average of the weights over about
            1 / (1 - averaging) steps, which removes the noise of the last few.
        validation: fraction of the labels each member leaves out of its training, a different
            one per member, to see its own error.
        patience: epochs without a better validation error, after which the rate is halved.
        precision: of the network, "float32" or "float64".
        elements: symbols of all elements of the campaign; without it those of the first data.
        checkpoint: file of weights to start from, such as member-0.npz in a campaign's
            models/v000012, or that folder, of which each member takes its own.

    Example:
        [model]
        kernel = "schnet"
        options = { cutoff = 5.0, interactions = 3, elements = ["H", "C", "O"] }
    """
    sizes = {
        "hidden": hidden,
        "filters": filters,
        "interactions": interactions,
        "gaussians": gaussians,
    }
    if min(sizes.values()) < 1 or hidden < 2 or gaussians < 2:
        raise ContractError(
            f"schnet needs hidden >= 2, gaussians >= 2, filters and interactions >= 1; got {sizes}"
        )
    design = Design(
        kernel="schnet",
        build=lambda numbers: SchNet(numbers, cutoff=cutoff, **sizes),
        cutoff=cutoff,
        recipe=Recipe(
            learning_rate=learning_rate,
            batch_size=batch_size,
            validation=validation,
            patience=patience,
            averaging=averaging,
            precision=precision,
        ),
        energy_weight=energy_weight,
        force_weight=force_weight,
        batched=True,
        largest=2000,
        elements=elements,
        checkpoint=checkpoint,
    )
    return Potential(context, design)


class SchNet(nn.Module):
    """The network: graphs to one dimensionless energy per system."""

    table: Tensor

    def __init__(
        self,
        elements: tuple[int, ...],
        *,
        hidden: int,
        filters: int,
        interactions: int,
        gaussians: int,
        cutoff: float,
    ) -> None:
        super().__init__()
        self._cutoff = cutoff
        self.register_buffer("table", element_table(elements), persistent=False)
        self.embedding = nn.Embedding(len(elements), hidden)
        self.charge = Electrons(hidden)
        self.spin = Electrons(hidden)
        self.expansion = GaussianSmearing(0.0, cutoff, gaussians)
        self.interactions = nn.ModuleList(
            InteractionBlock(hidden, gaussians, filters, cutoff) for _ in range(interactions)
        )
        self.output = nn.Sequential(
            nn.Linear(hidden, hidden // 2), ShiftedSoftplus(), nn.Linear(hidden // 2, 1)
        )

    def forward(self, graphs: Graphs) -> Tensor:
        """Return energies (n,)."""
        kinds = self.embedding(self.table[graphs.numbers])
        features = kinds + self.charge(kinds, graphs.charge, graphs)
        features = features + self.spin(kinds, graphs.spin, graphs)
        distances = torch.linalg.vector_norm(graphs.vectors(), dim=-1)
        waves = self.expansion(distances)
        fade = 0.5 * (torch.cos(distances * (math.pi / self._cutoff)) + 1.0)
        for block in self.interactions:
            features = features + interaction(block, features, waves, fade, graphs)
        return graphs.total(self.output(features).squeeze(-1))


def interaction(
    block: InteractionBlock, features: Tensor, waves: Tensor, fade: Tensor, graphs: Graphs
) -> Tensor:
    """Return what the features (N, hidden) change by; edges have `waves` (E, k), `fade` (E,).

    The forward pass of the block, without the message-passing class, which vmap cannot follow.
    """
    filters = block.mlp(waves) * fade[:, None]
    messages = block.conv.lin1(features).index_select(0, graphs.edges[0]) * filters
    result: Tensor = block.lin(block.act(block.conv.lin2(graphs.gathered(messages))))
    return result
