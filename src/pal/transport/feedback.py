"""From the slots of a host to what its walkers hear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pal.records import BARE, Array, Arrays, Batch, Feedback, Feedbacks


class FeedbackReader:
    """Copies feedback of one layout out of a host's slots.

    Mean and deviation of a walker lie one behind the other: `pairs` views both, for each name
    an array (walkers, 2, ...), so that one copy takes them, of one walker or of many.
    """

    def __init__(self, means: Arrays, deviations: Arrays, rows: slice) -> None:
        self._pairs = {name: _joined(means[name], deviations[name])[rows] for name in means}
        self._size = rows.stop - rows.start
        self._rows = list(self._pairs.get(BARE, ()))

    def one(self, row: int, scalars: Sequence[Any]) -> Feedback:
        """Return one walker's feedback."""
        uncertainty, trusted, version = scalars
        if self._rows:
            mean, deviation = self._rows[row].copy()
        else:
            both = {name: pair[row].copy() for name, pair in self._pairs.items()}
            mean = {name: pair[0] for name, pair in both.items()}
            deviation = {name: pair[1] for name, pair in both.items()}
        return Feedback(mean, deviation, uncertainty[row], trusted[row] != 0, version[row])

    def several(self, rows: list[int], lines: Mapping[str, Array]) -> Feedbacks:
        """Return the feedback of several walkers, copied together."""
        if len(rows) == self._size:
            both = {name: pair.copy() for name, pair in self._pairs.items()}
            uncertainty = lines["uncertainty"].copy()
            trusted = lines["trusted"] != 0
        else:
            which = np.array(rows, np.intp)
            both = {name: pair[which] for name, pair in self._pairs.items()}
            uncertainty = lines["uncertainty"][which]
            trusted = lines["trusted"][which] != 0
        return Feedbacks(
            Batch.stacked({name: pair[:, 0] for name, pair in both.items()}),
            Batch.stacked({name: pair[:, 1] for name, pair in both.items()}),
            uncertainty,
            trusted,
            int(lines["version"][rows[0]]),
        )


def _joined(first: Array, second: Array) -> Array:
    """View two arrays (walkers, ...) of one segment as one, (walkers, 2, ...)."""
    apart = second.__array_interface__["data"][0] - first.__array_interface__["data"][0]
    shape, strides = first.shape, first.strides
    return np.lib.stride_tricks.as_strided(
        first, (shape[0], 2, *shape[1:]), (strides[0], apart, *strides[1:])
    )
