"""Ctrl-C and SIGTERM as wishes of the operator, heard by an event loop."""

from __future__ import annotations

import contextlib
import os
import signal
from types import TracebackType
from typing import Any, Self


class Interrupts:
    """As a context manager, takes SIGINT and SIGTERM; `fd` becomes readable when one came.

    Outside the main thread somebody else has the signals, and it never becomes readable.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}
        self._previous = -1

    def __enter__(self) -> Self:
        self.fd, self._writer = os.pipe()
        for fd in (self.fd, self._writer):
            os.set_blocking(fd, False)
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
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
        numbers = [n for n in os.read(self.fd, 64) if n in (signal.SIGINT, signal.SIGTERM)]
        self.count += len(numbers)
        return [signal.Signals(number).name for number in numbers]
