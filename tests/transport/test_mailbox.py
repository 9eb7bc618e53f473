"""Mailboxes between an exchange and its predictors, and the board that all may look at."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pal.errors import SlotTooSmallError
from pal.transport.board import COLUMNS, Board
from pal.transport.mailbox import Post
from pal.transport.segment import Segment


def post(size: int = 1 << 20) -> Post:
    return Post(Segment.create(size))


def both_ends(size: int = 1 << 20) -> tuple[Post, Post]:
    """An exchange's end and a predictor's, over the same memory."""
    segment = Segment.create(size)
    return Post(segment), Post(Segment(os.dup(segment.fd), size))


def test_a_request_and_its_reply() -> None:
    exchange, predictor = both_ends()
    for count in (3, 3, 5):
        sample = {"x": np.full((count, 2), float(count)), "n": np.arange(count)}
        exchange.requests.put(sample)
        assert predictor.requests.full
        got: Any = predictor.requests.get()
        np.testing.assert_array_equal(got["x"], sample["x"])
        np.testing.assert_array_equal(got["n"], sample["n"])
        assert not exchange.answered
        predictor.replies.put(got["x"] * 2, predictor.requests.read)
        predictor.requests.take()
        assert exchange.answered
        assert not predictor.requests.full
        np.testing.assert_array_equal(np.asarray(exchange.replies.get()), sample["x"] * 2)


def test_what_get_returns_is_the_reader_s_own() -> None:
    exchange, predictor = both_ends()
    exchange.requests.put(np.zeros(4))
    got = np.asarray(predictor.requests.get())
    exchange.requests.put(np.ones(4))
    np.testing.assert_array_equal(got, np.zeros(4))


def test_a_request_put_in_while_the_last_is_marked_as_taken_stays() -> None:
    """The exchange may be faster than the predictor after its reply."""
    exchange, predictor = both_ends()
    exchange.requests.put(np.zeros(1))
    predictor.requests.get()
    predictor.replies.put(np.zeros(1), predictor.requests.read)
    assert exchange.answered
    exchange.requests.put(np.ones(1))
    predictor.requests.take()
    assert predictor.requests.full, "the second request is not lost"
    assert not exchange.answered


def test_a_late_reply_is_not_taken_for_another() -> None:
    """A predictor died between reply and take; its successor answers the same request again."""
    exchange, first = both_ends()
    exchange.requests.put(np.zeros(1))
    first.requests.get()
    first.replies.put(np.zeros(1), first.requests.read)
    exchange.replies.get()
    second = Post(first.requests._segment)
    assert second.requests.full
    second.requests.get()
    exchange.requests.put(np.ones(1))
    second.replies.put(np.zeros(1), second.requests.read)
    second.requests.take()
    assert not exchange.answered
    assert second.requests.full
    got = second.requests.get()
    second.replies.put(got, second.requests.read)
    assert exchange.answered
    np.testing.assert_array_equal(np.asarray(exchange.replies.get()), [1.0])


def test_a_new_exchange_does_not_take_the_reply_to_the_old_one() -> None:
    old, predictor = both_ends()
    old.requests.put(np.zeros(1))
    predictor.requests.get()
    new = Post(old.requests._segment)
    new.requests.put(np.ones(1))
    predictor.replies.put(np.zeros(1), predictor.requests.read)
    predictor.requests.take()
    assert not new.answered
    assert predictor.requests.full


def test_a_batch_that_does_not_fit_names_the_fix() -> None:
    with pytest.raises(SlotTooSmallError, match=r"exchange\.slot_size"):
        post(1 << 15).requests.put(np.zeros(1 << 14))


@given(st.lists(st.tuples(st.sampled_from("fi"), st.integers(0, 5)), min_size=1, max_size=6))
def test_layouts_may_change_with_every_record(kinds: list[tuple[str, int]]) -> None:
    exchange, predictor = both_ends(1 << 16)
    for number, (kind, size) in enumerate(kinds):
        record = {"a": np.full(size, number, dtype=f"{kind}8"), "b": np.array(number)}
        exchange.requests.put(record)
        got: Any = predictor.requests.get()
        predictor.requests.take()
        for name, array in record.items():
            assert got[name].dtype == array.dtype
            np.testing.assert_array_equal(got[name], array)


# The board -------------------------------------------------------------------------------------


def test_rows_of_the_board_do_not_meet() -> None:
    board = Board.create(3)
    for row in range(3):
        for place, column in enumerate(COLUMNS):
            board.meter(row).add(column, 100 * row + place)
    other = Board(board.segment, 3)
    for row in range(3):
        assert [other.meter(row)[c] for c in COLUMNS] == [
            100 * row + place for place in range(len(COLUMNS))
        ]


def test_work_is_counted_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Board.create(1).meter(0)
    with meter.working():
        clock[0] += 2.0
        assert meter.busy_until(102.0) == 2.0
        clock[0] += 1.0
    assert meter["busy"] == 3.0
    assert meter.busy_until(1000.0) == 3.0


def test_work_cut_short_by_a_crash_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Board.create(1).meter(0)
    with meter.working():
        clock[0] += 2.0
    meter.begin()
    meter.reset()
    assert meter.busy_until(1000.0) == 2.0
