"""What the end of a session means: the campaign's end, a pause between jobs, or a failure."""

from __future__ import annotations

from pal.controller.commands import Finish
from pal.controller.manager import Manager
from pal.errors import PalError
from pal.runtime.happenings import Outcome


def outcome_of(finish: Finish, manager: Manager | None, hasty: bool) -> Outcome:
    """Return how a session ended that was told to finish.

    One that stops for its wall-time is to be continued, unless it has done nothing which the next
    one need not do again: jobs would follow one another for ever.
    """
    hasty |= finish.continued
    if finish.continued and not _has_progressed(manager):
        error = PalError(
            f"{finish.reason}, and that came before one new label, sample or epoch: the next job "
            "would get no further; ask for more time, or make single labels shorter"
        )
        return Outcome(str(error), True, error, hasty=hasty)
    return Outcome(finish.reason, finish.failed, None, finish.continued, hasty)


def _has_progressed(manager: Manager | None) -> bool:
    if manager is None:
        return False
    past, now = manager.restored, manager.counts
    before = (len(past.labelled), past.samples, past.epochs)
    return (now.labelled, now.samples, now.epochs) != before
