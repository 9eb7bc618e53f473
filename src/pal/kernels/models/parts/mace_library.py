"""The library of MACE: how it fits into a process, and its network on our graphs."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from pal.errors import KernelImportError
from pal.kernels.models.parts.graphs import LARGEST, Graphs
from pal.kernels.models.parts.sums import batchable

GUARD: Final = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Undo what importing the library does to the process.

    It turns off torch's guard against files that run code, which e3nn relies on for its own
    constants, and warns of what it calls itself.
    """
    before = os.environ.get(GUARD)
    os.environ[GUARD] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.pop(GUARD)
        if before is not None:
            os.environ[GUARD] = before


with _importing():
    import e3nn
    from e3nn import o3 as o3
    from mace import modules as modules
    from mace.modules import blocks, radial
    from mace.tools.scripts_utils import extract_config_mace_model

batchable((blocks, "scatter_sum"), (radial, "scatter_sum"))

INPUTS: Final = ("total_charge", "total_spin")
"""What a network may know of a system's electrons, under the library's names."""


def plain(**options: Any) -> nn.Module:
    """Return a `ScaleShiftMACE` of plain operations, not of compiled ones.

    Those are no slower here, can be differentiated twice and batched, and give the same bits in
    each call.
    """
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = modules.ScaleShiftMACE(**options)
    finally:
        e3nn.set_optimization_defaults(**before)
    part: Any
    for part in network.modules():
        # What is named here would be compiled in copies.
        if hasattr(part, "__codegen__"):
            part.__codegen__ = []
    return network


class Network(nn.Module):
    """A `ScaleShiftMACE` on our graphs, from the first features to the energies.

    The library's own forward pass, less the isolated atoms' energies, which are ours, and less
    its derivatives: it declares positions as variables on its way, which vmap cannot follow.
    `head` is the readout that counts, of a model that has several.
    """

    kinds: Tensor

    def __init__(self, model: Any, head: int = 0) -> None:
        super().__init__()
        self.model = model
        self._head = head
        numbers = model.atomic_numbers.tolist()
        kinds = torch.zeros(LARGEST + 1, len(numbers))
        kinds[numbers] = torch.eye(len(numbers))
        self.register_buffer("kinds", kinds, persistent=False)

    def forward(self, graphs: Graphs) -> Tensor:
        """Return energies (n,)."""
        model: Any = self.model
        heads = torch.full_like(graphs.numbers, self._head)
        attributes = self.kinds[graphs.numbers]
        # The library's vectors go from the neighbour to the centre.
        vectors = -graphs.vectors()
        lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        between = (attributes, graphs.edges, model.atomic_numbers)
        waves, fade = model.radial_embedding(lengths, *between)
        harmonics = model.spherical_harmonics(vectors)
        features = self._first(attributes, graphs)
        local = self._chosen(getattr(model, "embedding_readout", None), features, heads)
        energies: list[Tensor] = []
        if hasattr(model, "pair_repulsion"):
            energies.append(model.pair_repulsion_fn(lengths, *between))
        stages = []
        for layer, (interaction, product) in enumerate(
            zip(model.interactions, model.products, strict=True)
        ):
            features, skip = interaction(
                node_attrs=attributes,
                node_feats=features,
                edge_attrs=harmonics,
                edge_feats=waves,
                edge_index=graphs.edges,
                cutoff=fade,
                first_layer=layer == 0,
            )
            features = product(node_feats=features, sc=skip, node_attrs=attributes)
            stages.append(features)
        # With one readout, it is that of the last stage.
        for stage, readout in zip(stages[-len(model.readouts) :], model.readouts, strict=True):
            energies.append(self._chosen(readout, stage, heads))
        inner = model.scale_shift(torch.stack(energies).sum(0), heads)
        return graphs.total(inner + local)

    def _first(self, attributes: Tensor, graphs: Graphs) -> Tensor:
        """Return the first features: those of the elements, plus those of the electrons."""
        model: Any = self.model
        features: Tensor = model.node_embedding(attributes)
        if hasattr(model, "joint_embedding"):
            # Its spin is the multiplicity, ours the number of unpaired electrons.
            given = dict(zip(INPUTS, (graphs.charge, graphs.spin + 1), strict=True))
            features = features + model.joint_embedding(graphs.molecule, given)
        return features

    def _chosen(self, readout: nn.Module | None, features: Tensor, heads: Tensor) -> Tensor:
        """Return what one readout says of each atom, (N,), for the head that counts."""
        if readout is None:
            return features.new_zeros(len(features))
        values: Tensor = readout(features, heads)[:, self._head]
        return values


def read_model(path: Path) -> Any:
    """Read a model as the library saves it: a pickled `ScaleShiftMACE`, which may run code.

    Raises:
        KernelImportError: it cannot be read, or is a model of another kind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise KernelImportError(
            f"mace: cannot read checkpoint = '{path}': {type(error).__name__}: {error}; name a "
            "model saved by the library in this environment, or an npz file of weights"
        ) from error
    if type(model) is not modules.ScaleShiftMACE:
        raise KernelImportError(
            f"mace: checkpoint = '{path}' holds a {type(model).__name__}; expected a "
            "ScaleShiftMACE, the library's energy model, saved by torch.save(model, path)"
        )
    strange = set(getattr(model, "embedding_specs", None) or ()) - set(INPUTS)
    if strange:
        raise KernelImportError(
            f"mace: the model in '{path}' wants {sorted(strange)} of each system; "
            f"PAL's samples have {list(INPUTS)}"
        )
    return model


def rebuilt(model: Any) -> nn.Module:
    """Return a model of the same architecture, of plain operations, with random weights."""
    return plain(**extract_config_mace_model(model))


def tensors_of(model: nn.Module) -> Mapping[str, Tensor]:
    """Return a model's parameters and buffers by name."""
    state: Mapping[str, Tensor] = model.state_dict()
    return state
