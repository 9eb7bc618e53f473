"""What the kernels of NequIP and Allegro share: their library, and how it fits into a process."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict
from nequip.nn import _tp_scatter_base
from nequip.utils.global_state import set_global_state
from torch import Tensor, nn

from pal.kernels.models.graphs import Graphs, element_table
from pal.kernels.models.sums import batchable

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


class Network(nn.Module):
    """One of the library's models on our graphs, with total charge and spin as further inputs.

    `model` is what a builder returned. Charge and spin enter behind the layer `entrance`, by
    `electrons(data, graphs)`.
    """

    table: Tensor

    def __init__(
        self, elements: tuple[int, ...], model: Any, entrance: str, electrons: nn.Module
    ) -> None:
        super().__init__()
        self.register_buffer("table", element_table(elements), persistent=False)
        layers = dict(model.model.func.named_children())
        del layers["total_energy_sum"]
        self.layers = nn.ModuleDict(layers)
        self.electrons = electrons
        self._entrance = entrance

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
