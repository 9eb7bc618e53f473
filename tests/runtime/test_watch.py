"""The watch: a worker that takes longer than its deadline, or does not react, is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pal.runtime import watch
from pal.runtime.orders import Job, Role
from pal.runtime.watch import REACT, limits, overdue
from pal.settings import parse
from pal.transport.board import PREDICT, STEP, TRAIN, Board, Meter

Clock = list[float]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: found[0])
    return found


@pytest.fixture
def meter(clock: Clock) -> Meter:
    found = Board.create(1).meter(0)
    found.reset()
    return found


def job(role: Role = "generator", **deadlines: float) -> Job:
    return Job(role, 0, {}, Path(), 0, deadlines=deadlines)


@pytest.mark.parametrize(
    ("call", "name", "setting"),
    [
        (STEP, "step", "generator.deadline"),
        (PREDICT, "predict", "model.deadline"),
        (TRAIN, "train", "model.train_deadline"),
    ],
)
def test_a_call_that_takes_too_long_is_named_with_its_setting(
    clock: Clock, meter: Meter, call: int, name: str, setting: str
) -> None:
    who = job(**{name: 5.0})
    meter.begin(call)
    clock[0] += 5.0
    assert not overdue(who, meter, clock[0], None)
    clock[0] += 0.5
    assert overdue(who, meter, clock[0], None) == f"{name} took longer than 5 s ({setting})"
    meter.end()
    assert not overdue(who, meter, clock[0], None)


def test_each_sign_of_life_begins_the_time_anew(clock: Clock, meter: Meter) -> None:
    """A host of many walkers moves one after the other, each within the deadline."""
    meter.begin(STEP)
    for _ in range(10):
        clock[0] += 4.0
        assert not overdue(job(step=5.0), meter, clock[0], None)
        meter.beat()


def test_a_call_without_a_deadline_takes_as_long_as_it_likes(clock: Clock, meter: Meter) -> None:
    meter.begin(PREDICT)
    clock[0] += 1e6
    assert not overdue(job(), meter, clock[0], None)
    assert not overdue(job("exchange", step=5.0), meter, clock[0], None)


def test_whoever_waits_is_left_alone(clock: Clock, meter: Meter) -> None:
    clock[0] += 1e6
    assert not overdue(job(step=5.0), meter, clock[0], None)


def test_who_is_waited_for_and_does_not_react_is_found(clock: Clock, meter: Meter) -> None:
    waiting = clock[0]
    clock[0] += watch.DEAF + 1.0
    assert overdue(job(step=5.0), meter, clock[0], waiting) == "it did not react for 60 s"
    assert not overdue(job(step=100.0), meter, clock[0], waiting), "nor before its deadline"
    meter.beat()
    assert not overdue(job(step=5.0), meter, clock[0], waiting)


def test_an_exchange_without_members_has_no_deadline_for_those_of_others(
    clock: Clock, meter: Meter
) -> None:
    who = job("exchange", **{REACT: 5.0})
    meter.begin(PREDICT)
    clock[0] += 59.0
    assert not overdue(who, meter, clock[0], clock[0])
    assert not overdue(who, meter, clock[0], None)
    clock[0] += 2.0
    assert "did not react" in overdue(who, meter, clock[0], 1.0)


@pytest.fixture
def settings() -> Callable[..., Any]:
    def make(**sections: Any) -> Any:
        kernels = {role: {"kernel": "x:Y"} for role in ("generator", "model", "oracle")}
        return parse({role: {**kernels[role], **sections.get(role, {})} for role in kernels})

    return make


def test_deadlines_come_from_the_settings(settings: Callable[..., Any]) -> None:
    found = settings(
        generator={"deadline": "2 s"}, model={"deadline": 3, "train_deadline": "1 min"}
    )
    assert limits(found, "step", "predict") == {"step": 2.0, "predict": 3.0}
    assert limits(found, "train") == {"train": 60.0}
    assert limits(found, REACT) == {REACT: 3.0}
    assert limits(settings(), "step", "predict", "train", REACT) == {}
