"""Samples are found by what is known of them, their stories told, and changes by hand kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.errors import Failure, LedgerError
from pal.ledger import search
from pal.ledger.changes import Change, changes, folded, standing
from pal.ledger.entries import FailureEntry, NewSample, SessionStarted, StateChange
from pal.ledger.ledger import Ledger
from pal.ledger.search import Order, Wanted
from pal.ledger.story import attempt, tell

Make = Callable[..., Any]


def crash(sample: int, oracle: int, host: str = "node1") -> Failure:
    return Failure("oracle", oracle, "crash", "signal 11", host, sample, "Traceback: segfault")


@pytest.fixture
def filled(ledger: Ledger, molecule: Make, label: Make) -> Ledger:
    """Six samples: queued, running, failed, quarantined, dropped, labelled, 10 s apart."""
    for number in range(6):
        ledger.commit([molecule(number, time=10.0 * number, walker=number % 2)])
    ledger.commit(
        [
            StateChange(61.0, 1, State.RUNNING, attempt(0, "node1", 1), attempts=1),
            StateChange(62.0, 2, State.FAILED, "attempt 1 on oracle 0: Error: no", attempts=2),
            StateChange(63.0, 3, State.QUARANTINED, "attempt 2 on oracle 1: crash", attempts=3),
            FailureEntry(63.0, crash(3, 1)),
            StateChange(64.0, 4, State.DROPPED, "queue full, drop_old"),
            label(5, time=65.0),
        ]
    )
    return ledger


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), [0, 1, 2, 3, 4, 5]),
        (Wanted(states=(State.FAILED, State.QUARANTINED)), [2, 3]),
        (Wanted(walker=1), [1, 3, 5]),
        (Wanted(version=3), []),
        (Wanted(least=1.0), [4, 5]),
        (Wanted(since=30.0, before=40.0), [3, 4]),
        (Wanted(failed_with="crash"), [3]),
        (Wanted(states=(State.QUEUED,), walker=1), []),
    ],
)
def test_samples_are_found(filled: Ledger, wanted: Wanted, expected: list[int]) -> None:
    assert search.numbers(filled, wanted) == expected
    assert search.count(filled, wanted) == len(expected)
    assert [found.row.candidate.sample for found in search.find(filled, wanted)] == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.NUMBER, [0, 1, 2]),
        (Order.NEWEST, [5, 4, 3]),
        (Order.UNCERTAINTY, [5, 4, 3]),
        (Order.TRIES, [3, 2, 1]),
    ],
)
def test_samples_are_sorted_and_the_rest_left_out(
    filled: Ledger, order: Order, expected: list[int]
) -> None:
    assert search.numbers(filled, Wanted(), order, 3) == expected


def test_each_sample_tells_what_happened_last(filled: Ledger) -> None:
    news = {found.row.candidate.sample: found for found in search.find(filled, Wanted())}
    assert (news[0].time, news[0].news) == (0.0, "")
    assert (news[1].time, news[1].news) == (61.0, "oracle 0 on node1, attempt 1")
    assert news[4].news == "queue full, drop_old"
    assert news[5].news == "oracle 1 on node7 in 2.5 s"
    assert search.kinds_of_failure(filled) == ["crash"]


def test_the_story_joins_tries_hosts_and_failures(
    ledger: Ledger, molecule: Make, label: Make
) -> None:
    ledger.commit([SessionStarted(0.0, 1e9, "head", 7, "0.1", "{}")])
    ledger.commit([molecule(1, time=1.0), molecule(2, time=1.0)])
    ledger.commit(
        [
            StateChange(2.0, 1, State.RUNNING, attempt(0, "node1", 1), attempts=1),
            StateChange(3.0, 1, State.QUEUED, "attempt 1 on oracle 0: crash: signal 11"),
            # The next try begins before the failure of the last one is written down.
            StateChange(3.0, 1, State.RUNNING, attempt(1, "", 2), attempts=2),
            FailureEntry(3.0, crash(1, 0)),
            FailureEntry(3.5, crash(2, 0)),
            StateChange(4.0, 1, State.RETURNED, "oracle 1"),
            replace(label(1), time=4.1, seconds=0.9, host="node2"),
        ]
    )
    story = tell(ledger, 1)
    first, second = story.tries
    assert (first.number, first.oracle, first.host, first.seconds) == (1, 0, "node1", 1.0)
    assert (first.state, first.failure) == (State.QUEUED, crash(1, 0))
    assert (second.state, second.failure, second.host) == (State.LABELLED, None, "node2")
    assert second.seconds == pytest.approx(0.9)
    assert story.session is not None
    assert story.session.pid == 7
    assert story.label is not None
    assert not story.failures
    assert tell(ledger, 2).failures == ((3.5, crash(2, 0)),), "no try is known to which it belongs"
    with pytest.raises(LedgerError, match="no sample 9; its samples are 0 to 2"):
        tell(ledger, 9)


def test_a_label_by_hand_ends_no_try(ledger: Ledger, molecule: Make, label: Make) -> None:
    ledger.commit([molecule(1)])
    ledger.commit(
        [
            StateChange(2.0, 1, State.RUNNING, attempt(0, "node1", 1), attempts=1),
            StateChange(3.0, 1, State.RETURNED, "by hand, anna@login1"),
            replace(label(1), oracle=-1, host="by hand, anna@login1"),
        ]
    )
    (only,) = tell(ledger, 1).tries
    assert (only.state, only.outcome) == (State.RETURNED, "by hand, anna@login1")
    (found,) = search.find(ledger, Wanted())
    assert found.news == "by hand, anna@login1"


def change(time: float, **more: Any) -> Change:
    return Change(time, "anna@login1", 1e9 + time, "set", "a text", **more)


def test_changes_by_hand_come_back_and_add_up(ledger: Ledger) -> None:
    made = [
        change(1.0, settings={"stop.labels": (None, 5), "queue.capacity": (4, 9)}),
        change(2.0, paused={"oracle": True, "training": True}),
        change(3.0, settings={"stop.labels": (None, 7)}),
        change(4.0, settings={"queue.capacity": (4, 4)}),
        change(5.0, paused={"oracle": False}),
    ]
    ledger.commit([one.note() for one in made])
    assert changes(ledger) == made
    held = standing(ledger)
    assert held.settings == {"stop.labels": (None, 7)}
    assert held.paused == {"training"}
    assert held.by["stop.labels"] == made[2]
    before = standing(ledger, 2.5)
    assert before.settings == {"stop.labels": (None, 5), "queue.capacity": (4, 9)}
    assert folded([]).settings == {}


def test_a_page_of_many_samples_costs_less_than_reading_them_all(
    tmp_path: Path, molecule: Make
) -> None:
    sample = molecule(0).sample
    with Ledger.open(tmp_path) as ledger:
        ledger.commit(
            [
                NewSample(0.0, Candidate(n, n % 8, n % 50, n % 997 / 997), sample)
                for n in range(20_000)
            ]
        )
        ledger.commit([StateChange(1.0, n, State.FAILED, "no") for n in range(0, 20_000, 2)])
        started = time.perf_counter()
        ledger.states()
        all_rows = time.perf_counter() - started
        wanted = Wanted(states=(State.FAILED,), walker=2, least=0.5)
        started = time.perf_counter()
        found = search.find(ledger, wanted, Order.UNCERTAINTY, 50)
        page = time.perf_counter() - started
    assert len(found) == 50
    assert page < all_rows
