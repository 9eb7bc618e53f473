"""Doorbells: how one process wakes another that sleeps in the kernel.

A ring is a hint to look, never the news itself: the news is in shared memory, and whoever wakes
looks there. So a ring too many does no harm, and rings may be counted together.
"""

from __future__ import annotations

import os
import select
from typing import Protocol


class Doorbell(Protocol):
    """The contract; `tests/transport` runs one suite over every implementation."""

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors a child must inherit to use this doorbell."""
        ...

    def ring(self) -> None:
        """Wake whoever waits, now or when it waits next. Never blocks."""
        ...

    def wait(self) -> None:
        """Sleep until somebody has rung since the last `wait`; takes all rings at once."""
        ...

    def wait_for(self, seconds: float) -> bool:
        """Like `wait`, but at most so long; tells whether somebody rang."""
        ...

    def close(self) -> None:
        """Give the descriptors back."""
        ...


class EventDoorbell:
    """A Linux eventfd: one system call to ring, one to wait."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def create(cls) -> EventDoorbell:
        """Make a new one."""
        return cls(os.eventfd(0))

    @property
    def fds(self) -> tuple[int, ...]:
        """The eventfd."""
        return (self._fd,)

    def ring(self) -> None:
        """Add one to the eventfd."""
        os.eventfd_write(self._fd, 1)

    def wait(self) -> None:
        """Read the eventfd, which blocks while it is zero."""
        while True:
            try:
                os.eventfd_read(self._fd)
            except InterruptedError:  # unlike other calls, Python does not repeat this one
                continue
            return

    def wait_for(self, seconds: float) -> bool:
        """Wait with a limit."""
        if not _readable(self._fd, seconds):
            return False
        self.wait()
        return True

    def close(self) -> None:
        """Close the eventfd."""
        os.close(self._fd)


class PipeDoorbell:
    """A pipe, for systems without eventfd."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    def create(cls) -> PipeDoorbell:
        """Make a new one."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        return cls(reader, writer)

    @property
    def fds(self) -> tuple[int, ...]:
        """Both ends of the pipe."""
        return (self._reader, self._writer)

    def ring(self) -> None:
        """Write a byte; a full pipe already rings loudly enough."""
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:
            return

    def wait(self) -> None:
        """Read what is in the pipe, which blocks while it is empty."""
        os.read(self._reader, 65536)

    def wait_for(self, seconds: float) -> bool:
        """Wait with a limit."""
        if not _readable(self._reader, seconds):
            return False
        self.wait()
        return True

    def close(self) -> None:
        """Close both ends."""
        os.close(self._reader)
        os.close(self._writer)


def _readable(fd: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))


def create_doorbell() -> Doorbell:
    """Make the best doorbell this system has."""
    return EventDoorbell.create() if hasattr(os, "eventfd") else PipeDoorbell.create()


def attach_doorbell(fds: tuple[int, ...]) -> Doorbell:
    """Open a doorbell that was inherited."""
    return EventDoorbell(fds[0]) if len(fds) == 1 else PipeDoorbell(fds[0], fds[1])
