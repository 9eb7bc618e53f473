"""Kernels that do nothing, as fast as they can: what is left is PAL's own time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from pal import Batch, Context, Feedback, Prediction, Selection


class Still:
    """A walker that stays where it is. `slow` names one walker that takes `delay` seconds."""

    def __init__(
        self, context: Context, size: int = 114, delay: float = 0.0, slow: int = -1
    ) -> None:
        self._sample = np.random.default_rng(context.seed).normal(size=size)
        self._delay = delay if slow in (-1, context.index) else 0.0

    def step(self, feedback: Feedback | None) -> np.ndarray:
        if self._delay:
            time.sleep(self._delay)
        return self._sample


class Constant:
    """A member that always says the same, after `seconds` of computing nothing."""

    def __init__(self, context: Context, size: int = 345, seconds: float = 0.0) -> None:
        self._answers = np.random.default_rng(context.seed).normal(size=(1024, size))
        self._seconds = seconds

    def predict(self, samples: Batch) -> np.ndarray:
        if self._seconds:
            spin(self._seconds)
        return self._answers[: len(samples)]

    def train(self, dataset: Any) -> Any:
        while True:
            time.sleep(0.05)
            yield {"loss": 0.0}

    def get_weights(self) -> dict[str, np.ndarray]:
        return {"none": np.zeros(1)}

    def set_weights(self, weights: Any) -> None:
        pass


def spin(seconds: float) -> None:
    """Keep this core busy, as inference does."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Content:
    """A selector that trusts everything, or wants a label for one sample in `every` rounds."""

    def __init__(self, every: int = 0) -> None:
        self._every = every
        self._round = 0

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        self._round += 1
        wanted = [0] if self._every and self._round % self._every == 0 else []
        count = len(samples)
        return Selection(wanted, np.zeros(count), np.ones(count, bool))


class Sleeper:
    """An oracle that sleeps."""

    def __init__(self, seconds: float = 0.2) -> None:
        self._seconds = seconds

    def label(self, sample: np.ndarray) -> np.ndarray:
        time.sleep(self._seconds)
        return np.zeros(1)
