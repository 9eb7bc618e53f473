"""Total charge and spin as inputs of a network on graphs."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import softplus

from pal.kernels.models.parts.graphs import Graphs


class Electrons(nn.Module):
    """A number of electrons per system, spread over its atoms by learnt shares.

    The electronic embedding of SpookyNet, Unke et al., Nat. Commun. 12, 7273 (2021), shortened.
    With features x of the atoms' elements and the number Q, of which the sign chooses key k and
    value v: a_i = Q s_i / sum_j s_j, s_i = softplus(W x_i k / sqrt(F)), and the atom's features
    change by a small network without biases of a_i v. For Q = 0 nothing changes.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.keys = nn.Embedding(2, hidden)
        self.values = nn.Embedding(2, hidden)
        self.mix = nn.Sequential(
            nn.SiLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.SiLU(),
            nn.Linear(hidden, hidden, bias=False),
        )

    def forward(self, kinds: Tensor, number: Tensor, graphs: Graphs) -> Tensor:
        """Return the change (N, hidden) of features `kinds` (N, hidden) for `number` (n,)."""
        sign = (number < 0).long()[graphs.molecule]
        match = (self.query(kinds) * self.keys(sign)).sum(-1) / math.sqrt(kinds.shape[-1])
        shares = softplus(match)
        spread = number / graphs.total(shares)
        amounts = (spread[graphs.molecule] * shares)[:, None] * self.values(sign)
        change: Tensor = amounts + self.mix(amounts)
        return change
