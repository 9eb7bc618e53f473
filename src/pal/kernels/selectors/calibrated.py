"""Uncertainty in the unit of the error: how far the models disagree, times how wrong they are."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError
from pal.kernels.selectors.deviation import Deviation, between, model_deviation, ranked_above
from pal.records import Array, Batch, Prediction, Ranking, Selection, named


class Calibrated:
    """Model deviation calibrated by the labels as they come, so that it tells the true error.

    A committee is often too sure of itself. Every label that comes shows, before the models
    learn it, the error they made of it: the same largest length of a vector's error as the model
    deviation is of its deviation. The uncertainty is the model deviation times a factor:

    - "scaling": sqrt(mean(error^2) / mean(deviation^2)), which makes it right on the mean, as
      Palmer et al., npj Comput. Mater. 8, 115 (2022);
    - "conformal": the quantile of error / deviation that covers the fraction `coverage` of the
      labels, with the correction for their finite number ceil((n + 1) coverage) / n, as
      Angelopoulos and Bates, arXiv:2107.07511. So large is the error at most, that often.

    The labels were chosen because they are uncertain, so the factor holds where it is needed.

    Options:
        threshold: uncertainty, in the field's unit, above which a sample becomes a candidate and
            is not trusted.
        method: "scaling" or "conformal".
        coverage: of "conformal".
        upper: uncertainty above which a sample is no candidate, as a product of bad predictions.
        field: name of the labels' field.
        window: labels remembered, the newest, because the models get better.
        least: labels needed before the factor differs from 1.

    Example:
        [selector]
        kernel = "calibrated"
        options = { threshold = 0.15, method = "conformal", coverage = 0.9 }
    """

    def __init__(
        self,
        *,
        threshold: float,
        method: Literal["scaling", "conformal"] = "scaling",
        coverage: float = 0.9,
        upper: float = np.inf,
        field: str = "forces",
        window: int = 200,
        least: int = 10,
    ) -> None:
        if method not in ("scaling", "conformal"):
            raise ContractError(
                f"calibrated: expected method = 'scaling' or 'conformal', got {method!r}"
            )
        if not (0 <= threshold < upper and 0 < coverage < 1 and 1 <= least <= window):
            raise ContractError(
                "calibrated: expected 0 <= threshold < upper, 0 < coverage < 1 and "
                f"1 <= least <= window; got threshold = {threshold}, upper = {upper}, "
                f"coverage = {coverage}, least = {least}, window = {window}"
            )
        self._threshold = threshold
        self._upper = upper
        self._method = method
        self._coverage = coverage
        self._least = least
        self._field = field
        self._deviation = Deviation(0.0, field=field)
        self._pairs: deque[tuple[float, float]] = deque(maxlen=window)
        self.factor = 1.0

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Choose what is more uncertain than the threshold."""
        return between(self.uncertainty(prediction), self._threshold, self._upper)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Put the most uncertain first, and drop what the models have learnt meanwhile."""
        return ranked_above(self.uncertainty(prediction), self._threshold)

    def uncertainty(self, prediction: Prediction) -> NDArray[np.float64]:
        """Return the calibrated uncertainty (n,), in the field's unit."""
        return self._deviation.uncertainty(prediction) * self.factor

    def learn(self, samples: Batch, labels: Batch, prediction: Prediction) -> None:
        """Compare new labels with what the models said, and fit the factor anew."""
        deviations = self._deviation.uncertainty(prediction)
        for deviation, label, mean in zip(deviations, labels, prediction.mean, strict=True):
            error = model_deviation((self._of(mean) - self._of(label))[None])
            self._pairs.append((float(deviation), float(error[0])))
        self.factor = self._fit()

    def _of(self, label: Any) -> Array:
        arrays = named(label)
        return np.asarray(arrays.get(self._field, next(iter(arrays.values()))), dtype=float)

    def _fit(self) -> float:
        pairs = np.array([pair for pair in self._pairs if pair[0] > 0])
        if len(pairs) < self._least:
            return 1.0
        deviations, errors = pairs.T
        if self._method == "scaling":
            return float(np.sqrt(np.mean(errors**2) / np.mean(deviations**2)))
        rank = math.ceil((len(pairs) + 1) * self._coverage)
        # Too few labels for the coverage: the largest ratio seen is the best guess there is.
        return float(np.sort(errors / deviations)[min(rank, len(pairs)) - 1])

    def get_state(self) -> Any:
        """Return the labels' deviations and errors."""
        return list(self._pairs)

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        self._pairs.clear()
        self._pairs.extend(state)
        self.factor = self._fit()
