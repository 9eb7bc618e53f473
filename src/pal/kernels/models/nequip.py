"""NequIP: equivariant messages between atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from nequip.data import AtomicDataDict
from nequip.model import NequIPGNNModel
from torch import Tensor, nn

from pal.errors import ContractError
from pal.kernels.models.parts.electrons import Electrons
from pal.kernels.models.parts.fitting import Recipe
from pal.kernels.models.parts.graphs import Graphs
from pal.kernels.models.parts.nequip_library import Entrance, Network, arguments, library, saved
from pal.kernels.models.parts.potential import Design, Potential
from pal.roles import Context

LARGEST: Final = 4000
"""Edges up to which a committee's call is the faster one; see benchmarks/kernels_models.py."""


def nequip(
    context: Context,
    *,
    layers: int = 2,
    l_max: int = 1,
    features: int = 16,
    parity: bool = False,
    radial_width: int = 32,
    cutoff: float = 5.0,
    neighbours: float = 10.0,
    learning_rate: float = 1e-2,
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
    """NequIP, an equivariant graph network that learns from few labels.

    Atoms exchange messages that are not only numbers but vectors and tensors, which turn with
    the molecule: Batzner et al., Nat. Commun. 13, 2453 (2022), with the network of the package
    nequip. Total charge and spin are spread over the atoms of a system by learnt shares (as in
    SpookyNet, Unke et al., Nat. Commun. 12, 7273 (2021)) and added to the embedding of the
    elements, which all layers see; these are scalars, so the network stays equivariant. A
    committee is evaluated in one call where that is faster: small batches, and GPUs. Labels:
    `energy` in eV, `forces` in eV/Å.

    Options:
        layers: how many times the atoms exchange messages.
        l_max: highest rotation order of the features; 0 scalars, 1 vectors, 2 is slower and
            more accurate.
        features: features of an atom of each rotation order.
        parity: whether there are features of both mirror parities in each rotation order.
        radial_width: width of the networks that weight messages by distance.
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
        kernel = "nequip"
        options = { layers = 2, l_max = 1, features = 16, elements = ["H", "C", "O"] }
    """
    common: dict[str, Any] = {
        "kernel": "nequip",
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
        theirs = saved("nequip", Path(checkpoint), ENTRANCE, context.seed)
        return Potential(context, Design(**common, **theirs))
    sizes = {"layers": layers, "features": features, "radial_width": radial_width}
    if min(sizes.values()) < 1 or l_max < 0 or neighbours <= 0:
        raise ContractError(
            "nequip needs layers, features and radial_width >= 1, l_max >= 0 and neighbours > 0; "
            f"got {sizes}, l_max = {l_max}, neighbours = {neighbours}"
        )

    def build(numbers: tuple[int, ...]) -> nn.Module:
        with library():
            model = NequIPGNNModel(
                **arguments(numbers),
                r_max=cutoff,
                num_layers=layers,
                l_max=l_max,
                parity=parity,
                num_features=features,
                radial_mlp_depth=1,
                radial_mlp_width=radial_width,
                avg_num_neighbors=neighbours,
            )
        return Network(numbers, model, ENTRANCE)

    design = Design(**common, build=build, cutoff=cutoff, elements=elements, checkpoint=checkpoint)
    return Potential(context, design)


class ChargedAtoms(nn.Module):
    """Adds total charge and spin to the embedding of the elements."""

    def __init__(self, elements: int, features: int) -> None:
        super().__init__()
        self.charge = Electrons(features)
        self.spin = Electrons(features)

    def forward(self, data: dict[str, Tensor], graphs: Graphs) -> dict[str, Tensor]:
        """Change attributes and first features (N, features) of the atoms."""
        kinds = data[AtomicDataDict.NODE_ATTRS_KEY]
        kinds = (
            kinds
            + self.charge(kinds, graphs.charge, graphs)
            + self.spin(kinds, graphs.spin, graphs)
        )
        data[AtomicDataDict.NODE_ATTRS_KEY] = kinds
        data[AtomicDataDict.NODE_FEATURES_KEY] = kinds
        return data


ENTRANCE: Final = Entrance("type_embed", AtomicDataDict.NODE_ATTRS_KEY, ChargedAtoms)
