"""Campaigns on several nodes: shards, outposts, weights to all, and nodes that are lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import check_ledger
from world import run_on


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_campaign_runs_on_several_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    result, world = run_on(
        nodes,
        tmp_path,
        monkeypatch,
        generator={"walkers": 8, "hosts": 4},
        oracle={"workers": 4},
        stop={"labels": 60},
    )
    assert result.error is None
    check_ledger(tmp_path)
    assert len(result.labels()) == 60
    assert [recruit.reason for recruit in world.recruits] == [""] * (nodes - 1)
