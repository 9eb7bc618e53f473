"""What operators changed by hand, as the ledger keeps it, and what of it still holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pal.ledger.entries import Note
from pal.ledger.ledger import Ledger

KIND: Final = "operator"
"""The kind of note that holds a change."""


@dataclass(frozen=True, slots=True)
class Change:
    """One deed of an operator: `by` is "anna@host", `at` the wall clock, seconds since 1970.

    `settings` maps a setting to (value in the settings file, value from now on); equal ones mean
    that the file's holds again. `paused` maps a kernel to whether it rests from now on.
    """

    time: float
    by: str
    at: float
    deed: str
    text: str
    settings: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    paused: Mapping[str, bool] = field(default_factory=dict)

    def note(self) -> Note:
        """Return what is written into the ledger."""
        data = {"by": self.by, "at": self.at, "deed": self.deed, "text": self.text}
        more = {"settings": self.settings, "paused": self.paused}
        return Note(self.time, KIND, json.dumps(data | {k: v for k, v in more.items() if v}))


@dataclass(slots=True)
class Standing:
    """What holds by hand: changed settings with their last change, and kernels that rest."""

    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    by: dict[str, Change] = field(default_factory=dict)
    """The change from which a setting, or a kernel's rest, comes."""
    paused: set[str] = field(default_factory=set)

    def add(self, change: Change) -> None:
        """Take a change in."""
        for key, (was, new) in change.settings.items():
            self.settings[key], self.by[key] = (was, new), change
            if was == new:
                del self.settings[key], self.by[key]
        for kernel, on in change.paused.items():
            self.by[kernel] = change
            (self.paused.add if on else self.paused.discard)(kernel)


def changes(ledger: Ledger) -> list[Change]:
    """Return all that operators changed, in the order of time."""
    return [_read(note) for note in ledger.notes(KIND)]


def standing(ledger: Ledger, time: float = float("inf")) -> Standing:
    """Return what holds by hand, now or at a time on the campaign's clock."""
    return folded(change for change in changes(ledger) if change.time <= time)


def folded(made: Iterable[Change]) -> Standing:
    """Return what holds after these changes."""
    result = Standing()
    for change in made:
        result.add(change)
    return result


def _read(note: Note) -> Change:
    data = json.loads(note.text)
    pairs = {key: (was, new) for key, (was, new) in data.pop("settings", {}).items()}
    return Change(time=note.time, settings=pairs, **data)
