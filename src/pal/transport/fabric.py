"""The contract of the road between agents."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that has arrived."""

    source: int
    message: Any


@dataclass(frozen=True, slots=True)
class Lost:
    """A rank is gone; told once."""

    rank: int
    reason: str


class Fabric(Protocol):
    """Ordered messages between the agents of a campaign."""

    rank: int
    size: int
    survives: bool
    description: str

    def send(self, rank: int, message: Any, stream: Hashable = 0) -> None: ...
    def receive(self) -> list[Letter | Lost]: ...
    def backlog(self, rank: int) -> int: ...
    @property
    def pause(self) -> float: ...
    def expel(self, rank: int, message: Any) -> None: ...
    def close(self, lost: bool = False) -> None: ...
    def abort(self, code: int) -> NoReturn: ...
