"""Networks of one build evaluated in one call, on parameters that are stacked."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from pal.kernels.models.graphs import Graphs


class Stacked:
    """The networks of m members as they are now; make a new one when their weights change."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._frame = copy.deepcopy(networks[0]).to("meta").eval()
        with torch.no_grad():
            parameters, buffers = stack_module_state(list(networks))
        self._state = ({k: p.detach() for k, p in parameters.items()}, buffers)
        self._members = len(networks)

    def energies_and_forces(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """Return dimensionless energies (m, n) and forces (m, N, 3) in 1/Å.

        Each member has its own copy of the positions, so the gradient of the sum over members
        holds the gradient of each.
        """
        own = graphs.positions.expand(self._members, -1, -1).contiguous().requires_grad_()

        def energies(state: tuple[dict[str, Tensor], dict[str, Tensor]], here: Tensor) -> Tensor:
            result: Tensor = functional_call(self._frame, state, (graphs.at(here),))
            return result

        values = vmap(energies)(self._state, own)
        (slopes,) = torch.autograd.grad(values.sum(), own)
        return values.detach(), -slopes
