"""A threshold that finds itself: as many candidates as the oracles can label."""

from __future__ import annotations

from typing import Any

import numpy as np

from pal.errors import ContractError
from pal.kernels.selectors.deviation import Deviation, between
from pal.records import Array, Batch, Prediction, Ranking, Selection


class Adaptive:
    """Model deviation against a threshold that holds a target labelling rate.

    The threshold is the quantile of the last `window` uncertainties above which the fraction
    `rate` of all samples lies, so it follows the models as they learn: a fixed one starves the
    oracles when the models get good, and drowns them when walkers enter new ground. It never
    falls below `minimum`, from where on a sample is trusted whatever the rate.

    A rank says nothing of size: where all predictions are bad, as at the beginning, most of them
    are still below the quantile. Give `maximum`, beyond which walkers are lost, and `upper`,
    beyond which their geometries are worth no label, or they explore what does not exist.

    Options:
        rate: candidates per sample, between 0 and 1: labels that the oracles can make in a
            second, divided by the samples that the walkers make in one.
        minimum: lowest threshold, in the field's unit: an error that does not matter.
        maximum: highest threshold, in the field's unit; above it no sample is trusted.
        upper: uncertainty above which a sample is no candidate, as a product of bad predictions.
        field: name of the labels' field.
        window: samples whose uncertainties are remembered.

    Example:
        [selector]
        kernel = "adaptive"
        options = { rate = 0.005, minimum = 0.05, maximum = 1.0, upper = 3.0 }
    """

    def __init__(
        self,
        *,
        rate: float,
        minimum: float = 0.0,
        maximum: float = np.inf,
        upper: float = np.inf,
        field: str = "forces",
        window: int = 10_000,
    ) -> None:
        if not (0 < rate < 1 and 0 <= minimum <= maximum and minimum < upper and window >= 10):
            raise ContractError(
                "adaptive: expected 0 < rate < 1, 0 <= minimum <= maximum, minimum < upper and "
                f"window >= 10; got rate = {rate}, minimum = {minimum}, maximum = {maximum}, "
                f"upper = {upper}, window = {window}"
            )
        self._rate = rate
        self._bounds = (minimum, maximum)
        self._upper = upper
        self._deviation = Deviation(minimum, upper=upper, field=field)
        self._recent = np.empty(window)
        self._count = 0

    @property
    def threshold(self) -> float:
        """The present threshold, in the field's unit."""
        known = self._recent[: min(self._count, len(self._recent))]
        low, high = self._bounds
        return float(np.clip(np.quantile(known, 1 - self._rate), low, high)) if len(known) else low

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Choose what exceeds the threshold that the samples before, and these, have set."""
        uncertainty = self._deviation.uncertainty(prediction)
        self._note(uncertainty)
        return between(uncertainty, self.threshold, self._upper)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Put the most uncertain first; drop what has fallen below the lowest threshold."""
        return self._deviation.rank(queue, prediction)

    def _note(self, uncertainty: Array) -> None:
        size = len(self._recent)
        recent = uncertainty[-size:]
        self._recent[(self._count + np.arange(len(recent))) % size] = recent
        self._count += len(recent)

    def get_state(self) -> Any:
        """Return the uncertainties remembered."""
        return {"recent": self._recent.copy(), "count": self._count}

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`; a window of another length begins anew."""
        if len(state["recent"]) == len(self._recent):
            self._recent = state["recent"].copy()
            self._count = state["count"]
