"""Walkers whose samples do not depend on what they hear: each is made from its number alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from pal.records import Feedback, Sample
from pal.roles import Context, Stop


class Numbered(ABC):
    """A walker that sends one sample after the other, whatever the feedback.

    `_make(number)`, which a kernel adds, returns a sample, the same for the same number. Walkers
    share the numbers out among them: walker k of w has k, k + w, k + 2 w and so on, and the number
    is all their state. As `initial.kernel` it yields the first `count`.
    """

    def __init__(self, context: Context, count: int) -> None:
        self._first, self._walkers = context.index, context.count
        self._number = context.index
        self._count = count

    @abstractmethod
    def _make(self, number: int) -> Sample | Stop:
        """Return the sample of a number."""

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next sample; without feedback, the present one again."""
        if feedback is not None:
            self._number += self._walkers
        return self._make(self._number)

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self._first, self._first + self._count * self._walkers, self._walkers):
            sample = self._make(number)
            if isinstance(sample, Stop):
                return
            yield sample

    def get_state(self) -> Any:
        """Return the number of the present sample."""
        return self._number

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        self._number = state


def rng_of(context: Context, number: int) -> np.random.Generator:
    """Return the random numbers of one sample of one walker."""
    return np.random.default_rng([context.seed, number])
