"""Query by committee: where the members disagree, a label is worth its price."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError
from pal.records import BARE, Array, Batch, Prediction, Ranking, Selection


class Deviation:
    """Model deviation of one field of the labels, against a fixed threshold.

    Uncertainty: for a field of vectors per atom (n, atoms, 3), or per state and atom (n, states,
    atoms, 3), the largest over the atoms of the length of the standard deviation over the members,

        max_i sqrt(sum_xyz std(F_i)^2),

    as in Zhang et al., Phys. Rev. Mater. 3, 023804 (2019); the standard deviation is the
    committee's (n - 1 in the denominator). For every other field, and bare arrays: the largest
    standard deviation of any element. With `relative`, each length is divided by that of the mean
    plus `relative`, as in DeePMD-kit (Zeng et al., J. Chem. Phys. 159, 054801 (2023)), so that
    large forces may be less certain.

    Options:
        threshold: uncertainty, in the field's unit (a fraction with `relative`), above which a
            sample is not trusted and becomes a candidate.
        field: name of the labels' field; bare arrays need none.
        relative: size of the mean, in the field's unit, below which the deviation counts as if
            the mean were of this size; none: the deviation itself is the uncertainty.
        upper: uncertainty above which it is not even a candidate, because the geometry itself
            is a product of bad predictions.
        every: so many samples earn one candidate; the most uncertain of the batch is taken.
            The frames of a trajectory resemble their neighbours, so a pause costs nothing and
            spreads the labels over the campaign. 0: no limit.

    Example:
        [selector]
        kernel = "deviation"
        options = { threshold = 0.2, upper = 5.0 }
    """

    def __init__(
        self,
        threshold: float,
        *,
        upper: float = np.inf,
        field: str = "forces",
        relative: float | None = None,
        every: int = 0,
    ) -> None:
        if not (0 <= threshold < upper and every >= 0 and (relative is None or relative > 0)):
            raise ContractError(
                "deviation: expected 0 <= threshold < upper, every >= 0 and relative > 0; got "
                f"threshold = {threshold}, upper = {upper}, every = {every}, relative = {relative}"
            )
        self._threshold = threshold
        self._upper = upper
        self._field = field
        self._relative = relative
        self._every = every
        self._earned = 0.0

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Take the most uncertain samples between the thresholds."""
        uncertainty = self.uncertainty(prediction)
        selection = between(uncertainty, self._threshold, self._upper)
        if not self._every:
            return selection
        chosen = self._earn(np.asarray(selection.candidates), uncertainty)
        return replace(selection, candidates=chosen)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Put the most uncertain first, and drop what the models have learnt meanwhile."""
        return ranked_above(self.uncertainty(prediction), self._threshold)

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
        """Return the model deviation (n,) of each sample, in the field's unit or relative."""
        mean, deviation = prediction.mean, prediction.deviation
        if deviation.uniform:
            return self._uncertainty(mean, deviation)
        result = np.empty(len(deviation))
        for indices, group in deviation.groups():
            result[indices] = self._uncertainty(mean.take(indices), group)
        return result

    def _uncertainty(self, mean: Batch, deviation: Batch) -> NDArray[np.float64]:
        if self._relative is None:
            return model_deviation(self._column(deviation))
        sizes = lengths(self._column(mean)) + self._relative
        return model_deviation(lengths(self._column(deviation)) / sizes)

    def _column(self, labels: Batch) -> Array:
        columns = labels.columns
        if not columns:
            return np.empty((0, 1))
        column = columns.get(self._field, columns.get(BARE))
        if column is None:
            raise ContractError(
                f"deviation: the models predict {sorted(columns)}, not '{self._field}'; "
                "set the selector's option `field` to one of these"
            )
        return column


def between(uncertainty: Array, threshold: float, upper: float) -> Selection:
    """Choose uncertainties (n,) between two thresholds, and trust those up to the lower one."""
    trusted = uncertainty <= threshold
    return Selection(np.flatnonzero(~trusted & (uncertainty < upper)), uncertainty, trusted)


def ranked_above(uncertainty: Array, threshold: float) -> Ranking:
    """Put the most uncertain (n,) first, and drop what a threshold trusts."""
    order = np.argsort(-uncertainty, kind="stable")
    return Ranking(order[uncertainty[order] > threshold], uncertainty)


def model_deviation(deviation: Array) -> NDArray[np.float64]:
    """Return the largest deviation (n,) in each of (n, ...); vectors count by their `lengths`."""
    sizes = lengths(deviation)
    inner = tuple(range(1, sizes.ndim))
    return np.asarray(sizes.max(axis=inner, initial=0.0), dtype=float)


def lengths(field: Array) -> Array:
    """Return the lengths of vectors (n, atoms, 3) or (n, states, atoms, 3); other numbers' size.

    A field of lengths (n, atoms) is left as it is.
    """
    if field.ndim >= 3 and field.shape[-1] == 3:
        return np.asarray(np.sqrt(np.einsum("...x,...x->...", field, field)))
    return np.abs(field)
