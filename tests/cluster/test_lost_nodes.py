"""Nodes that die, freeze, are cut off or come back: the campaign goes on and loses no label."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from rig import Run, check_ledger, eventually, labels_in, versions
from world import Recruit, World, run_on

from pal.monitor.metrics import Snapshot
from pal.runtime import wire
from pal.runtime.campaign import Campaign
from pal.runtime.happenings import Happening
from pal.runtime.messages import NewWeights

BUSY: dict[str, Any] = {
    "generator": {"walkers": 8, "hosts": 4, "options": {"pause": 0.002}},
    "oracle": {"kernel": "toys:Slow", "options": {"seconds": 0.02}, "workers": 4, "grace": 2},
    "model": {"kernel": "toys:Quadratic", "members": 4, "trainers": 2},
    "stop": {"labels": 150, "after": 60},
    "restart": {"delay": 0.01, "silence": 2},
}


ENDLESS = {**BUSY, "stop": {"after": 60}}
"""Goes on until the test has seen what it waits for."""

SLOW = {**BUSY, "oracle": {**BUSY["oracle"], "options": {"seconds": 0.1}}}
"""Goes on for longer than an agent may be silent."""


def after_labels(count: int, deed: Callable[[World], None]) -> Callable[[World, Happening], None]:
    """Do something once there are so many labels."""
    done: list[bool] = []

    def watch(world: World, happening: Happening) -> None:
        if isinstance(happening, Snapshot) and happening.labelled >= count and not done:
            done.append(True)
            deed(world)

    return watch


def kill_then_wait(
    rank: int, labels: int, note: Callable[[], None], reached: Callable[[], bool]
) -> Callable[[World, Happening], None]:
    """Kill a node once there are so many labels; end the campaign when all is as it should be."""
    killed: list[bool] = []

    def watch(world: World, happening: Happening) -> None:
        if not isinstance(happening, Snapshot) or happening.labelled < labels:
            return
        if not killed:
            killed.append(True)
            note()
            world.kill(rank)
        elif reached():
            world.stop()

    return watch


def sound(result: Run, directory: Path, labels: int | None = 150) -> None:
    assert result.error is None
    check_ledger(directory)
    assert labels is None or len(result.labels()) == labels
    for sample, label in result.labels().values():
        assert label[0] == pytest.approx(1 + sample[0] * sample[1])


def lost(result: Run) -> list[int]:
    return [failure.index for failure in result.failures if failure.kind == "NodeLost"]


@pytest.mark.parametrize("rank", [1, 3])
def test_a_node_that_dies_does_not_end_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    result, world = run_on(
        4, tmp_path, monkeypatch, watch=after_labels(30, lambda w: w.kill(rank)), **BUSY
    )
    sound(result, tmp_path)
    assert lost(result) == [rank]
    (text,) = [note for note in result.notes if note.startswith("started elsewhere")]
    assert f"exchange-{rank}" in text
    reasons = [recruit.reason for recruit in world.recruits]
    assert reasons == ["killed" if r == rank else "" for r in (1, 2, 3)]
    assert not result.kinds("oracle"), "nothing is held against the samples"


def test_walkers_of_a_lost_node_go_on_from_their_last_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    walk = {
        "kernel": "toys:Stateful",
        "options": {"log": str(tmp_path / "log"), "pause": 0.002},
        "walkers": 4,
        "hosts": 2,
    }

    def lives(walker: int) -> list[list[int]]:
        """The steps that a walker made in each of its processes."""
        path = tmp_path / "log" / f"steps-{walker}"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        rows = [tuple(map(int, line.split())) for line in lines]
        return [[step for _, step in steps] for _, steps in groupby(rows, lambda row: row[0])]

    def resumed() -> bool:
        return all(len(lives(walker)) > 1 and len(lives(walker)[1]) > 1 for walker in (2, 3))

    result, _ = run_on(
        2,
        tmp_path / "run",
        monkeypatch,
        watch=kill_then_wait(1, 60, lambda: None, resumed),
        **{**ENDLESS, "generator": walk, "save_interval": 0.05},
    )
    sound(result, tmp_path / "run", None)
    for walker in (2, 3):
        first, second = lives(walker)
        assert 1 < second[0] <= first[-1] + 1, "it began anew, or skipped a step"


def test_all_nodes_but_the_head_die_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds = [after_labels(20 + 30 * k, lambda w, rank=k + 1: w.kill(rank)) for k in range(3)]

    def watch(world: World, happening: Happening) -> None:
        for deed in deeds:
            deed(world, happening)

    result, _ = run_on(4, tmp_path, monkeypatch, watch=watch, **BUSY)
    sound(result, tmp_path)
    assert sorted(lost(result)) == [1, 2, 3]


@pytest.mark.parametrize("rank", [1, 2], ids=["the committee's", "the walkers'"])
def test_walkers_and_their_committee_apart_survive_the_loss_of_either_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    (tmp_path / "trace").mkdir()
    walk = {
        "walkers": 6,
        "hosts": 6,
        "options": {"trace": str(tmp_path / "trace"), "pause": 0.002},
    }
    before: list[int] = []

    def note() -> None:
        before.extend(_steps(tmp_path / "trace", 6))

    def all_moved() -> bool:
        after = _steps(tmp_path / "trace", 6)
        return all(b > a for a, b in zip(before, after, strict=True))

    result, _ = run_on(
        3,
        tmp_path / "run",
        monkeypatch,
        watch=kill_then_wait(rank, 40, note, all_moved),
        **{**ENDLESS, "generator": walk},
        placement={"prediction": [0, 1, 0], "generator": [0, 3, 3]},
    )
    sound(result, tmp_path / "run", None)
    assert all_moved(), "a walker stands still"


def _steps(folder: Path, walkers: int) -> list[int]:
    found = []
    for index in range(walkers):
        path = folder / f"walker-{index}"
        found.append(path.stat().st_size if path.exists() else 0)
    return found


def test_a_frozen_node_is_lost_and_told_to_end_when_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come_back(world: World, happening: Happening) -> None:
        if getattr(happening, "kind", "") == "NodeLost":
            world.thaw(2)

    freeze = after_labels(20, lambda w: w.freeze(2))

    def watch(world: World, happening: Happening) -> None:
        freeze(world, happening)
        come_back(world, happening)

    result, world = run_on(3, tmp_path, monkeypatch, watch=watch, **SLOW)
    sound(result, tmp_path)
    assert lost(result) == [2]
    (failure,) = [f for f in result.failures if f.kind == "NodeLost"]
    assert "no sign of life for" in failure.message
    assert "goes on without it" in str(world.recruits[1].reason)


def test_a_node_that_is_cut_off_is_lost_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(world: World) -> None:
        world.fabrics[0].partition(0, 1)

    result, world = run_on(
        2,
        tmp_path,
        monkeypatch,
        watch=after_labels(20, cut),
        **SLOW,
    )
    sound(result, tmp_path)
    assert lost(result) == [1]
    assert "the head gave no sign of life" in str(world.recruits[0].reason)


def test_a_head_that_stands_still_is_given_up_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it comes back it goes on alone, and loses nothing."""

    def stand_still(world: World) -> None:
        world.fabrics[0].freeze(0)
        for recruit in world.recruits:
            _drive(recruit, "the head gave no sign of life")
        world.fabrics[0].thaw(0)

    result, _ = run_on(3, tmp_path, monkeypatch, watch=after_labels(20, stand_still), **BUSY)
    sound(result, tmp_path)
    assert sorted(lost(result)) == [1, 2]


