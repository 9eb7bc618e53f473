"""Rejected samples are told of now and then, and all of them are counted."""

from typing import Any

import pytest

from pal.errors import Failure
from pal.exchange import screening
from pal.exchange.screening import Screening


class Counts:
    """A meter that only adds."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, _name: str, amount: float) -> None:
        self.total += amount


@pytest.fixture
def told() -> list[Failure]:
    return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(screening.time, "monotonic", lambda: now[0])
    return now


def test_reports_are_seldom_and_say_how_many_there_were(
    told: list[Failure], clock: list[float]
) -> None:
    meter: Any = Counts()
    notes = Screening(screen=None, meter=meter, report=told.append)  # type: ignore[arg-type]
    notes.note([1], ["too near"])
    notes.note([2, 3], ["too near", "too fast"])
    assert [failure.index for failure in told] == [1]
    clock[0] += 100
    notes.note([4], ["too far"])
    assert told[-1].index == 4
    assert "too far; 2 more" in told[-1].message
    assert meter.total == 4


def test_a_round_without_rejected_samples_tells_nothing_of_earlier_ones(
    told: list[Failure], clock: list[float]
) -> None:
    meter: Any = Counts()
    notes = Screening(screen=None, meter=meter, report=told.append)  # type: ignore[arg-type]
    notes.note([1], ["too near"])
    notes.note([2], ["too near"])
    clock[0] += 100
    notes.note([], [])
    assert len(told) == 1
    notes.note([3], ["too far"])
    assert "1 more" in told[-1].message
