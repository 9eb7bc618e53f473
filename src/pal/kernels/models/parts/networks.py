"""The mathematics of `DistanceNetwork`: many small networks in one set of stacked arrays.

Axes: m members, n samples, s electronic states, a atoms, p = a (a - 1) / 2 pairs. Lengths in Å,
energies in eV, in the precision of the recipe inside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pal.records import Array


class Pairs:
    """The inverse distances of all pairs of atoms, and forces from slopes along them."""

    def __init__(self, atoms: int, device: str, dtype: torch.dtype) -> None:
        self.atoms = atoms
        self._dtype = dtype
        self._precision = torch.empty(0, dtype=dtype).numpy().dtype
        self._i, self._j = np.triu_indices(atoms, 1)
        table = np.zeros((atoms, atoms), dtype=np.int64)
        table[self._i, self._j] = table[self._j, self._i] = np.arange(len(self._i))
        self._table = torch.as_tensor(table.ravel(), device=device)
        self._device = device

    def __len__(self) -> int:
        return len(self._i)

    def describe(self, positions: Array) -> tuple[Tensor, Tensor]:
        """Return inverse distances (n, p) in 1/Å, and places (n, a, 4): centred positions, and 1.

        Differences are taken in float64, so that it does not matter where in space the
        molecule is.
        """
        vectors = positions[:, self._i] - positions[:, self._j]
        inverse = 1.0 / np.sqrt(np.einsum("npx,npx->np", vectors, vectors))
        places = np.ones((len(positions), self.atoms, 4), dtype=self._precision)
        np.subtract(positions, positions.mean(axis=1, keepdims=True), out=places[..., :3])
        return (
            torch.as_tensor(inverse, dtype=self._dtype, device=self._device),
            torch.as_tensor(places, device=self._device),
        )

    def forces(self, slopes: Tensor, unit: Tensor, inverse: Tensor, places: Tensor) -> Tensor:
        """Return forces (m, n, s, a, 3) in eV/Å from slopes (m, n, s, p) in units (m, 1, p).

        With f = 1/r, F_i = sum_j w_ij (R_i - R_j) and w_ij = dE/df_ij f_ij^3, where dE/df is
        slope times unit. The diagonal of w is arbitrary, because it cancels.
        """
        factor = (unit * inverse**3).unsqueeze(2)
        pairs = (slopes * factor).index_select(-1, self._table)
        m, n, s, _ = pairs.shape
        # The ones in `places` sum w over j in the same product that sums w_ij R_j.
        sums = (pairs.view(m, n, s * self.atoms, self.atoms) @ places).view(m, n, s, -1, 4)
        total = sums.narrow(-1, 3, 1)
        return (total * places.unsqueeze(-3) - sums).narrow(-1, 0, 3)


class Layers:
    """Fully connected SiLU networks; the parameters of one member are one row of (m, k)."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        widths = [inputs, *hidden, outputs]
        self.shapes: dict[str, tuple[int, ...]] = {}
        for index, (before, after) in enumerate(itertools.pairwise(widths)):
            self.shapes[f"weight{index}"] = (after, before)
            self.shapes[f"bias{index}"] = (after,)
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]

    def initial(self, rng: np.random.Generator) -> Array:
        """Return random parameters (k,): variance 1/inputs keeps signals of order 1.

        The biases of the outputs are zero, because the outputs' mean is.
        """
        spreads = [shape[-1] ** -0.5 if len(shape) == 2 else 0.5 for shape in self.shapes.values()]
        spreads[-1] = 0.0
        sizes = zip(spreads, self._sizes, strict=True)
        parts = [rng.normal(0.0, spread, size) for spread, size in sizes]
        return np.concatenate(parts)

    def split(self, parameters: Tensor) -> list[Tensor]:
        """Return views (m, *shape) of parameters (m, k), in the order of `shapes`."""
        parts = torch.split(parameters, self._sizes, dim=1)
        shapes = self.shapes.values()
        return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def values_and_slopes(self, parameters: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (m, n, s) and their gradients (m, n, s, p) by the inputs (m, n, p).

        SiLU: s(z) = z sigma(z), s'(z) = sigma(z) + s(z) (1 - sigma(z)).
        """
        views = self.split(parameters)
        weights, biases = views[::2], views[1::2]
        hidden, derivatives = inputs, []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            z = torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)
            sigma = torch.sigmoid(z)
            hidden = z * sigma
            derivatives.append(torch.addcmul(sigma, hidden, 1 - sigma).unsqueeze(2))
        values = torch.baddbmm(biases[-1].unsqueeze(1), hidden, weights[-1].mT)
        slopes = weights[-1].unsqueeze(1)
        for weight, derivative in zip(weights[-2::-1], derivatives[::-1], strict=True):
            back = slopes * derivative
            slopes = torch.bmm(back.flatten(1, 2), weight).view(*back.shape[:3], -1)
        return values, slopes


class Adam:
    """Kingma and Ba, arXiv:1412.6980, over parameters (m, k) with a step size per member."""

    BETAS = (0.9, 0.99)

    @staticmethod
    def update(
        parameters: Tensor, state: dict[str, Tensor], gradient: Tensor, rate: Tensor
    ) -> None:
        """Change `parameters` and `state` in place; `rate` is (m, 1)."""
        beta1, beta2 = Adam.BETAS
        state["steps"] += 1
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].lerp_(gradient.square(), 1 - beta2)
        unbias1 = 1 - beta1 ** state["steps"]
        unbias2 = 1 - beta2 ** state["steps"]
        scale = (state["second"] / unbias2).sqrt_().add_(1e-8)
        parameters.sub_(state["first"] / scale * (rate / unbias1))
