"""Batching policies: who is predicted for together, and how long to wait for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Batching(Protocol):
    """Decides on a batch. Stateless: all it needs to know is passed in."""

    def patience(self, ready: int, living: int, waited: float) -> float | None:
        """Return how many more seconds to wait for walkers; 0 to predict now, None: until a ring.

        `ready` walkers wait for an answer, of `living`; the first has waited `waited` seconds.
        """
        ...

    def quorum(self, living: int) -> int:
        """Return how many walkers must wait before it is worth being woken."""
        ...

    @property
    def limit(self) -> int | None:
        """The largest batch."""
        ...


@dataclass(frozen=True, slots=True)
class All:
    """Every living walker, in the order of their numbers: deterministic lockstep."""

    limit: int | None = None

    def patience(self, ready: int, living: int, waited: float) -> float | None:
        """Wait until all are ready."""
        return 0.0 if ready and ready >= living else None

    def quorum(self, living: int) -> int:
        """Nothing can be done before all are ready."""
        return max(1, living)


@dataclass(frozen=True, slots=True)
class Ready:
    """Whoever is ready, once `size` of them are, or the first has waited `wait` seconds."""

    size: int = 1
    wait: float = 0.01
    limit: int | None = None

    def patience(self, ready: int, living: int, waited: float) -> float | None:
        """Wait for `size` walkers, or all that live, or the time."""
        if not ready:
            return None
        if ready >= min(self.size, living):
            return 0.0
        return max(0.0, self.wait - waited)

    def quorum(self, living: int) -> int:
        """The first one that is ready starts the clock."""
        return 1
