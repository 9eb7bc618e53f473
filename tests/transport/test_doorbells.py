"""One suite over every doorbell: rings are neither lost nor made up."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pal.transport.doorbell import (
    Doorbell,
    EventDoorbell,
    PipeDoorbell,
    attach_doorbell,
    create_doorbell,
)


@pytest.fixture(params=[EventDoorbell, PipeDoorbell])
def bell(request: pytest.FixtureRequest) -> Iterator[Doorbell]:
    if request.param is EventDoorbell and not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    made: Doorbell = request.param.create()
    yield made
    made.close()


def test_a_ring_before_the_wait_is_not_lost(bell: Doorbell) -> None:
    bell.ring()
    bell.wait()


def test_rings_are_taken_all_at_once(bell: Doorbell) -> None:
    for _ in range(1000):
        bell.ring()
    bell.wait()
    assert not bell.wait_for(0.0)


def test_nobody_rang(bell: Doorbell) -> None:
    assert not bell.wait_for(0.0)
    assert not bell.wait_for(0.01)
    assert not bell.wait_for(-1.0)


def test_a_wait_with_a_limit_takes_the_ring(bell: Doorbell) -> None:
    bell.ring()
    assert bell.wait_for(10.0)
    assert not bell.wait_for(0.0)


def test_ringing_never_blocks(bell: Doorbell) -> None:
    """More rings than a pipe holds."""
    for _ in range(100_000):
        bell.ring()
    bell.wait()


def test_the_ring_of_another_thread_wakes(bell: Doorbell) -> None:
    thread = threading.Thread(target=bell.ring)
    thread.start()
    assert bell.wait_for(10.0)
    thread.join()


def test_a_signal_does_not_end_the_wait(bell: Doorbell) -> None:
    """As a batch system sends them to every process of a job; a handler runs, and does no harm."""
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        if len(heard) == 3:
            bell.ring()

    before = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        bell.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert len(heard) >= 3


def test_two_processes_wake_each_other_in_turn(bell: Doorbell) -> None:
    """A thousand times there and back over inherited descriptors."""
    back = type(bell).create()  # type: ignore[attr-defined]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            inherited, answer = attach_doorbell(bell.fds), attach_doorbell(back.fds)
            for _ in range(1000):
                inherited.wait()
                answer.ring()
            code = 0
        finally:
            os._exit(code)
    for _ in range(1000):
        bell.ring()
        assert back.wait_for(10.0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    back.close()


def test_closing_gives_all_descriptors_back(bell: Doorbell) -> None:
    other = type(bell).create()  # type: ignore[attr-defined]
    fds = other.fds
    other.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_this_system_has_a_doorbell() -> None:
    bell = create_doorbell()
    bell.ring()
    assert bell.wait_for(1.0)
    bell.close()
