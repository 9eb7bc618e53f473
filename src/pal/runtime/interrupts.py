"""Signals as wishes of the operator or of a batch system, heard by an event loop."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import TracebackType
from typing import Any, Final, Self

WALLTIME: Final = signal.SIGUSR1.name
"""The signal by which a batch system, or anybody, says that the time of the job is nearly up."""

_WANTED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_ECHO: Final = 2.0
"""Within so many seconds, SIGTERM is the same one: a batch system sends it to every process of a
job, and scripts and launchers pass theirs on."""


class Interrupts:
    """As a context manager, takes SIGINT, SIGTERM, SIGUSR1; `fd` becomes readable when one came.

    `count` is how often the end was asked for. Outside the main thread somebody else has the
    signals, and `fd` never becomes readable.
    """

    def __init__(self) -> None:
        self.count = 0
        self._terminated = float("-inf")
        self._before: dict[int, Any] = {}
        self._previous = -1

    def __enter__(self) -> Self:
        self.fd, self._writer = os.pipe()
        for fd in (self.fd, self._writer):
            os.set_blocking(fd, False)
        with contextlib.suppress(ValueError):
            for number in _WANTED:
                self._before[int(number)] = signal.signal(number, lambda *_: None)
            self._previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before:
            signal.set_wakeup_fd(self._previous)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._writer)

    def take(self) -> list[str]:
        """Return the names of the signals that came since the last call, and count them."""
        names = []
        for number in os.read(self.fd, 64):
            if number not in _WANTED or (number == signal.SIGTERM and self._is_echo()):
                continue
            self.count += number != signal.SIGUSR1
            names.append(signal.Signals(number).name)
        return names

    def _is_echo(self) -> bool:
        before, self._terminated = self._terminated, time.monotonic()
        return self._terminated - before < _ECHO
