"""The history of a schedule: what was heard and ordered, as a story and as a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from pal.controller.commands import Command
from pal.controller.events import Event
from pal.errors import Failure

Line: TypeAlias = tuple[int, float, Event | Command]


class History:
    """All events and orders of a schedule, over its sessions, with their times."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.sessions = 0

    def add(self, time: float, what: Event | Command) -> None:
        """Take an event or an order down."""
        self.lines.append((self.sessions, time, what))

    def digest(self) -> str:
        """Return a number for the whole history: the same history, the same number."""
        found = hashlib.blake2b(digest_size=16)
        for session, time, what in self.lines:
            found.update(f"{session} {time!r} {what!r}\n".encode())
        return found.hexdigest()

    def of(self, sample: int) -> list[Line]:
        """Return the lines that speak of a sample."""
        return [line for line in self.lines if mentions(line[2], sample)]


def mentions(what: Event | Command, sample: int) -> bool:
    """Whether an event or an order speaks of a sample."""
    return sample in _samples(what)


def _samples(what: Any) -> Iterator[int]:
    if hasattr(what, "sample"):
        yield what.sample
    for name in ("samples", "add", "remove", "ranked", "order"):
        numbers = getattr(what, name, ())
        if isinstance(numbers, tuple):
            yield from numbers
    for candidate in getattr(what, "candidates", ()):
        yield candidate.sample


def told(line: Line) -> str:
    """Return a line of a history for people: when, heard (<) or ordered (>), what."""
    session, time, what = line
    sign = ">" if type(what).__module__.endswith("commands") else "<"
    said = ", ".join(_said(what))
    return f"{session:2} {time:9.3f} {sign} {type(what).__name__}({said})"


def _said(what: Any) -> Iterator[str]:
    for field in fields(what):
        value = getattr(what, field.name)
        if field.name == "time" or value is None or value is False or value == "":
            continue
        if isinstance(value, Failure):
            yield f"{value.kind}: {value.message}"
        elif field.name == "candidates":
            yield ", ".join(f"{c.sample} of walker {c.walker}" for c in value)
        elif field.name == "uncertainty" or is_dataclass(value):
            continue
        else:
            yield f"{field.name}={value}"
