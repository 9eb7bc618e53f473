"""MACE: equivariant messages of many bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from torch import nn

from pal.errors import ContractError, KernelImportError
from pal.kernels.models.parts.fitting import Recipe
from pal.kernels.models.parts.mace_library import (
    INPUTS,
    Network,
    modules,
    o3,
    plain,
    read_model,
    rebuilt,
    tensors_of,
)
from pal.kernels.models.parts.potential import Design, Potential
from pal.records import Array
from pal.roles import Context

LARGEST: Final = 3000
"""Edges up to which a committee's call is the faster one; see benchmarks/kernels_models.py."""


def mace(
    context: Context,
    *,
    layers: int = 2,
    channels: int = 16,
    l_hidden: int = 1,
    l_max: int = 2,
    correlation: int = 3,
    radial_width: int = 64,
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
    head: str | None = None,
) -> Potential:
    """MACE, an equivariant graph network of many-body messages, from scratch or pretrained.

    Messages depend on several neighbours at once, so that two layers do what others need four
    for: Batatia et al., NeurIPS 35 (2022), with the network `ScaleShiftMACE` of the package
    mace-torch. Total charge and spin (as multiplicity) enter the first features of the atoms by
    the package's own joint embedding, a small network of the two numbers. A committee is
    evaluated in one call where that is faster: small batches, and GPUs. Labels: `energy` in eV,
    `forces` in eV/Å.

    The package asks for another version of e3nn than that of NequIP, so it wants an environment
    of its own.

    Options:
        layers: how many times the atoms exchange messages.
        channels: features of an atom of each rotation order.
        l_hidden: highest rotation order of the features that atoms keep; 0 is fastest.
        l_max: highest rotation order of the messages.
        correlation: how many neighbours a message depends on at once.
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
            models/v000012, or that folder, of which each member takes its own. Or a model that
            the package has saved, a pretrained one, say, with the suffix .model: then
            architecture, cutoff, elements and their energies are the model's, and the options
            up to `neighbours` say nothing; all members begin alike. Such files can run code:
            take those you trust.
        head: which readout to use of a saved model that has several.

    Example:
        [model]
        kernel = "mace"
        options = { channels = 16, correlation = 3, elements = ["H", "C", "O"] }
    """
    recipe = Recipe(
        learning_rate=learning_rate,
        batch_size=batch_size,
        validation=validation,
        patience=patience,
        averaging=averaging,
        precision=precision,
    )
    common: dict[str, Any] = {
        "kernel": "mace",
        "recipe": recipe,
        "energy_weight": energy_weight,
        "force_weight": force_weight,
        "batched": True,
        "largest": LARGEST,
    }
    if checkpoint is not None and Path(checkpoint).suffix == ".model":
        return Potential(context, Design(**common, **_saved(Path(checkpoint), head)))
    sizes = {
        "layers": layers,
        "channels": channels,
        "l_max": l_max,
        "correlation": correlation,
        "radial_width": radial_width,
    }
    if min(sizes.values()) < 1 or not 0 <= l_hidden <= l_max or neighbours <= 0:
        raise ContractError(
            f"mace needs {', '.join(sizes)} >= 1, 0 <= l_hidden <= l_max and neighbours > 0; "
            f"got {sizes}, l_hidden = {l_hidden}, neighbours = {neighbours}"
        )

    def build(numbers: tuple[int, ...]) -> nn.Module:
        model = plain(
            r_max=cutoff,
            num_bessel=8,
            num_polynomial_cutoff=6,
            max_ell=l_max,
            interaction_cls=modules.RealAgnosticResidualInteractionBlock,
            interaction_cls_first=modules.RealAgnosticInteractionBlock,
            num_interactions=layers,
            num_elements=len(numbers),
            hidden_irreps=_irreps(channels, l_hidden),
            MLP_irreps=_irreps(channels, 0),
            atomic_energies=np.zeros(len(numbers)),
            avg_num_neighbors=neighbours,
            atomic_numbers=list(numbers),
            correlation=correlation,
            gate=nn.functional.silu,
            radial_MLP=[radial_width] * 2,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
            embedding_specs={name: _number(channels) for name in INPUTS},
        )
        return Network(model)

    design = Design(**common, build=build, cutoff=cutoff, elements=elements, checkpoint=checkpoint)
    return Potential(context, design)


def _irreps(channels: int, highest: int) -> Any:
    """Return features of the rotation orders up to `highest`, of natural parity."""
    return o3.Irreps([(channels, (order, (-1) ** order)) for order in range(highest + 1)])


def _number(width: int) -> dict[str, Any]:
    """Return how a number of each system is embedded: by a network of one hidden layer."""
    return {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": width}


def _saved(path: Path, head: str | None) -> dict[str, Any]:
    """Return the part of a design that a saved model decides."""
    model = read_model(path)
    heads = list(getattr(model, "heads", None) or ["Default"])
    if (head is None and len(heads) > 1) or (head is not None and head not in heads):
        raise KernelImportError(
            f"mace: the model in '{path}' has the heads {heads}; name one of them in the option "
            f"head, which is {head!r}"
        )
    place = 0 if head is None else heads.index(head)

    def load(_: Path) -> Mapping[str, Array]:
        network = {f"network.model.{name}": t.numpy() for name, t in tensors_of(model).items()}
        atoms = model.atomic_energies_fn.atomic_energies.reshape(len(heads), -1)[place]
        return {
            "elements": model.atomic_numbers.numpy(),
            "references": atoms.double().numpy(),
            "referenced": np.ones(len(atoms), dtype=bool),
            "scale": np.array(1.0),
            **network,
        }

    return {
        "build": lambda numbers: Network(rebuilt(model), place),
        "cutoff": float(model.r_max),
        "checkpoint": path,
        "load": load,
    }
