"""What the judges of a session share: time, rules, the disk, and what was said last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.rules import Rules
from pal.simulate.disk import Disk

Ears: TypeAlias = Mapping[type, Callable[[Any], None]]
"""What to do at an event or an order of a type."""


@dataclass(slots=True)
class Account:
    """The campaign as an outsider sees it, from its events and orders alone."""

    rules: Rules
    disk: Disk
    time: float
    states: dict[int, State]
    """Where each sample is said to be."""
    event: ev.Event | None = None
    """The newest event; orders answer it."""
    paused: set[ev.Pausable] = field(default_factory=set)
    ending: bool = False
    hurried: bool = False
    """Whether the end was asked for once more, so that nothing is waited for."""
