"""When a dead worker may be started again. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

HOUR: Final = 3600.0
LONGEST: Final = 30.0


@dataclass(slots=True)
class RestartBudget:
    """At most `budget` restarts within an hour, each after a pause that doubles.

    A worker that held out for a minute starts again with the first pause. An oracle that died
    on a sample is forgiven: the sample is at fault, and has retries and a quarantine.
    """

    budget: int
    delay: float
    _deaths: deque[float] = field(default_factory=deque)
    _pause: float = 0.0

    def next_pause(self, now: float, alive_for: float) -> float | None:
        """Return the seconds to wait before the restart; None when the budget is spent."""
        while self._deaths and self._deaths[0] < now - HOUR:
            self._deaths.popleft()
        if len(self._deaths) >= self.budget:
            return None
        self._deaths.append(now)
        fresh = alive_for > 60.0 or not self._pause
        self._pause = self.delay if fresh else min(LONGEST, 2 * self._pause)
        return self._pause

    def forgive(self) -> None:
        """Forget the deaths so far."""
        self._deaths.clear()
        self._pause = 0.0
