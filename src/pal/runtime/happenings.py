"""What a campaign tells while it runs, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pal.errors import Failure
from pal.monitor.metrics import Snapshot


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line on the screen."""

    text: str
    level: str = "info"


Happening: TypeAlias = Snapshot | Failure | Note
"""What a campaign tells while it runs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended.

    `continued`: the time of its batch job was up, and the next job goes on with the campaign.
    `hasty`: there is no time for what can be made later, such as the report.
    """

    reason: str
    failed: bool = False
    error: BaseException | None = None
    continued: bool = False
    hasty: bool = False
