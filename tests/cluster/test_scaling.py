"""Workers that come and go on several nodes, and what a lost node does not bring back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hand import Hand
from meanwhile import meanwhile
from rig import Run, check_ledger, eventually, labels_in, number_of_labels, processes_of
from world import World, run_on

from pal.ledger.ledger import Ledger
from pal.runtime.campaign import Campaign

ENDLESS: dict[str, Any] = {
    "generator": {"walkers": 4, "hosts": "each", "options": {"pause": 0.002}},
    "oracle": {"kernel": "toys:Slow", "options": {"seconds": 0.02}, "workers": 2, "grace": 2},
    "selector": {"options": {"threshold": -1.0}},
    "stop": {"after": 60},
    "restart": {"delay": 0.01, "silence": 2},
}


def operated(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    deed: Callable[[Hand, World], None],
    **sections: Any,
) -> Run:
    """Run a campaign on two nodes, and stop it when the operator has done a deed."""
    worlds: list[World] = []

    def prepare(world: World, work: Campaign) -> None:
        worlds.append(world)

    def work() -> None:
        hand = Hand(folder)
        try:
            eventually(lambda: number_of_labels(folder) > 3, "labels")
            deed(hand, worlds[0])
        finally:
            (folder / "requests" / "z.json").write_text('{"stop": "seen enough"}')

    with meanwhile(work):
        result, _ = run_on(2, folder, monkeypatch, prepare, **{**ENDLESS, **sections})
    assert result.error is None
    check_ledger(folder)
    return result


def names(folder: Path, role: str) -> set[str]:
    return {name for name in processes_of(folder).values() if name.startswith(role)}


def more_labels(folder: Path, count: int) -> None:
    before = number_of_labels(folder)
    eventually(lambda: number_of_labels(folder) >= before + count, f"{count} more labels")


def kill(world: World, rank: int) -> None:
    """Have a node die between two turns of the loop, and wait until it has."""
    world.hooks.append(lambda: world.recruits[rank - 1].reason is None and world.kill(rank))
    eventually(lambda: world.recruits[rank - 1].reason is not None, "the node's death")


def test_oracles_that_come_are_spread_over_the_nodes_and_those_let_go_stay_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deed(hand: Hand, world: World) -> None:
        hand.do("scale", kernel="oracle", count=6)
        eventually(lambda: len(names(tmp_path, "oracle")) == 6, "six oracles")
        more_labels(tmp_path, 20)
        hand.do("scale", kernel="oracle", count=3)
        eventually(lambda: len(names(tmp_path, "oracle")) == 3, "three oracles")
        left = names(tmp_path, "oracle")
        kill(world, 1)
        more_labels(tmp_path, 10)
        assert names(tmp_path, "oracle") <= left, "one that was let go has come back"

    operated(tmp_path, monkeypatch, deed)
    with Ledger.open_readonly(tmp_path) as ledger:
        rows = ledger.label_rows()
    assert {row.oracle for row in rows} == set(range(6))
    assert "host1" in {row.host for row in rows}, (
        "no label says that it was made on the other node"
    )
    assert len({row.host for row in rows}) == 2
    for sample, label in labels_in(tmp_path).values():
        assert label[0] == pytest.approx(1 + sample[0] * sample[1])


def test_a_lost_committee_goes_on_without_the_walkers_that_were_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In lockstep it would wait for them for ever."""

    def deed(hand: Hand, world: World) -> None:
        hand.do("scale", kernel="generator", count=3)
        eventually(lambda: len(names(tmp_path, "generator")) == 3, "three walkers")
        kill(world, 1)
        eventually(lambda: "exchange-1" in names(tmp_path, "exchange"), "the committee elsewhere")
        more_labels(tmp_path, 10)
        assert "generator-3" not in names(tmp_path, "generator")
        eventually(lambda: "generator-2" in names(tmp_path, "generator"), "the other walker")
        assert "after" not in hand.do("scale", kernel="generator", count=6)
        eventually(lambda: len(names(tmp_path, "generator")) == 6, "six walkers")
        more_labels(tmp_path, 10)

    operated(tmp_path, monkeypatch, deed, exchange={"batching": "all"})
