"""The baseline every active selection has to beat: samples taken blindly."""

from __future__ import annotations

import numpy as np

from pal.errors import ContractError
from pal.kernels.selectors.deviation import Deviation
from pal.records import Batch, Prediction, Ranking, Selection


class Random:
    """Selector: each sample is a candidate with probability `rate`, whatever its uncertainty.

    Uncertainty and trust are those of `Deviation` with the same `threshold`, `upper` and
    `field`, so that the walkers behave alike and only the choice differs. Choose
    `rate` = labels to spend / samples expected, to spend them evenly over the campaign.
    """

    def __init__(
        self,
        threshold: float,
        rate: float,
        *,
        upper: float = np.inf,
        field: str = "forces",
        seed: int = 0,
    ) -> None:
        if not 0 < rate <= 1:
            raise ContractError(f"random: expected 0 < rate <= 1, got {rate}")
        self._deviation = Deviation(threshold, upper=upper, field=field)
        self._rate = rate
        self._rng = np.random.default_rng(seed)

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Take samples by lot."""
        judged = self._deviation.select(samples, prediction)
        chosen = np.flatnonzero(self._rng.random(len(samples)) < self._rate)
        return Selection(chosen, judged.uncertainty, judged.trusted)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Leave the queue as it is."""
        return Ranking(np.arange(len(queue)), self._deviation.uncertainty(prediction))
