"""Walkers, committee, selector and desk in this process, each keeping what it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pal.errors import Failure
from pal.exchange.batching import All, Batching
from pal.exchange.loop import Exchange
from pal.exchange.screening import Screen, Screening
from pal.records import (
    Array,
    Batch,
    Feedbacks,
    Prediction,
    Ranking,
    Refusal,
    Sample,
    Selection,
)
from pal.transport.board import Board, Meter


@dataclass
class Walkers:
    """Walkers that send given samples, all ready."""

    samples: Sequence[Sample]
    answers: list[tuple[list[int], Feedbacks | None]] = field(default_factory=list)
    waiting: set[int] | None = None
    refusals: dict[int, Refusal] = field(default_factory=dict)

    def ready(self) -> NDArray[np.intp]:
        everyone = range(len(self.samples))
        return np.array(sorted(everyone if self.waiting is None else self.waiting), np.intp)

    def living(self) -> int:
        return len(self.samples)

    def wake_for(self, quorum: int) -> bool:
        return len(self.ready()) >= quorum

    def gather(self, who: NDArray[np.intp]) -> Batch:
        return Batch([self.samples[index] for index in who])

    def reply(self, who: NDArray[np.intp], feedback: Feedbacks) -> None:
        assert len(feedback.mean) == len(feedback.deviation) == len(who)
        assert len(feedback.uncertainty) == len(feedback.trusted) == len(who)
        self.answers.append((who.tolist(), feedback))

    def reject(self, who: NDArray[np.intp], why: Refusal) -> None:
        self.answers.append((who.tolist(), None))
        self.refusals |= dict.fromkeys(who.tolist(), why)

    def heard(self) -> dict[int, Any]:
        """What each walker heard in all: the mean, or None where it was rejected."""
        found: dict[int, Any] = {}
        for who, feedback in self.answers:
            for place, walker in enumerate(who):
                assert walker not in found, "each is answered once"
                found[walker] = None if feedback is None else feedback.mean[place]
        return found


@dataclass
class Committee:
    """Members that multiply the sample by a factor; `change` may spoil what they return."""

    factors: Sequence[float] = (1.0, 3.0)
    change: Callable[[list[Any]], Any] = lambda labels: labels
    asked: list[Batch] = field(default_factory=list)
    approved: list[list[int]] = field(default_factory=list)
    reverted: list[list[int]] = field(default_factory=list)
    spare: dict[int, Callable[[], None]] = field(default_factory=dict)
    """For members that have good weights in reserve, what happens when they are reloaded."""

    def approve(self, members: Iterable[int]) -> None:
        self.approved.append(sorted(members))

    def mend(self, members: Iterable[int]) -> dict[int, str]:
        chosen = [member for member in members if member in self.spare]
        for member in chosen:
            self.spare[member]()
        return dict.fromkeys(chosen, "it is reloaded")

    def revert(self, members: Iterable[int]) -> None:
        self.reverted.append(sorted(members))

    def predict(self, samples: Batch) -> Any:
        self.asked.append(samples)
        labels: list[Any] = [
            [np.asarray(sample) * factor for sample in samples] for factor in self.factors
        ]
        return self.change(labels)


@dataclass
class Selector:
    """Everything is uncertain, by the number of its place; `change` may spoil the selection."""

    change: Callable[[dict[str, Any]], Any] = lambda fields: Selection(**fields)
    seen: list[Prediction] = field(default_factory=list)

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        self.seen.append(prediction)
        size = len(samples)
        fields = {
            "candidates": np.arange(size),
            "uncertainty": np.arange(size) + 1.0,
            "trusted": np.zeros(size, bool),
        }
        chosen: Selection = self.change(fields)
        return chosen

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        raise NotImplementedError


@dataclass
class Desk:
    """Grants so many candidates in all."""

    granted: int = 1000
    candidates: list[tuple[Any, int, float, int]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    distrusted: list[tuple[int, int]] = field(default_factory=list)

    def distrust(self, member: int, version: int) -> None:
        self.distrusted.append((member, version))

    def free(self) -> int:
        return max(0, self.granted - len(self.candidates))

    def propose(
        self, samples: Sequence[Sample], walkers: Array, uncertainty: Array, version: int
    ) -> None:
        for item in zip(samples, walkers.tolist(), uncertainty.tolist(), strict=True):
            self.candidates.append((*item, version))

    def report(self, failure: Failure) -> None:
        self.failures.append(failure)


def meter() -> Meter:
    return Board.create(1).meter(0)


@dataclass
class Bench:
    """An exchange with all its surroundings."""

    walkers: Walkers
    committee: Committee = field(default_factory=Committee)
    selector: Selector = field(default_factory=Selector)
    desk: Desk = field(default_factory=Desk)
    batching: Batching = field(default_factory=All)
    serial: bool = False
    version: int = 0
    screen: Screen | None = None

    def __post_init__(self) -> None:
        self.meter = meter()
        self.exchange = Exchange(
            self.walkers,
            self.committee,
            len(self.committee.factors),
            self.selector,
            self.batching,
            self.desk,
            self.meter,
            serial=self.serial,
            version=self.version,
            screening=self.screen and Screening(self.screen, self.meter, self.desk.report),
        )

    def round(self) -> None:
        who, seconds = self.exchange.patience()
        assert seconds == 0.0
        self.exchange.round(who)
