"""What the kernels of NequIP and Allegro share: their library, and how it fits into a process."""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from nequip.data import AtomicDataDict
from nequip.model import ModelFromCheckpoint
from nequip.nn import _tp_scatter_base
from nequip.utils.global_state import set_global_state
from torch import Tensor, nn

from pal.errors import KernelImportError
from pal.kernels.models.parts.electrons import Electrons
from pal.kernels.models.parts.fitting import arrays_of, built
from pal.kernels.models.parts.graphs import Graphs, element_table
from pal.kernels.models.parts.references import References
from pal.kernels.models.parts.sums import batchable
from pal.records import Weights

batchable((_tp_scatter_base, "scatter"))


@contextlib.contextmanager
def library() -> Iterator[None]:
    """Let the library build networks for a while.

    It wants its global state first, which seeds all random numbers and makes float64 the default;
    both are put back.
    """
    numbers, python = np.random.get_state(), random.getstate()
    dtype = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # It calls functions that torch has begun to warn of.
            warnings.simplefilter("ignore", DeprecationWarning)
            set_global_state()
        torch.set_default_dtype(dtype)
        yield
    finally:
        torch.set_default_dtype(dtype)
        np.random.set_state(numbers)
        random.setstate(python)


def arguments(elements: tuple[int, ...]) -> dict[str, Any]:
    """Return what every model builder of the library wants to know.

    The seed comes from torch's random numbers, the precision is the default dtype. References
    and scale of the energies are no business of the network, nor are forces.
    """
    return {
        "seed": int(torch.randint(2**31, ())),
        "model_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "type_names": [chemical_symbols[number] for number in elements],
        "per_type_energy_scales": 1.0,
        "per_type_energy_shifts": 0.0,
        "do_derivatives": False,
    }


class Entrance(NamedTuple):
    """Where total charge and spin enter a model: behind `layer`, into what it puts in `field`.

    `electrons(elements, width)` makes the module that changes it, called with data and graphs.
    """

    layer: str
    field: str
    electrons: Callable[[int, int], nn.Module]


class Network(nn.Module):
    """One of the library's models on our graphs, with total charge and spin as further inputs.

    `model` is what a builder returned.
    """

    table: Tensor

    def __init__(self, elements: tuple[int, ...], model: Any, entrance: Entrance) -> None:
        super().__init__()
        self.register_buffer("table", element_table(elements), persistent=False)
        layers = dict(model.model.func.named_children())
        del layers["total_energy_sum"]
        self.layers = nn.ModuleDict(layers)
        self._entrance = entrance.layer
        width = layers[entrance.layer].irreps_out[entrance.field].num_irreps
        self.electrons = entrance.electrons(len(elements), width)

    def forward(self, graphs: Graphs) -> Tensor:
        """Return energies (n,)."""
        # The library's edges go from the centre to its neighbour.
        data = {
            AtomicDataDict.POSITIONS_KEY: graphs.positions,
            AtomicDataDict.EDGE_INDEX_KEY: graphs.edges.flip(0),
            AtomicDataDict.EDGE_VECTORS_KEY: graphs.vectors(),
            AtomicDataDict.ATOM_TYPE_KEY: self.table[graphs.numbers],
        }
        for name, layer in self.layers.items():
            data = layer(data)
            if name == self._entrance:
                data = self.electrons(data, graphs)
        return graphs.total(data[AtomicDataDict.PER_ATOM_ENERGY_KEY].squeeze(-1))


def saved(kernel: str, path: Path, entrance: Entrance, seed: int) -> dict[str, Any]:
    """Return the part of a design that a checkpoint of the library decides.

    The energies of isolated atoms become our references, the rest stays with the network. Total
    charge and spin, which the model has not learnt, change nothing at first.

    Raises:
        KernelImportError: it cannot be read, or holds a model that is not the kernel's.
    """
    model = _read(kernel, path)
    layers = model.model.func
    if entrance.layer not in dict(layers.named_children()):
        raise KernelImportError(
            f"{kernel}: checkpoint = '{path}' holds another model; it has the layers "
            f"{[name for name, _ in layers.named_children()]}"
        )
    inputs = list(getattr(layers[0], "categorical_graph_field_embed_modules", ()))
    if inputs:
        raise KernelImportError(
            f"{kernel}: the model in '{path}' wants {inputs} of each system; PAL cannot tell in "
            "which convention, and takes models without"
        )
    strange = [name for name in model.type_names if atomic_numbers.get(name, 0) < 1]
    if strange:
        raise KernelImportError(
            f"{kernel}: the model in '{path}' names types of atoms {strange}; expected symbols "
            "of elements"
        )
    numbers = tuple(atomic_numbers[name] for name in model.type_names)
    scaling = layers.per_type_energy_scale_shift
    references = np.zeros(len(numbers))
    if scaling.has_shifts:
        references += scaling.shifts.detach().numpy().reshape(-1)
        scaling.shifts.detach().zero_()

    def build(_: tuple[int, ...]) -> nn.Module:
        network = Network(numbers, copy.deepcopy(model), entrance)
        for module in network.electrons.modules():
            if isinstance(module, Electrons):
                nn.init.zeros_(module.values.weight)
        return network

    def load(_: Path) -> Weights:
        network = built(lambda: build(numbers), seed, torch.float64, "cpu")
        known = References(numbers)
        known.energies, known.known = references, np.ones(len(numbers), dtype=bool)
        arrays = {f"network.{name}": array for name, array in arrays_of(network).items()}
        return known.weights() | arrays

    cutoff = float(model.metadata["r_max"])
    return {"build": build, "cutoff": cutoff, "checkpoint": path, "load": load}


def _read(kernel: str, path: Path) -> Any:
    try:
        with library(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models = ModelFromCheckpoint(str(path))
            (model,) = models.values()
    except Exception as error:
        raise KernelImportError(
            f"{kernel}: cannot read checkpoint = '{path}': {type(error).__name__}: {error}; name "
            "a checkpoint of the nequip framework, or an npz file of weights"
        ) from error
    return model
