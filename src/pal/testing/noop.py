"""Kernels that do nothing, or just wait: what is left is PAL's own time. For benchmarks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from pal.records import Array, Batch, Dataset, Feedback, Metrics, Prediction, Selection, Weights
from pal.roles import Context


class Still:
    """A walker that stays where it is.

    `size`: doubles in its sample. `delay`: seconds asleep in each step; walker number `slow`
    sleeps `factor` times as long.
    """

    def __init__(
        self,
        context: Context,
        size: int = 114,
        delay: float = 0.0,
        slow: int = -1,
        factor: float = 100.0,
    ) -> None:
        self._sample = np.random.default_rng(context.seed).normal(size=size)
        self._delay = delay * (factor if slow == context.index else 1.0)

    def step(self, feedback: Feedback | None) -> Array:
        """Sleep and return the sample."""
        if self._delay and feedback is not None:
            time.sleep(self._delay)
        return self._sample


class Constant:
    """A member that always answers the same `size` doubles.

    `inference`: seconds it keeps its core busy for a batch. `epochs` of `epoch` seconds each:
    a round of training.
    """

    def __init__(
        self,
        context: Context,
        size: int = 345,
        inference: float = 0.0,
        epoch: float = 0.05,
        epochs: int = 1,
    ) -> None:
        self._answers = np.random.default_rng(context.seed).normal(size=(1024, size))
        self._inference = inference
        self._epoch = epoch
        self._epochs = epochs

    def predict(self, samples: Batch) -> Array:
        """Return n rows of numbers, made beforehand."""
        if self._inference:
            end = time.perf_counter() + self._inference
            while time.perf_counter() < end:
                pass
        if len(samples) > len(self._answers):
            self._answers = np.resize(self._answers, (len(samples), self._answers.shape[1]))
        return self._answers[: len(samples)]

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Sleep through the epochs."""
        for _ in range(self._epochs):
            time.sleep(self._epoch)
            yield {"loss": 0.0}

    def get_weights(self) -> Weights:
        """There is one weight, and it means nothing."""
        return {"none": np.zeros(1)}

    def set_weights(self, weights: Weights) -> None:
        """Nothing changes."""


class Content:
    """A selector that trusts everything, and wants `wanted` samples of each batch labelled."""

    def __init__(self, wanted: int = 0) -> None:
        self._wanted = wanted

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Choose the first ones."""
        count = len(samples)
        chosen = range(min(self._wanted, count))
        return Selection(chosen, np.zeros(count), np.ones(count, bool))


class Sleeper:
    """An oracle that sleeps for `seconds`."""

    def __init__(self, seconds: float = 0.2) -> None:
        self._seconds = seconds

    def label(self, sample: Array) -> Array:
        """Sleep and return a zero."""
        time.sleep(self._seconds)
        return np.zeros(1)
