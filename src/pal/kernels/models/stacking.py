"""Networks of one build evaluated in one call, on parameters that are stacked."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pal.kernels.models.graphs import Graphs


class Stacked:
    """The networks of m members as they are now; make a new one when their weights change.

    They differ in their parameters alone: buffers are those of the first, and stay unstacked.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._frame = copy.deepcopy(networks[0]).to("meta").eval()
        members = [dict(network.named_parameters()) for network in networks]
        with torch.no_grad():
            self._parameters = {k: torch.stack([m[k] for m in members]) for k in members[0]}
        self._buffers = dict(networks[0].named_buffers())
        self._members = len(networks)

    def energies_and_forces(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """Return dimensionless energies (m, n) and forces (m, N, 3) in 1/Å.

        Each member has its own copy of the positions, so the gradient of the sum over members
        holds the gradient of each.
        """
        own = graphs.positions.expand(self._members, -1, -1).contiguous().requires_grad_()

        def energies(parameters: dict[str, Tensor], here: Tensor) -> Tensor:
            state = (parameters, self._buffers)
            result: Tensor = functional_call(self._frame, state, (graphs.at(here),))
            return result

        values = vmap(energies)(self._parameters, own)
        (slopes,) = torch.autograd.grad(values.sum(), own)
        return values.detach(), -slopes
