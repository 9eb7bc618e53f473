"""Signals as an event loop hears them."""

from __future__ import annotations

import os
import signal

import pytest

from pal.runtime import interrupts
from pal.runtime.interrupts import Interrupts


def raised(*numbers: int) -> tuple[list[str], int]:
    """The names that are heard of these signals, and how often the end was asked for."""
    with Interrupts() as heard:
        for number in numbers:
            os.kill(os.getpid(), number)
        names = heard.take()
    return names, heard.count


def test_each_is_heard_and_only_those_that_ask_for_the_end_count():
    names, count = raised(signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
    assert sorted(names) == ["SIGINT", "SIGTERM", "SIGUSR1"]
    assert count == 2


def test_the_echo_of_a_termination_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch):
    with Interrupts() as heard:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            heard.take()
        assert heard.count == 1
        monkeypatch.setattr(interrupts, "_ECHO", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard.take() == ["SIGTERM"]
        assert heard.count == 2


def test_signals_mean_afterwards_what_they_meant_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    raised(signal.SIGUSR1)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before
