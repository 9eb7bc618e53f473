"""The fault campaign in small: each fault once, on a real `pal run`; benchmarks/faults.py does it
often."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fault_scenarios import SCENARIOS, NotHereError

from pal.errors import PalError
from pal.testing import faults

SLOW = {"killed-workers", "killed-exchange-with-members", "killed-agent", "killed-group"}
SLOW |= {"stopped-workers", "stopped-agent", "ledger-overwritten", "full-disk-for-long"}
"""What other tests do in small, each in its own way."""

DAMAGE = {"ledger-cut", "ledger-overwritten"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SCENARIOS],
)
def test_nothing_is_lost_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    try:
        outcomes = list(SCENARIOS[name](tmp_path / "world", random.Random(name)))
    except NotHereError as reason:
        pytest.skip(str(reason))
    assert outcomes
    for outcome in outcomes:
        print(outcome)
        assert not outcome.leaks, outcome
        assert "LEFT" not in outcome.remark, outcome
        # What is younger than the copy may have been on the pages that were damaged.
        assert not outcome.lost or name in DAMAGE, outcome


def test_a_worker_that_is_not_there_cannot_be_killed(tmp_path: Path) -> None:
    assert faults.workers(tmp_path) == {}
    with pytest.raises(PalError, match="there is no worker oracle-7 now; there are: none"):
        faults.kill(tmp_path, "oracle-7")
    with pytest.raises(PalError, match="no campaign runs in"):
        faults.agent(tmp_path)
