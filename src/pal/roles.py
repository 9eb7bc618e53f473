"""What a user implements. Small protocols: nothing to inherit, nothing hidden.

A kernel is built as `Class(**options)`; if its `__init__` (or the factory function) takes a
parameter named `context`, it also gets a `Context`. Every role may add `get_state` and
`set_state` (see `Stateful`); it then survives a crash and a restart where it stood. Every role may
add `close` (see `Closable`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pal.records import (
    Batch,
    Dataset,
    Feedback,
    Feedbacks,
    Label,
    Metrics,
    Prediction,
    Ranking,
    Sample,
    Selection,
    Weights,
)


class Stop(enum.Enum):
    """The type of `STOP`."""

    STOP = "stop"


STOP: Final = Stop.STOP
"""Returned by a generator instead of a sample: please end the campaign in good order."""


def _none() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Context:
    """Where a kernel finds itself. `index` counts the instances of its role from zero.

    `seed` differs between instances and is the same in every run of the same settings.
    `directory` exists and belongs to this instance; an oracle gets a fresh one per label.
    `device` is what the placement gave, e.g. "cpu" or "cuda:0".
    """

    role: str
    index: int
    count: int
    seed: int
    directory: Path
    device: str = "cpu"
    threads: int = 1
    training: bool = False
    """Whether this instance of a model is one that learns, in a trainer."""
    news: Callable[[], bool] = _none
    """For a model that trains: whether new labels, or the end, wait for it. `train` should then
    yield soon; who trains for long between two yields may look here in between."""


@runtime_checkable
class Generator(Protocol):
    """One walker."""

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Make one move and return the next sample; `feedback` is None on the first call."""
        ...


@runtime_checkable
class Ensemble(Protocol):
    """Several walkers of one process, moved in one call.

    A generator class that can do so offers it by a classmethod `ensemble(walkers) -> Ensemble`.
    It takes over walkers that have made no step yet (but may have had `set_state`), which are
    not used any more, and knows them by their rows: places in that sequence. Its walkers have
    states. Without one, PAL moves the walkers one after the other.
    """

    def step(
        self, rows: NDArray[np.intp], feedback: Feedbacks | None
    ) -> Batch | Sequence[Sample | Stop]:
        """Move the walkers at these rows, ascending, and return their next samples in order.

        `feedback` has an entry for each of the rows; where it is None, they return their first
        samples, or, as after `set_state`, their present ones again. The other walkers stay where
        they are. A `Batch`, best `Batch.stacked`, is the fastest; a list may hold `STOP`.

        Samples are given away: later steps must not write into their arrays. After an exception
        all walkers of the call go back to their last saved states.
        """
        ...

    def get_state(self, row: int) -> Any:
        """Return the state of one walker: what its own `get_state` returned, were it alone."""
        ...

    def set_state(self, row: int, state: Any) -> None:
        """Let one walker continue from a state, whether it was saved alone or in an ensemble."""
        ...


@runtime_checkable
class Model(Protocol):
    """One member of the committee."""

    def predict(self, samples: Batch) -> Any:
        """Return labels for n samples.

        As an array of shape (n, ...), a mapping of names to such arrays, or a list of n labels.
        """
        ...

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Fit the dataset, yielding metrics after each epoch.

        The runtime may stop between two yields, for new data or at the end of the campaign;
        returning means that the model has nothing more to learn from this dataset.
        """
        ...

    def get_weights(self) -> Weights:
        """Return all that prediction depends on, as named arrays."""
        ...

    def set_weights(self, weights: Weights) -> None:
        """Take over what another instance's `get_weights` returned."""
        ...


@runtime_checkable
class Committee(Protocol):
    """Several members evaluated, and trained, in one call.

    A model class that can do so offers it by a classmethod `committee(models) -> Committee`.
    Without one, PAL calls the members one after the other.
    """

    def predict(self, samples: Batch) -> Any:
        """Return labels with a leading member axis, (members, n, ...), or a list per member."""
        ...

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Fit each member to its own dataset, yielding one metrics per member and epoch."""
        ...

    def get_weights(self) -> Sequence[Weights]:
        """Return the weights of each member."""
        ...

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace the weights of one member (index within this committee)."""
        ...


@runtime_checkable
class Oracle(Protocol):
    """The source of ground truth."""

    def label(self, sample: Sample) -> Label:
        """Return the label of one sample.

        Raises:
            LabelFailure: the physics says no.
        """
        ...


@runtime_checkable
class Selector(Protocol):
    """The central decision: what is labelled, what walkers hear, how the queue is ordered.

    One that looks at the members themselves and gives feedback of its own may say so by an
    attribute `by_members = True`: mean and deviation are then calculated only if it asks for them.
    """

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Judge one batch."""
        ...

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Order the label queue anew with the newest models."""
        ...


@runtime_checkable
class LearningSelector(Selector, Protocol):
    """A selector that hears of every label."""

    def learn(self, samples: Batch, labels: Batch, prediction: Prediction) -> None:
        """Compare n new labels with what the committee predicts before it has learnt them."""
        ...


@runtime_checkable
class Closable(Protocol):
    """A kernel that has something to do before its process ends in good order."""

    def close(self) -> None:
        """Write out, hang up, give back what others may wait for."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A kernel that survives a restart where it stood."""

    def get_state(self) -> Any:
        """Return anything that can be pickled."""
        ...

    def set_state(self, state: Any) -> None:
        """Continue from what `get_state` returned."""
        ...
