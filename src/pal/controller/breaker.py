"""The breaker: stops a broken oracle from burning the queue, and finds out when it is mended."""

from __future__ import annotations

from typing import Final

from pal.controller.rules import Rules

LONGEST: Final = 1800.0
"""Seconds between two probes, at most."""


class Breaker:
    """Opens when too many samples in a row end without a label; the first label closes it.

    While it is open labels are not made but for one probe at a time. Each probe that fails
    doubles the pause before the next (circuit breaker: M. Nygard, Release It!, 2007).
    """

    def __init__(self, rules: Rules) -> None:
        self.in_a_row = 0
        """Samples that ended without a label since the last label came."""
        self._limit = rules.pause_after
        self._first = rules.probe_after
        self._pause = 0.0
        self._probe_at = 0.0

    @property
    def open(self) -> bool:
        """Whether labelling is held."""
        return self._pause > 0

    def allows(self, now: float, running: int) -> bool:
        """Whether one more label may be started."""
        return not self.open or (now >= self._probe_at and not running)

    def failed(self, now: float) -> bool:
        """Count a sample that ended without a label; tell whether the breaker opens now."""
        self.in_a_row += 1
        if self._limit is None or self.in_a_row < self._limit:
            return False
        opens = not self.open
        # Labels that were under way when it opened are no probes.
        if opens or now >= self._probe_at:
            self._pause = self._first if opens else min(2 * self._pause, LONGEST)
            self._probe_at = now + self._pause
        return opens

    def close(self) -> bool:
        """Note that a label came, or that the operator knows better; tell whether it was open."""
        was_open, self._pause, self.in_a_row = self.open, 0.0, 0
        return was_open

    def govern(self, rules: Rules) -> None:
        """Go by other rules from now on."""
        self._limit, self._first = rules.pause_after, rules.probe_after
        if self._limit is None:
            self._pause = 0.0
