"""The board: a row of numbers per worker in shared memory, for whoever wants to look.

A worker writes its own row as it works, which costs nothing; the agent reads all rows once a
second. No message is needed to know how busy everybody is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pal.transport.segment import Segment

COLUMNS = (
    "busy",  # seconds of work finished
    "since",  # monotonic time at which the present work began; 0 when idle
    "rounds",  # batches, labels or epochs finished
    "samples",  # samples predicted
    "uncertain",  # of these, how many were uncertain
    "uncertainty",  # sum of their uncertainties
    "skipped",  # uncertain ones not proposed, because no place was granted
    "rejected",  # unphysical ones, which no oracle was asked for
    "call",  # the kernel's method that runs now: IDLE, STEP, PREDICT or TRAIN
    "alive",  # monotonic time of the last sign of life: a call began or ended, mail was read
    "mail",  # messages the agent has sent to this worker; a worker in a hot loop looks here
    "end",  # not 0 once the agent has told this worker to end
)
_ROW = len(COLUMNS) * 8
_INDEX = {name: index for index, name in enumerate(COLUMNS)}
_COUNTED = slice(_INDEX["rounds"], _INDEX["rejected"] + 1)
_CALL, _ALIVE = _INDEX["call"], _INDEX["alive"]

IDLE, STEP, PREDICT, TRAIN = 0, 1, 2, 3
CALLS: Final = {STEP: "step", PREDICT: "predict", TRAIN: "train"}
"""What a worker may be busy with, by the number in its column "call"."""


class Board:
    """All rows, as the agent sees them."""

    def __init__(self, segment: Segment, rows: int) -> None:
        self.segment = segment
        self._rows = [
            segment.buffer[start : start + _ROW].cast("d") for start in range(0, rows * _ROW, _ROW)
        ]

    @classmethod
    def create(cls, rows: int) -> Board:
        """Make a board of zeros."""
        return cls(Segment.create(max(1, rows) * _ROW), rows)

    def meter(self, row: int) -> Meter:
        """Return one worker's row."""
        return Meter(self._rows[row])


class Meter:
    """One worker's row."""

    __slots__ = ("_row",)

    def __init__(self, row: memoryview[float]) -> None:
        self._row = row

    def __getitem__(self, column: str) -> float:
        value: float = self._row[_INDEX[column]]
        return value

    def reset(self) -> None:
        """Forget work that a worker of this row never finished."""
        self._row[1] = self._row[_CALL] = 0.0
        self._row[_ALIVE] = time.monotonic()

    def add(self, column: str, amount: float = 1.0) -> None:
        """Count."""
        self._row[_INDEX[column]] += amount

    def busy_until(self, now: float) -> float:
        """Seconds of work, the present piece included; `now` is a monotonic time."""
        since = self["since"]
        return self["busy"] + (max(0.0, now - since) if since else 0.0)

    def reading(self, now: float) -> dict[str, float]:
        """Return all that is counted here, as of now, for who cannot look at this board."""
        counted = dict(zip(COLUMNS[_COUNTED], self._row[_COUNTED].tolist(), strict=True))
        return {"busy": self.busy_until(now), **counted}

    def begin(self, call: int = IDLE) -> float:
        """Note that work begins, and what it is; return the time."""
        row = self._row
        now = time.monotonic()
        row[1] = row[_ALIVE] = now
        row[_CALL] = call
        return now

    def end(self) -> None:
        """Note that work has ended."""
        row = self._row
        now = time.monotonic()
        row[0] += now - row[1]
        row[1] = row[_CALL] = 0.0
        row[_ALIVE] = now

    def beat(self) -> None:
        """Give a sign of life."""
        self._row[_ALIVE] = time.monotonic()

    @contextmanager
    def calling(self, call: int) -> Iterator[None]:
        """Note what runs inside, without counting it as work."""
        self._row[_CALL] = call
        self.beat()
        try:
            yield
        finally:
            self._row[_CALL] = IDLE
            self.beat()

    @contextmanager
    def working(self, call: int = IDLE) -> Iterator[None]:
        """Count the time inside as work."""
        self.begin(call)
        try:
            yield
        finally:
            self.end()
