"""The mathematics of `DistanceNetwork`: many small networks in one set of stacked arrays.

Axes: m members, n samples, a atoms, p = a (a - 1) / 2 pairs. Lengths in Å, energies in eV,
float32 inside.
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

    def __init__(self, atoms: int, device: str) -> None:
        self.atoms = atoms
        self._i, self._j = np.triu_indices(atoms, 1)
        table = np.zeros((atoms, atoms), dtype=np.int64)
        table[self._i, self._j] = table[self._j, self._i] = np.arange(len(self._i))
        self._table = torch.as_tensor(table.ravel(), device=device)
        self._device = device

    def __len__(self) -> int:
        return len(self._i)

    def describe(self, positions: Array) -> tuple[Tensor, Tensor]:
        """Return inverse distances (n, p) in 1/Å and centred positions (n, a, 3) in Å.

        Differences are taken in float64, so that it does not matter where in space the
        molecule is.
        """
        vectors = positions[:, self._i] - positions[:, self._j]
        inverse = 1.0 / np.sqrt(np.einsum("npx,npx->np", vectors, vectors))
        centred = positions - positions.mean(axis=1, keepdims=True)
        return (
            torch.as_tensor(inverse, dtype=torch.float32, device=self._device),
            torch.as_tensor(centred, dtype=torch.float32, device=self._device),
        )

    def forces(self, slopes: Tensor, inverse: Tensor, centred: Tensor) -> Tensor:
        """Return forces (m, n, a, 3) in eV/Å from dE/d(1/r), `slopes` (m, n, p).

        With f = 1/r, F_i = sum_j w_ij (R_i - R_j) and w_ij = dE/df_ij f_ij^3. The diagonal of
        w is arbitrary, because it cancels.
        """
        pairs = (slopes * inverse**3).index_select(-1, self._table)
        w = pairs.view(*pairs.shape[:-1], self.atoms, self.atoms)
        return w.sum(-1, keepdim=True) * centred - w @ centred


class Layers:
    """Fully connected SiLU networks; the parameters of one member are one row of (m, k)."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        widths = [inputs, *hidden, 1]
        self.shapes: dict[str, tuple[int, ...]] = {}
        for index, (before, after) in enumerate(itertools.pairwise(widths)):
            self.shapes[f"weight{index}"] = (after, before)
            self.shapes[f"bias{index}"] = (after,)
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]

    def initial(self, rng: np.random.Generator) -> Array:
        """Return random parameters (k,), float32: variance 1/inputs keeps signals of order 1."""
        parts = []
        for name, shape in self.shapes.items():
            is_weight = name.startswith("weight")
            spread = shape[-1] ** -0.5 if is_weight else 0.5 * (shape[0] > 1)
            parts.append(rng.normal(0.0, spread, math.prod(shape)))
        return np.concatenate(parts).astype(np.float32)

    def split(self, parameters: Tensor) -> list[Tensor]:
        """Return views (m, *shape) of parameters (m, k), in the order of `shapes`."""
        parts = torch.split(parameters, self._sizes, dim=1)
        shapes = self.shapes.values()
        return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def value_and_slope(self, parameters: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (m, n) and its gradient (m, n, p) with respect to inputs (m, n, p).

        SiLU: s(z) = z sigma(z), s'(z) = sigma(z) + s(z) (1 - sigma(z)).
        """
        views = self.split(parameters)
        weights, biases = views[::2], views[1::2]
        hidden, derivatives = inputs, []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            z = torch.baddbmm(bias[:, None], hidden, weight.mT)
            sigma = torch.sigmoid(z)
            hidden = z * sigma
            derivatives.append(sigma + hidden * (1 - sigma))
        value = torch.baddbmm(biases[-1][:, None], hidden, weights[-1].mT)[..., 0]
        slope = weights[-1]
        for weight, derivative in zip(weights[-2::-1], derivatives[::-1], strict=True):
            slope = torch.bmm(slope * derivative, weight)
        return value, slope


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
