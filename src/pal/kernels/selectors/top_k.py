"""The few best of each batch."""

from __future__ import annotations

import numpy as np

from pal.errors import ContractError
from pal.kernels.selectors.parts.filters import everything, most_uncertain, narrowed, ranked
from pal.records import Batch, Prediction, Ranking, Selection


class TopK:
    """Filter that keeps the most uncertain candidates of each batch.

    A batch is what the committee predicts in one call: with `exchange.batching = "all"` one
    sample of every walker.

    Options:
        count: candidates kept of each batch.

    Example:
        [selector]
        kernel = "pipeline"

        [[selector.options.stages]]
        kernel = "deviation"
        options = { threshold = 0.2 }

        [[selector.options.stages]]
        kernel = "top_k"
        options = { count = 3 }
    """

    def __init__(self, *, count: int) -> None:
        if count < 1:
            raise ContractError(f"top_k: expected count >= 1, got {count}")
        self._count = count

    def refine(self, samples: Batch, prediction: Prediction, selection: Selection) -> Selection:
        """Keep the most uncertain candidates."""
        return narrowed(selection, most_uncertain(selection)[: self._count])

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Choose the most uncertain of all samples."""
        return self.refine(samples, prediction, everything(prediction))

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Put the most uncertain first."""
        ranking = ranked(prediction, np.arange(len(queue)))
        return Ranking(np.argsort(-ranking.uncertainty, kind="stable"), ranking.uncertainty)
