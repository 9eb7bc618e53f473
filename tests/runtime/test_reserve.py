"""Members that predict NaN go back to the last weights that did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pal.errors import Failure
from pal.records import Batch
from pal.runtime.messages import NewWeights
from pal.runtime.reserve import Reserve, steady

BAD = {"w": np.array(np.nan)}


def good(value: float) -> dict[str, Any]:
    return {"w": np.array(value)}


class Committee:
    """Two members that multiply by their weight; `broken` ones return NaN whatever it is."""

    def __init__(self) -> None:
        self.weights = [1.0, 1.0]
        self.broken: set[int] = set()

    def predict(self, samples: Batch) -> Any:
        return [
            np.asarray(samples) * (np.nan if place in self.broken else weight)
            for place, weight in enumerate(self.weights)
        ]

    def set_weights(self, place: int, weights: Any) -> None:
        self.weights[place] = float(weights["w"])

    def train(self, datasets: Sequence[Any]) -> Any:
        raise NotImplementedError

    def get_weights(self) -> Any:
        raise NotImplementedError


class World:
    """A reserve for members 4 and 7."""

    def __init__(self) -> None:
        self.committee = Committee()
        self.distrusted: list[tuple[int, int, float]] = []
        self.failures: list[Failure] = []
        self.reserve = Reserve(self.committee, (4, 7), self.distrust)

    def distrust(self, member: int, version: int, good: Any) -> None:
        self.distrusted.append((member, version, float(good["w"])))

    def install(self, version: int, **members: Any) -> None:
        named = {int(name[1:]): weights for name, weights in members.items()}
        self.reserve.install(NewWeights(named, version))

    def ask(self) -> list[Any]:
        """Predict for the sample 1.0, as a predictor does."""
        batch = Batch.stacked(np.ones((3, 1)))
        answers = steady(self.reserve, (4, 7), batch, "the model", self.failures.append)
        return [float(np.asarray(answer)[0, 0]) for answer in answers]


@pytest.fixture
def world() -> World:
    return World()


def test_the_last_good_weights_come_back_before_anybody_hears_of_it(world: World) -> None:
    world.install(1, m4=good(2), m7=good(3))
    assert world.ask() == [2, 3]
    world.install(2, m7=BAD)
    assert world.ask() == [2, 3]
    (failure,) = world.failures
    assert (failure.role, failure.index, failure.kind) == ("prediction", 7, "NotFiniteError")
    assert "it is reloaded from weights version 1, and put back" in failure.message
    assert world.distrusted == [(7, 2, 3.0)]
    assert world.ask() == [2, 3]
    assert len(world.failures) == 1


def test_weights_that_were_never_tried_are_not_good(world: World) -> None:
    world.install(1, m4=good(2), m7=good(3))
    world.ask()
    world.install(2, m4=BAD)
    world.install(3, m4=BAD)
    assert world.ask() == [2, 3]
    assert world.distrusted == [(4, 3, 2.0)]


def test_newer_weights_are_used_after_a_fall(world: World) -> None:
    world.install(1, m4=good(2), m7=good(3))
    world.ask()
    world.install(2, m4=BAD)
    world.ask()
    world.install(3, m4=good(5))
    assert world.ask() == [5, 3]
    world.install(4, m4=BAD)
    assert world.ask() == [5, 3], "these are the last good ones now"


def test_without_good_weights_nothing_is_done(world: World) -> None:
    world.install(1, m4=good(2), m7=BAD)
    first, second = world.ask()
    assert first == 2
    assert np.isnan(second)
    assert not world.failures
    assert not world.distrusted


def test_the_newest_weights_stay_where_the_good_ones_do_not_help(world: World) -> None:
    """It is not their fault: they are in use again once the member works."""
    world.install(1, m4=good(2), m7=good(3))
    world.ask()
    world.install(2, m7=good(9))
    world.committee.broken = {1}
    assert np.isnan(world.ask()[1])
    assert not world.distrusted
    world.committee.broken = set()
    assert world.ask() == [2, 9]


def test_good_weights_that_got_lost_in_the_process_are_loaded_again(world: World) -> None:
    world.install(1, m4=good(2), m7=good(3))
    world.ask()
    world.committee.weights[0] = float("nan")
    assert world.ask() == [2, 3]
    assert not world.distrusted, "they are good"
    assert len(world.failures) == 1
