"""A label beyond the job that is given up: whatever it was doing, its place is told free once."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pal.runtime.messages import DropLabel, LabelDone, LabelTask, OracleFree
from pal.runtime.outside.errands import Answer
from pal.runtime.roles.broker import Broker

PLACE, SAMPLE = 3, 17
ANSWER = Answer("labelled", "far", 0.5, np.ones(1))


class ByHand:
    """An executor that does nothing by itself, and a channel that keeps what is sent."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.sent: list[Any] = []

    def submit(self, *_: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing is to be given back."""

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def told(self) -> list[type]:
        """The kinds of messages about the place."""
        return [type(each) for each in self.sent if isinstance(each, LabelDone | OracleFree)]


@pytest.fixture
def by_hand() -> ByHand:
    return ByHand()


@pytest.fixture
def broker(by_hand: ByHand, tmp_path: Path) -> Broker:
    """A broker that has handed one label out."""
    spec = SimpleNamespace(load=lambda: by_hand, target="tests", options={})
    extra = {"count": 4, "threads": 1, "deadline": None, "sanity": None}
    job = SimpleNamespace(
        kernels={"oracle": None, "executor": spec},
        directory=tmp_path,
        home=None,
        seed=0,
        oracles=[PLACE],
        extra=extra,
    )
    meter = SimpleNamespace(add=lambda *_: None)
    made = Broker(SimpleNamespace(job=job, channel=by_hand, meter=meter, born=0.0))  # type: ignore[arg-type]
    made._obey(LabelTask(PLACE, SAMPLE, np.zeros(1), 1))
    return made


def test_one_that_waits_is_never_made(broker: Broker, by_hand: ByHand) -> None:
    broker._obey(DropLabel(PLACE))
    broker._settle()
    assert by_hand.futures[0].cancelled()
    assert by_hand.told() == [OracleFree]


def test_one_that_is_being_made_is_kept_and_its_place_is_free(
    broker: Broker, by_hand: ByHand
) -> None:
    by_hand.futures[0].set_running_or_notify_cancel()
    broker._obey(DropLabel(PLACE))
    assert not by_hand.told(), "it is still at work"
    by_hand.futures[0].set_result(ANSWER)
    broker._settle()
    assert by_hand.told() == [LabelDone, OracleFree]


def test_an_answer_that_crosses_the_order_frees_the_place_all_the_same(
    broker: Broker, by_hand: ByHand
) -> None:
    by_hand.futures[0].set_result(ANSWER)
    broker._settle()
    broker._obey(DropLabel(PLACE))
    assert by_hand.told() == [LabelDone, OracleFree]


def test_an_executor_that_lost_it_before_the_order_came_has_told_so(
    broker: Broker, by_hand: ByHand
) -> None:
    """To be told free twice would take away the label that the place may have by then."""
    by_hand.futures[0].cancel()
    broker._settle()
    broker._obey(DropLabel(PLACE))
    assert by_hand.told() == [OracleFree]


def test_one_that_nobody_gives_up_is_told_once(broker: Broker, by_hand: ByHand) -> None:
    by_hand.futures[0].set_result(ANSWER)
    broker._settle()
    assert by_hand.told() == [LabelDone]
