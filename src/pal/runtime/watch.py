"""The watch over workers: which of them does not come back from a kernel, or does not react.

Every worker writes signs of life on its board as it works, which costs nothing; its agent looks at
them once a second. So one that hangs is found, and one that the system has stopped, too. Pure:
time is passed in.
"""

from __future__ import annotations

from typing import Final

from pal.runtime.orders import Job
from pal.settings import Settings
from pal.transport.board import CALLS, Meter

DEAF = 60.0
"""Seconds that a worker with a deadline may take for what lies between two calls of its kernel:
to save a state, to read its mail. A deadline that is longer counts instead."""

SETTINGS: Final = {
    "step": "generator.deadline",
    "predict": "model.deadline",
    "train": "model.train_deadline",
}
"""The setting by which a method of a kernel has its deadline."""

REACT: Final = "react"
"""Instead of a method, for a worker that only waits for those that predict."""


def limits(settings: Settings, *calls: str) -> dict[str, float]:
    """Return the deadlines that the settings give to these calls."""
    found = {}
    for call in calls:
        section, _, key = SETTINGS.get(call, SETTINGS["predict"]).partition(".")
        limit = getattr(getattr(settings, section), key)
        if limit is not None:
            found[call] = limit
    return found


def overdue(job: Job, meter: Meter, now: float, waiting: float | None) -> str:
    """Say why a worker is to be killed; nothing where all is well.

    `waiting`: since when something is known to wait for it; None: nothing does.
    """
    if not job.deadlines:
        return ""
    call, alive = CALLS.get(int(meter["call"]), REACT), meter["alive"]
    limit = job.deadlines.get(call)
    if limit is not None and call in SETTINGS:
        late = now - alive > limit
        return f"{call} took longer than {limit:g} s ({SETTINGS[call]})" if late else ""
    limit = max(DEAF, *job.deadlines.values())
    late = waiting is not None and now - max(alive, waiting) > limit
    return f"it did not react for {limit:g} s" if late else ""
