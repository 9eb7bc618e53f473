"""The fabric of one agent: what it sends to itself is there when it looks next."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable
from typing import Any, NoReturn

from pal.errors import TransportError
from pal.transport.fabric import Letter, Lost


class Alone:
    """A world of one rank, without MPI."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self.survives = False
        self.description = "one agent"
        self._letters: list[Letter | Lost] = []

    def send(self, rank: int, message: Any, stream: Hashable = 0) -> None:
        """Keep a message for the next `receive`."""
        if rank != self.rank:
            raise TransportError(f"there is no rank {rank}: this agent is alone")
        self._letters.append(Letter(rank, message))

    def receive(self) -> list[Letter | Lost]:
        """Return what was sent since the last call."""
        letters, self._letters = self._letters, []
        return letters

    def backlog(self, rank: int) -> int:
        """Nothing ever waits."""
        return 0

    @property
    def pause(self) -> float:
        """Nobody else sends: look again when something was sent from here."""
        return 0.0 if self._letters else math.inf

    def expel(self, rank: int, message: Any) -> None:
        """Nobody else is there."""

    @property
    def undead(self) -> bool:
        """Nobody else is there."""
        return False

    def close(self, lost: bool = False, code: int = 0) -> None:
        """Nothing to give back."""

    def abort(self, code: int) -> NoReturn:
        """End this process."""
        os._exit(code)
