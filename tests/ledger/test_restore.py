from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pal.controller.commands import State
from pal.ledger.entries import GrantedTotal, Metric, SessionStarted, StateChange
from pal.ledger.ledger import Ledger
from pal.ledger.restore import Restored, restore

Make = Callable[..., Any]

ENDS = {4: State.FAILED, 5: State.QUARANTINED, 6: State.DROPPED}


@pytest.fixture
def killed(tmp_path: Path, molecule: Make, label: Make) -> Path:
    """A campaign that ended with samples in every state."""
    with Ledger.open(tmp_path) as ledger:
        ledger.commit([SessionStarted(0.0, 1.0, "node1", 1, "0.1.0", "{}")])
        ledger.commit([molecule(number, walker=number - 1) for number in range(8)])
        ledger.commit([StateChange(1.0, 1, State.RUNNING, attempts=2)])
        ledger.commit([StateChange(1.0, 2, State.RETURNED, attempts=1)])
        ledger.commit([StateChange(1.0, 3, State.RETURNED, attempts=1), label(3)])
        ledger.commit([StateChange(2.0, number, state) for number, state in ENDS.items()])
        ledger.commit([label(7), GrantedTotal(2.0, 55)])
        values = {"samples": 900, "uncertain": 30, "epochs": 12, "version": 4}
        ledger.commit([Metric(3.0, {"samples": 1}), Metric(3.5, values)])
    return tmp_path


def check(restored: Restored) -> None:
    queued = [(candidate.sample, attempts) for candidate, attempts in restored.queued]
    assert queued == [(1, 2), (2, 1), (0, 0)]
    assert restored.queued[0][0].uncertainty == 0.25
    assert restored.labelled == (3, 7)
    assert (restored.failed, restored.quarantined, restored.dropped) == (1, 1, 1)
    assert (restored.samples, restored.uncertain, restored.epochs) == (900, 30, 12)
    assert (restored.version, restored.elapsed) == (4, 3.5)
    assert (restored.proposed, restored.granted, restored.next_sample) == (7, 55, 8)


def test_what_was_in_flight_is_queued_again(killed: Path) -> None:
    with Ledger.open(killed) as ledger:
        check(restore(ledger))
        counts = ledger.counts()
        assert (counts[State.QUEUED], counts[State.RUNNING], counts[State.RETURNED]) == (3, 0, 0)
        assert ledger.story(1)[-1].detail == "was running when the session ended"
    with Ledger.open(killed) as ledger:
        again = restore(ledger)
    assert {candidate.sample for candidate, _ in again.queued} == {0, 1, 2}


def test_looking_changes_nothing(killed: Path) -> None:
    with Ledger.open_readonly(killed) as ledger:
        check(restore(ledger))
        assert ledger.counts()[State.RUNNING] == 1


def test_a_new_campaign_starts_from_nothing(ledger: Ledger) -> None:
    assert restore(ledger) == Restored((), (), 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0)
