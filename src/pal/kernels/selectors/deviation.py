"""Query by committee: where the members disagree, a label is worth its price."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError
from pal.records import BARE, Array, Batch, Prediction, Ranking, Selection


class Deviation:
    """Selector: the model deviation of one field of the labels, against thresholds.

    Uncertainty: for a field of vectors per atom (n, atoms, 3), the largest over the atoms of
    the length of the standard deviation over the members,

        max_i sqrt(sum_xyz std(F_i)^2),

    as in Zhang et al., Phys. Rev. Mater. 3, 023804 (2019); the standard deviation is the
    committee's (n - 1 in the denominator). For every other field, and bare arrays: the largest
    standard deviation of any element.

    Options:
        field: name of the labels' field; bare arrays need none.
        threshold: uncertainty, in the field's unit, above which a sample is not trusted and
            becomes a candidate.
        upper: uncertainty above which it is not even a candidate, because the geometry itself
            is a product of bad predictions.
        every: so many samples earn one candidate; the most uncertain of the batch is taken.
            The frames of a trajectory resemble their neighbours, so a pause costs nothing and
            spreads the labels over the campaign. 0: no limit.
    """

    def __init__(
        self,
        threshold: float,
        *,
        upper: float = np.inf,
        field: str = "forces",
        every: int = 0,
    ) -> None:
        if not (0 <= threshold < upper and every >= 0):
            raise ContractError(
                "deviation: expected 0 <= threshold < upper and every >= 0; "
                f"got threshold = {threshold}, upper = {upper}, every = {every}"
            )
        self._threshold = threshold
        self._upper = upper
        self._field = field
        self._every = every
        self._earned = 0.0

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Take the most uncertain samples between the thresholds."""
        uncertainty = self.uncertainty(prediction)
        trusted = uncertainty <= self._threshold
        chosen: NDArray[np.intp] = np.flatnonzero(~trusted & (uncertainty < self._upper))
        if self._every:
            chosen = self._earn(chosen, uncertainty)
        return Selection(candidates=chosen, uncertainty=uncertainty, trusted=trusted)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Put the most uncertain first, and drop what the models have learnt meanwhile."""
        uncertainty = self.uncertainty(prediction)
        order = np.argsort(-uncertainty, kind="stable")
        return Ranking(order=order[uncertainty[order] > self._threshold], uncertainty=uncertainty)

    def _earn(
        self, chosen: NDArray[np.intp], uncertainty: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Keep as many of the most uncertain as the samples seen have earned."""
        share = len(uncertainty) / self._every
        # What is not spent at once does not pile up: it would be spent on neighbours later.
        self._earned = min(self._earned + share, max(1.0, share))
        chosen = chosen[np.argsort(-uncertainty[chosen], kind="stable")[: int(self._earned)]]
        self._earned -= len(chosen)
        return chosen

    def uncertainty(self, prediction: Prediction) -> NDArray[np.float64]:
        """Return the model deviation (n,) of each sample, in the field's unit."""
        deviation = prediction.deviation
        if deviation.uniform:
            return model_deviation(self._column(deviation))
        result = np.empty(len(deviation))
        for indices, group in deviation.groups():
            result[indices] = model_deviation(self._column(group))
        return result

    def _column(self, deviation: Batch) -> Array:
        columns = deviation.columns
        if not columns:
            return np.empty((0, 1))
        column = columns.get(self._field, columns.get(BARE))
        if column is None:
            raise ContractError(
                f"deviation: the models predict {sorted(columns)}, not '{self._field}'; "
                "set the selector's option `field` to one of these"
            )
        return column


def model_deviation(deviation: Array) -> NDArray[np.float64]:
    """Return the largest deviation (n,) in each of (n, ...); vectors (n, atoms, 3) count whole."""
    if deviation.ndim == 3 and deviation.shape[-1] == 3:
        squares = np.einsum("nax,nax->na", deviation, deviation)
        return np.asarray(np.sqrt(squares.max(axis=1, initial=0.0)), dtype=float)
    return np.asarray(deviation.reshape(len(deviation), -1).max(axis=1, initial=0.0), dtype=float)
