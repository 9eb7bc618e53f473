"""Networks of one build evaluated in one call, on parameters that are stacked.

A network of linear layers and embeddings sees all members as one larger batch: the graphs
repeated, each repetition with its member's weights. Any other one is left to `torch.func.vmap`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pal.kernels.models.parts.graphs import Graphs


class Stacked(Protocol):
    """The networks of m members as they are now; make a new one when their weights change.

    They differ in their parameters alone: buffers are those of the first.
    """

    def energies_and_forces(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """Return dimensionless energies (m, n) and forces (m, N, 3) in 1/Å.

        Each member has its own copy of the positions, so the gradient of the sum over members
        holds the gradient of each.
        """
        ...


def stacked(networks: Sequence[nn.Module]) -> Stacked:
    """Return these networks as one."""
    layers = [module for module in networks[0].modules() if type(module) in LAYERS]
    known = {id(parameter) for layer in layers for parameter in layer.parameters()}
    simple = all(id(parameter) in known for parameter in networks[0].parameters())
    return Layered(networks) if simple else Mapped(networks)


class Layered:
    """Networks all of whose parameters are in linear layers and embeddings."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._members = len(networks)
        self._network = copy.deepcopy(networks[0])
        layers: dict[nn.Module, nn.Module] = {}
        for name, module in list(self._network.named_modules(remove_duplicate=False)):
            if type(module) in LAYERS:
                if module not in layers:
                    members = [network.get_submodule(name) for network in networks]
                    layers[module] = LAYERS[type(module)](members)
                parent, _, own = name.rpartition(".")
                setattr(self._network.get_submodule(parent), own, layers[module])

    def energies_and_forces(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """See `Stacked`."""
        all_of_them = graphs.repeated(self._members)
        positions = all_of_them.positions.requires_grad_()
        values = self._network(all_of_them)
        (slopes,) = torch.autograd.grad(values.sum(), positions)
        return values.detach().view(self._members, -1), -slopes.view(self._members, -1, 3)


class Linears(nn.Module):
    """Linear layers of m members: rows (m * r, inputs), the members' one after the other."""

    bias: Tensor | None
    weight: Tensor

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.register_buffer("weight", joined(layers, "weight").mT.contiguous())
        without = layers[0].bias is None
        self.register_buffer("bias", None if without else joined(layers, "bias")[:, None])

    def forward(self, rows: Tensor) -> Tensor:
        """Return (m * r, outputs)."""
        own = rows.view(len(self.weight), -1, rows.shape[-1])
        if self.bias is None:
            return torch.bmm(own, self.weight).flatten(0, 1)
        return torch.baddbmm(self.bias, own, self.weight).flatten(0, 1)


class Embeddings(nn.Module):
    """Embeddings of m members: indices (m * r,), the members' one after the other."""

    weight: Tensor

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.register_buffer("weight", joined(layers, "weight"))

    def forward(self, index: Tensor) -> Tensor:
        """Return (m * r, features)."""
        members, kinds = self.weight.shape[:2]
        starts = torch.arange(0, members * kinds, kinds, device=index.device)
        flat = (index.view(members, -1) + starts[:, None]).view(-1)
        return self.weight.flatten(0, 1).index_select(0, flat)


def joined(modules: Sequence[nn.Module], name: str) -> Tensor:
    """Return a parameter of each module as one tensor (m, ...)."""
    tensors: list[Tensor] = [module.get_parameter(name).detach() for module in modules]
    return torch.stack(tensors)


LAYERS: dict[type, type] = {nn.Linear: Linears, nn.Embedding: Embeddings}


class Mapped:
    """Networks of any kind that vmap can follow."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._frame = copy.deepcopy(networks[0]).to("meta").eval()
        names = [name for name, _ in networks[0].named_parameters()]
        self._parameters = {name: joined(networks, name) for name in names}
        self._buffers = dict(networks[0].named_buffers())
        self._members = len(networks)

    def energies_and_forces(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """See `Stacked`."""
        own = graphs.positions.expand(self._members, -1, -1).contiguous().requires_grad_()

        def energies(parameters: dict[str, Tensor], here: Tensor) -> Tensor:
            state = (parameters, self._buffers)
            result: Tensor = functional_call(self._frame, state, (graphs.at(here),))
            return result

        values = vmap(energies)(self._parameters, own)
        (slopes,) = torch.autograd.grad(values.sum(), own)
        return values.detach(), -slopes
