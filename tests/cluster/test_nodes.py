"""Campaigns on several nodes: shards, walkers apart from their committee, weights to all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rig import check_ledger, versions
from world import World, run_on, until

from pal.runtime.campaign import Campaign

SHARED: dict[str, Any] = {
    "generator": {"walkers": 8, "hosts": 4},
    "oracle": {"workers": 4},
    "stop": {"labels": 60},
}
APART = {"prediction": [1, 0], "generator": [3, 5]}


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_campaign_runs_on_several_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    result, world = run_on(nodes, tmp_path, monkeypatch, **SHARED)
    assert result.error is None
    check_ledger(tmp_path)
    assert len(result.labels()) == 60
    assert [recruit.reason for recruit in world.recruits] == [""] * (nodes - 1)


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"members": 3, "predictors": 2}},
        {"generator": {"walkers": 8, "placement": "committee"}},
        {"exchange": {"batching": "all"}},
        {"mode": "serial", "initial": {"kernel": "toys:grid"}, "training": {"retrain_size": 5}},
        {"model": {"members": 4, "trainers": 2}},
    ],
    ids=["predictors", "committee", "all", "serial", "trainers"],
)
def test_every_way_of_running_has_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]
) -> None:
    result, _ = run_on(
        3, tmp_path, monkeypatch, **{**SHARED, "stop": {"epochs": 60, "after": 60}, **sections}
    )
    assert result.error is None
    check_ledger(tmp_path)
    assert len(result.labels()) >= 5
    assert result.last.version > 0


def test_every_walker_of_every_node_is_answered_by_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = {"kernel": "toys:Informed", "options": {"log": str(tmp_path)}, "walkers": 6, "hosts": 3}

    def informed() -> bool:
        return all(len(heard) > 2 for heard in versions(tmp_path, 6))

    result, _ = run_on(
        3,
        tmp_path / "run",
        monkeypatch,
        watch=until(informed),
        **{**SHARED, "generator": walk, "stop": {"after": 60}},
    )
    assert result.error is None
    assert informed()
    for heard in versions(tmp_path, 6):
        assert heard == sorted(heard), "older weights came after newer ones"


@pytest.mark.parametrize("batching", ["ready", "all"])
def test_walkers_without_a_committee_use_that_of_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    (tmp_path / "trace").mkdir()
    walk = {"options": {"trace": str(tmp_path / "trace")}, "walkers": 8, "hosts": 4}

    def steps() -> list[int]:
        """The steps of each walker, four numbers a step."""
        paths = [tmp_path / "trace" / f"walker-{index}" for index in range(8)]
        return [path.stat().st_size // 32 if path.exists() else 0 for path in paths]

    result, _ = run_on(
        2,
        tmp_path / "run",
        monkeypatch,
        watch=until(lambda: min(steps()) > 10),
        **{**SHARED, "generator": walk, "stop": {"after": 60}},
        placement=APART,
        exchange={"batching": batching},
    )
    assert result.error is None
    check_ledger(tmp_path / "run")
    assert min(steps()) > 10
    if batching == "all":
        assert max(steps()) - min(steps()) <= 2  # all move in step, wherever they are
    walkers = _proposers(tmp_path / "run")
    assert walkers & {0, 1, 2}
    assert walkers & {3, 4, 5, 6, 7}


def _proposers(directory: Path) -> set[int]:
    from pal.ledger.ledger import Ledger

    with Ledger.open_readonly(directory) as ledger:
        return {row.candidate.walker for row in ledger.states()}


def test_a_rejected_sample_reaches_its_walker_on_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Walker 5, away from its committee, sends NaN once and goes on from its last state."""
    walk = {
        "kernel": "toys:Once",
        "options": {"flag": str(tmp_path / "flag"), "deed": "nan", "who": 5},
        "walkers": 8,
        "hosts": 4,
    }
    result, _ = run_on(
        2, tmp_path / "run", monkeypatch, **{**SHARED, "generator": walk}, placement=APART
    )
    assert result.error is None
    assert (tmp_path / "flag").exists()
    assert [f.index for f in result.failures if f.kind == "NotFiniteError"] == [5]


def test_all_walkers_that_end_on_another_node_end_the_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In step with all others (`all`), those that have ended would hold everybody up."""
    walk = {"kernel": "toys:Finite", "options": {"steps": 5, "only": 6}, "walkers": 8, "hosts": 2}
    result, _ = run_on(
        2,
        tmp_path,
        monkeypatch,
        generator=walk,
        placement=APART,
        exchange={"batching": "all"},
        oracle={"enabled": False},
        stop={"samples": 500, "final_training": 0},
    )
    assert result.error is None
    assert "walker 6 asked to stop" in "".join(result.notes) or result.last.samples >= 500


def test_a_campaign_goes_on_with_another_number_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    walk = {
        "kernel": "toys:Stateful",
        "options": {"log": str(tmp_path / "log")},
        "walkers": 6,
        "hosts": 3,
    }
    sections = {**SHARED, "generator": walk}
    for nodes, labels in ((3, 30), (1, 50), (2, 70)):
        result, _ = run_on(
            nodes, tmp_path / "run", monkeypatch, **{**sections, "stop": {"labels": labels}}
        )
        assert result.error is None
        check_ledger(tmp_path / "run")
        assert len(result.labels()) == labels
    for walker in range(6):
        lines = (tmp_path / "log" / f"steps-{walker}").read_text().split("\n")[:-1]
        steps = [int(line.split()[1]) for line in lines]
        assert steps == sorted(steps), "a walker began anew, or went back, after an orderly stop"


def test_agents_of_another_version_or_with_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(**what: str) -> Any:
        def prepare(world: World, _: Campaign) -> None:
            from dataclasses import replace

            from pal.runtime.node import HEAD

            own = replace(world.recruits[-1].own, **what)
            world.fabrics[2].send(HEAD, own)

        return prepare

    for what, words in (
        ({"version": "PAL 0.0.0, Python 2.7"}, "rank 2 on host2 runs PAL 0.0.0, Python 2.7, the"),
        ({"digest": "ab"}, "rank 2 on host2 has read other settings"),
    ):
        result, world = run_on(3, tmp_path, monkeypatch, prepare=change(**what), **SHARED)
        assert words in str(result.error)
        assert [recruit.reason for recruit in world.recruits] == ["sent home"] * 2
        assert not (tmp_path / "ledger.sqlite").exists()
