"""Where a campaign stood when it ended, by order or by accident."""

from __future__ import annotations

from dataclasses import dataclass

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.ledger.entries import SampleRow, StateChange
from pal.ledger.ledger import Ledger

_IN_FLIGHT = (State.RUNNING, State.RETURNED)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a campaign goes on from.

    `queued`: candidates with the attempts made so far; those an oracle was working on come
    first, the others follow by number. `labelled`: numbers in the order of their commits.
    `failed`, `quarantined`, `dropped`: candidates that ended so. `samples`, `uncertain`,
    `epochs`, `version`: as the last metric told. `elapsed`: active seconds so far. `proposed`:
    candidates that walkers proposed in all; `granted`: the last granted total of them.
    """

    queued: tuple[tuple[Candidate, int], ...]
    labelled: tuple[int, ...]
    failed: int
    quarantined: int
    dropped: int
    samples: int
    uncertain: int
    epochs: int
    version: int
    elapsed: float
    proposed: int
    granted: int
    next_sample: int


def restore(ledger: Ledger) -> Restored:
    """Read where the campaign stood; a writable ledger also requeues what was in flight.

    A label that was on its way to the disk but not on it is made anew: nobody acted on it.
    """
    elapsed = ledger.last_time()
    in_flight = ledger.states(*_IN_FLIGHT)
    waiting = ledger.states(State.QUEUED)
    if in_flight and ledger.writable:
        ledger.commit([_requeue(row, elapsed) for row in in_flight])
    counts = ledger.counts()
    next_sample, proposed = ledger.totals()
    metric = ledger.last_metric()
    values = metric.values if metric else {}
    return Restored(
        queued=tuple((row.candidate, row.attempts) for row in (*in_flight, *waiting)),
        labelled=tuple(ledger.labelled_ids()),
        failed=counts[State.FAILED],
        quarantined=counts[State.QUARANTINED],
        dropped=counts[State.DROPPED],
        samples=int(values.get("samples", 0)),
        uncertain=int(values.get("uncertain", 0)),
        epochs=int(values.get("epochs", 0)),
        version=int(values.get("version", 0)),
        elapsed=elapsed,
        proposed=proposed,
        granted=ledger.granted(),
        next_sample=next_sample,
    )


def _requeue(row: SampleRow, time: float) -> StateChange:
    detail = f"was {row.state.value} when the session ended"
    return StateChange(time, row.candidate.sample, State.QUEUED, detail)
