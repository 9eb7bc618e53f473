"""Samples that no oracle should cost: what tells them, and how the user hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pal.errors import Failure
from pal.records import Batch, Sample
from pal.transport.board import Meter

UNPHYSICAL: Final = "Unphysical"
"""The kind of failure of a walker whose sample is rejected."""

_SELDOM = 60.0
"""Seconds between two reports: models that know little yet send walkers astray in every round."""


class Screen(Protocol):
    """Tells what is unphysical about samples; see `pal.kernels.selectors.parts.screen`."""

    def exploded(self, mean: Batch) -> Mapping[int, str]:
        """Say of those samples whose predicted forces exploded what is wrong."""
        ...

    def outside(self, samples: Batch) -> Mapping[int, str]:
        """Say of those samples that are out of bounds what is wrong."""
        ...

    def overlap(self, sample: Sample) -> str:
        """Say which atoms of a sample overlap, if any do."""
        ...


@dataclass(slots=True)
class Sieved:
    """Candidates by their places: those to keep, and what is wrong with others."""

    kept: list[int] = field(default_factory=list)
    outside: dict[int, str] = field(default_factory=dict)
    overlapping: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Screening:
    """Sorts candidates out, counts rejected samples, and reports one of them now and then."""

    screen: Screen
    meter: Meter
    report: Callable[[Failure], None]
    _untold: int = 0
    _tell_at: float = 0.0

    def sieve(self, candidates: Sequence[Sample], most: int) -> Sieved:
        """Look at candidates until so many are found to keep."""
        found = Sieved()
        outside = self.screen.outside(Batch(candidates))
        for place, sample in enumerate(candidates):
            if len(found.kept) == most:
                break
            if place in outside:
                found.outside[place] = outside[place]
            elif reason := self.screen.overlap(sample):
                found.overlapping[place] = reason
            else:
                found.kept.append(place)
        return found

    def within(self, samples: Batch, trusted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which samples are trusted without those that are out of bounds."""
        outside = self.screen.outside(samples)
        if not outside:
            return trusted
        less = trusted.copy()
        less[list(outside)] = False
        return less

    def note(self, walkers: Sequence[int], reasons: Sequence[str]) -> None:
        """Count samples of these walkers as rejected, for these reasons; there may be none."""
        self.meter.add("rejected", len(walkers))
        self._untold += len(walkers)
        now = time.monotonic()
        if not reasons or now < self._tell_at:
            return
        self._tell_at = now + _SELDOM
        more = f"; {self._untold - 1} more since the last report" if self._untold > 1 else ""
        self._untold = 0
        text = f"its sample is rejected (selector.reject): {reasons[-1]}{more}"
        self.report(Failure("generator", walkers[-1], UNPHYSICAL, text))
