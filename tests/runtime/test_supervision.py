"""When a dead worker may start again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pal.runtime.supervision import HOUR, LONGEST, RestartBudget


def pauses(budget: RestartBudget, deaths: list[tuple[float, float]]) -> list[float | None]:
    return [budget.next_pause(now, alive) for now, alive in deaths]


def test_the_pause_doubles_and_the_budget_ends() -> None:
    quick = [(float(number), 0.1) for number in range(4)]
    assert pauses(RestartBudget(3, 0.5), quick) == [0.5, 1.0, 2.0, None]


def test_no_budget_no_restart() -> None:
    assert RestartBudget(0, 0.1).next_pause(0.0, 1000.0) is None


def test_the_pause_has_a_longest() -> None:
    found = pauses(RestartBudget(100, 1.0), [(float(number), 0.1) for number in range(20)])
    assert found[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert set(found[5:]) == {LONGEST}


def test_who_held_out_for_a_minute_begins_with_the_first_pause() -> None:
    budget = RestartBudget(10, 0.5)
    assert pauses(budget, [(0.0, 1.0), (1.0, 1.0), (100.0, 99.0)]) == [0.5, 1.0, 0.5]


def test_deaths_are_forgotten_after_an_hour() -> None:
    budget = RestartBudget(2, 0.5)
    assert pauses(budget, [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]) == [0.5, 1.0, None]
    assert budget.next_pause(HOUR + 0.5, 1.0) is not None
    assert budget.next_pause(HOUR + 0.6, 1.0) is None


def test_forgiven_deaths_do_not_count() -> None:
    budget = RestartBudget(1, 0.5)
    for now in range(20):
        assert budget.next_pause(float(now), 0.1) == 0.5
        budget.forgive()


@given(st.integers(0, 6), st.lists(st.floats(0, HOUR), max_size=30))
def test_never_more_restarts_than_the_budget_within_an_hour(limit: int, gaps: list[float]) -> None:
    budget, now, restarts = RestartBudget(limit, 0.1), 0.0, []
    for gap in gaps:
        now += gap
        if budget.next_pause(now, gap) is not None:
            restarts.append(now)
    for start in restarts:
        assert sum(start <= at < start + HOUR for at in restarts) <= limit
