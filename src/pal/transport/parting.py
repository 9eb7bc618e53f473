"""What is to be done last in this process, knowing its exit code: it may end the whole job."""

from __future__ import annotations

import atexit
from collections.abc import Callable

_calls: list[Callable[[int], None]] = []


def at_the_end(call: Callable[[int], None]) -> None:
    """Have this called with the exit code when the process ends, after all else."""
    if not _calls:
        atexit.register(part)
    _calls.append(call)


def part(code: int = 0) -> None:
    """Do what is to be done last. Programs that know their exit code call this themselves."""
    while _calls:
        _calls.pop()(code)
