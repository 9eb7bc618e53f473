"""The baseline every active selection has to beat: samples taken blindly."""

from __future__ import annotations

import numpy as np

from pal.errors import ContractError
from pal.kernels.selectors.deviation import Deviation
from pal.records import Batch, Prediction, Ranking, Selection
from pal.roles import Context


class Random:
    """Random choice: the baseline that every active selection has to beat.

    Every sample is a candidate with probability 1 / `every`, however uncertain. Uncertainty and
    trust are those of `deviation`, so that the walkers behave alike and only the choice differs.

    Options:
        threshold: uncertainty, in the field's unit, above which a sample is not trusted.
        every: samples for one candidate, on the mean. Samples expected, divided by the labels to
            spend, spreads these evenly over the campaign.
        field: name of the labels' field; bare arrays need none.

    Example:
        [selector]
        kernel = "random"
        options = { threshold = 0.2, every = 400 }
    """

    def __init__(
        self,
        context: Context,
        threshold: float,
        *,
        every: int,
        field: str = "forces",
    ) -> None:
        if every < 1:
            raise ContractError(f"random: expected every >= 1, got {every}")
        self._deviation = Deviation(threshold, field=field)
        self._rate = 1.0 / every
        self._rng = np.random.default_rng(context.seed)

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Take samples by lot."""
        judged = self._deviation.select(samples, prediction)
        chosen = np.flatnonzero(self._rng.random(len(samples)) < self._rate)
        return Selection(chosen, judged.uncertainty, judged.trusted)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Leave the queue as it is."""
        return Ranking(np.arange(len(queue)), self._deviation.uncertainty(prediction))
