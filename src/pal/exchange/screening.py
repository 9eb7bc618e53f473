"""Samples that no oracle should cost: what tells them, and how the user hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pal.errors import Failure
from pal.records import Batch, Sample
from pal.transport.board import Meter

UNPHYSICAL: Final = "Unphysical"
"""The kind of failure of a walker whose sample is rejected."""

_SELDOM = 60.0
"""Seconds between two reports: models that know little yet send walkers astray in every round."""


class Screen(Protocol):
    """Tells what is unphysical about samples; see `pal.kernels.selectors.parts.screen`."""

    def outside(self, samples: Batch, mean: Batch | None) -> Mapping[int, str]:
        """Say of those samples that are out of bounds, or whose forces exploded, what is wrong."""
        ...

    def overlap(self, sample: Sample) -> str:
        """Say which atoms of a sample overlap, if any do."""
        ...


@dataclass(slots=True)
class Screening:
    """Counts rejected samples, and reports one of them now and then."""

    screen: Screen
    meter: Meter
    report: Callable[[Failure], None]
    _untold: int = 0
    _tell_at: float = 0.0

    def sieve(self, candidates: Sequence[Sample], most: int) -> tuple[list[int], dict[int, str]]:
        """Return the places of up to `most` candidates without overlapping atoms.

        And, for those met on the way that have some, the reason.
        """
        kept: list[int] = []
        refused: dict[int, str] = {}
        for place, sample in enumerate(candidates):
            if len(kept) == most:
                break
            reason = self.screen.overlap(sample)
            if reason:
                refused[place] = reason
            else:
                kept.append(place)
        return kept, refused

    def note(self, walkers: Sequence[int], reasons: Sequence[str]) -> None:
        """Count samples of these walkers as rejected, for these reasons."""
        self.meter.add("rejected", len(walkers))
        self._untold += len(walkers)
        now = time.monotonic()
        if now < self._tell_at:
            return
        self._tell_at = now + _SELDOM
        more = f"; {self._untold - 1} more since the last report" if self._untold > 1 else ""
        self._untold = 0
        self.report(
            Failure(
                "generator",
                walkers[-1],
                UNPHYSICAL,
                f"{reasons[-1]}; the sample is rejected, and its walker goes back to its last "
                f"saved state (selector.reject){more}",
            )
        )
