"""Virtual time: what is going to happen, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

from pal.controller.events import Event

Happening: TypeAlias = Callable[[], Event | None]
"""Something that happens in the world; it returns what the manager hears of it, if anything."""


class Agenda:
    """Happenings by their time; those of the same time in the order they were entered."""

    __slots__ = ("_entered", "_heap", "time")

    def __init__(self, time: float = 0.0) -> None:
        self.time = time
        self._heap: list[tuple[float, int, Happening]] = []
        self._entered = 0

    def at(self, delay: float, happen: Happening) -> None:
        """Let this happen after a delay in seconds."""
        self.when(self.time + delay, happen)

    def when(self, time: float, happen: Happening) -> None:
        """Let this happen at a time."""
        self._entered += 1
        heapq.heappush(self._heap, (time, self._entered, happen))

    def step(self) -> Event | None:
        """Go to the next happening, and let it happen."""
        self.time, _, happen = heapq.heappop(self._heap)
        return happen()
