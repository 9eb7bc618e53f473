"""Allegro: equivariant and strictly local, a network on the pairs of neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from allegro.model import AllegroModel
from allegro.nn import _allegro, edgewise
from nequip.data import AtomicDataDict
from torch import Tensor, nn

from pal.errors import ContractError
from pal.kernels.models.parts.electrons import Electrons
from pal.kernels.models.parts.fitting import Recipe
from pal.kernels.models.parts.graphs import Graphs
from pal.kernels.models.parts.nequip_library import Entrance, Network, arguments, library, saved
from pal.kernels.models.parts.potential import Design, Potential
from pal.kernels.models.parts.sums import batchable
from pal.roles import Context

LARGEST: Final = 800
"""Edges up to which a committee's call is the faster one; see benchmarks/kernels_models.py."""

batchable((_allegro, "scatter"), (edgewise, "scatter"))


def allegro(
    context: Context,
    *,
    layers: int = 2,
    l_max: int = 1,
    scalars: int = 32,
    tensors: int = 16,
    parity: bool = False,
    cutoff: float = 5.0,
    neighbours: float = 10.0,
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
    """Allegro, an equivariant network on pairs of neighbours, strictly local.

    An atom's energy is a sum over its neighbours within the cutoff, and no message goes further:
    Musaelian et al., Nat. Commun. 14, 579 (2023), with the network of the package
    nequip-allegro. Total charge and spin are spread over the atoms of a system by learnt shares
    (as in SpookyNet, Unke et al., Nat. Commun. 12, 7273 (2021)), and what the central atom of a
    pair gets scales the embedding of the pair, so that it still vanishes smoothly at the cutoff.
    The shares are the one thing here that is not local. A committee is evaluated in one call
    where that is faster: small batches, and GPUs. Labels: `energy` in eV, `forces` in eV/Å.

    Options:
        layers: how many times a pair's tensors are multiplied by those of its surroundings.
        l_max: highest rotation order; 1 is faster, 2 and 3 are more accurate.
        scalars: scalar features of a pair.
        tensors: tensor features of a pair, of each rotation order.
        parity: whether there are features of both mirror parities in each rotation order.
        cutoff: distance in Å beyond which atoms do not see each other.
        neighbours: typical number of neighbours within the cutoff, by which sums over them are
            made of order 1.
        learning_rate: of Adam, at the start of each round of training; halved whenever the
            validation error has not improved for `patience` epochs, until 1/64 of it, where
            training ends.
        batch_size: samples per step.
        energy_weight: weight of the squared energy error per atom beside that of the forces.
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
            models/v000012, or that folder, of which each member takes its own. Or a checkpoint
            of the nequip framework, with the suffix .ckpt: then architecture, cutoff, elements
            and their energies are the model's, and the options up to `neighbours` say nothing;
            all members begin alike. Such files can run code: take those you trust.

    Example:
        [model]
        kernel = "allegro"
        options = { layers = 2, l_max = 1, cutoff = 5.0, elements = ["H", "C", "O"] }
    """
    common: dict[str, Any] = {
        "kernel": "allegro",
        "recipe": Recipe(
            learning_rate=learning_rate,
            batch_size=batch_size,
            validation=validation,
            patience=patience,
            averaging=averaging,
            precision=precision,
        ),
        "energy_weight": energy_weight,
        "force_weight": force_weight,
        "batched": True,
        "largest": LARGEST,
    }
    if checkpoint is not None and Path(checkpoint).suffix == ".ckpt":
        theirs = saved("allegro", Path(checkpoint), ENTRANCE, context.seed)
        return Potential(context, Design(**common, **theirs))
    sizes = {"layers": layers, "l_max": l_max, "tensors": tensors}
    if min(sizes.values()) < 1 or scalars < 2 or scalars % 2 or neighbours <= 0:
        raise ContractError(
            "allegro needs layers, l_max and tensors >= 1, scalars even and neighbours > 0; "
            f"got {sizes}, scalars = {scalars}, neighbours = {neighbours}"
        )

    def build(numbers: tuple[int, ...]) -> nn.Module:
        with library():
            model = AllegroModel(
                **arguments(numbers),
                r_max=cutoff,
                l_max=l_max,
                parity=parity,
                radial_chemical_embed={"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
                scalar_embed_mlp_hidden_layers_width=scalars,
                num_layers=layers,
                num_scalar_features=scalars,
                num_tensor_features=tensors,
                allegro_mlp_hidden_layers_width=scalars,
                readout_mlp_hidden_layers_width=scalars,
                avg_num_neighbors=neighbours,
            )
        return Network(numbers, model, ENTRANCE)

    design = Design(**common, build=build, cutoff=cutoff, elements=elements, checkpoint=checkpoint)
    return Potential(context, design)


class ChargedPairs(nn.Module):
    """Scales the embedding of each pair by what its centre gets of total charge and spin."""

    def __init__(self, elements: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(elements, features)
        self.charge = Electrons(features)
        self.spin = Electrons(features)

    def forward(self, data: dict[str, Tensor], graphs: Graphs) -> dict[str, Tensor]:
        """Change the scalar embedding (E, features) of the pairs."""
        kinds = self.embedding(data[AtomicDataDict.ATOM_TYPE_KEY])
        change = self.charge(kinds, graphs.charge, graphs) + self.spin(kinds, graphs.spin, graphs)
        pairs = data[AtomicDataDict.EDGE_EMBEDDING_KEY]
        data[AtomicDataDict.EDGE_EMBEDDING_KEY] = pairs * (1 + change[graphs.edges[1]])
        return data


ENTRANCE: Final = Entrance(
    "radial_chemical_embed", AtomicDataDict.EDGE_EMBEDDING_KEY, ChargedPairs
)