def test_agents_end_with_their_workers_when_the_head_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the head had acknowledged is there when the campaign is run again."""
    before: dict[int, Any] = {}

    def kill_head(world: World) -> None:
        for recruit in world.recruits:
            world.fabrics[0].lose(0, "killed")
            _drive(recruit)
        before.update(labels_in(tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on(3, tmp_path, monkeypatch, watch=after_labels(20, kill_head), **BUSY)
    assert len(before) >= 20
    result, _ = run_on(2, tmp_path, monkeypatch, **BUSY)
    sound(result, tmp_path)
    assert before.keys() <= result.labels().keys()


def _drive(recruit: Recruit, words: str = "the head is lost: killed") -> None:
    def step() -> str | None:
        recruit.step()
        return recruit.reason

    assert words in eventually(step, "the agent ends")


def test_an_oracle_without_room_is_left_out_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's node is full as it is; so the oracles of the lost node have no place."""
    result, _ = run_on(
        2,
        tmp_path,
        monkeypatch,
        watch=after_labels(20, lambda w: w.kill(1)),
        **BUSY,
        placement={"oracle": [2, 2], "training": [2, 0], "generator": [4, 4]},
    )
    sound(result, tmp_path)
    assert sum("there is no room elsewhere for oracle-" in note for note in result.notes) == 2


def test_what_a_lost_node_was_to_pass_on_reaches_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head hands a message for all to half of the agents, and these to the others."""
    options = {"log": str(tmp_path), "pause": 0.002}
    walk = {"kernel": "toys:Informed", "walkers": 5, "options": options}

    def prepare(world: World, _: Campaign) -> None:
        def lie_in_wait() -> None:
            deputy = world.recruits[2].deputy
            if deputy is not None:
                world.hooks.remove(lie_in_wait)
                doers = deputy._node._doers
                pass_on = doers[wire.Spread]

                def die_instead(source: int, order: wire.Spread) -> None:
                    if isinstance(order.message, NewWeights) and len(order.targets) > 1:
                        world.kill(3)
                    else:
                        pass_on(source, order)

                doers[wire.Spread] = die_instead

        world.hooks.append(lie_in_wait)

    def watch(world: World, happening: Happening) -> None:
        gone = world.recruits[2].reason is not None
        if gone and isinstance(happening, Snapshot) and all_heard():
            world.stop()

    def all_heard() -> bool:
        return all(len(heard) > 2 for heard in versions(tmp_path, 5))

    result, _ = run_on(
        5,
        tmp_path / "run",
        monkeypatch,
        prepare=prepare,
        watch=watch,
        **{**ENDLESS, "generator": walk},
    )
    sound(result, tmp_path / "run", None)
    assert lost(result) == [3]
    assert all_heard(), "a walker's committee was forgotten"
