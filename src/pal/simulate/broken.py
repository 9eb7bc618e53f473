"""What a simulation finds: an invariant that does not hold."""

from __future__ import annotations


class Broken(AssertionError):  # noqa: N818 - it says what it is
    """An invariant of the campaign does not hold.

    `invariant` names it shortly, the same each time it breaks; `samples` are those concerned.
    """

    def __init__(self, invariant: str, found: str, samples: tuple[int, ...] = ()) -> None:
        super().__init__(f"{invariant}: {found}")
        self.invariant = invariant
        self.found = found
        self.samples = samples
