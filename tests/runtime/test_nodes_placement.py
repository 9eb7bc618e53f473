"""What goes on which node: by itself, by hand, and when a node is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pal.errors import SettingsError
from pal.runtime.machines import Machine
from pal.runtime.placement import Placement, place
from pal.runtime.seats import proportional, relocate
from pal.settings import parse


def machines(*cores: int, gpus: dict[int, tuple[str, ...]] | None = None) -> list[Machine]:
    return [
        Machine(rank, f"n{rank}", tuple(range(count)), (gpus or {}).get(rank, ()), count)
        for rank, count in enumerate(cores)
    ]


def plan(nodes: list[Machine], **sections: Any) -> Placement:
    data: dict[str, Any] = {
        role: {"kernel": "toys:Any", **sections.pop(role, {})}
        for role in ("generator", "model", "oracle")
    }
    return place(parse({**data, **sections}), Path("run"), {}, machines=nodes)


def walkers(found: Placement, rank: int) -> list[int]:
    return [w for job in found.on(rank) if job.role != "outpost" for w in job.walkers]


def count(found: Placement, role: str) -> list[int]:
    return [sum(job.role == role for job in found.on(m.rank)) for m in found.machines]


@given(st.integers(0, 60), st.lists(st.integers(1, 64), min_size=1, max_size=6))
def test_shares_go_by_weight_and_nobody_with_a_share_is_left_out(
    total: int, weights: list[int]
) -> None:
    shares = proportional(total, weights)
    assert sum(shares) == total
    assert sum(share > 0 for share in shares) == min(total, len(weights))
    for share, weight in zip(shares, weights, strict=True):
        assert share <= max(1, -(-total * weight // sum(weights)) + len(weights))


def test_every_node_has_a_committee_with_walkers_by_its_cores() -> None:
    found = plan(machines(8, 16, 8), generator={"walkers": 32, "hosts": 4})
    assert count(found, "exchange") == [1, 1, 1]
    assert [len(walkers(found, rank)) for rank in range(3)] == [8, 16, 8]
    assert sorted(w for rank in range(3) for w in walkers(found, rank)) == list(range(32))
    assert [job.rows for job in found.of("exchange")] == [
        tuple(range(8)),
        tuple(range(8, 24)),
        tuple(range(24, 32)),
    ]
    assert [job.index for job in found.of("generator")] == list(range(4))


def test_oracles_and_trainers_go_where_there_is_room() -> None:
    found = plan(
        machines(4, 4, 4),
        generator={"walkers": 3},
        oracle={"workers": 5},
        model={"members": 2, "trainers": 1},
    )
    loads = [sum(job.threads for job in found.on(rank)) for rank in range(3)]
    assert max(loads) - min(loads) <= 1
    assert all(job.cores for job in found.jobs)


def test_committees_that_need_a_gpu_are_where_there_is_one() -> None:
    nodes = machines(16, 8, 16, gpus={1: ("0", "1")})
    found = plan(
        nodes,
        generator={"walkers": 4, "hosts": 1},
        model={"members": 4, "predictors": 2, "device": "cuda", "train_device": "cuda"},
        oracle={"workers": 6},
    )
    assert count(found, "exchange") == [0, 1, 0]
    assert count(found, "trainer") == [0, 1, 0]
    devices = [j.device for j in found.jobs if j.role in ("predictor", "trainer")]
    assert set(devices) == {"cuda:0", "cuda:1"}
    assert count(found, "oracle")[1] < min(count(found, "oracle")[::2])


def test_fewer_replicas_by_wish() -> None:
    found = plan(machines(4, 4, 4, 4), generator={"walkers": 8}, model={"replicas": 2})
    assert count(found, "exchange") == [1, 1, 0, 0]


def test_a_device_for_each_member_by_hand() -> None:
    model = {"members": 3, "predictors": 3, "device": ["cuda:1", "cpu", "cuda:0"]}
    found = plan(machines(4), model=model)
    assert [job.device for job in found.of("predictor")] == ["cuda:1", "cpu", "cuda:0"]


def test_by_hand_as_in_the_paper() -> None:
    """Its `task_per_node`: prediction = [3, 0], learning = [0, 3], and the others anywhere."""
    found = plan(
        machines(4, 4),
        generator={"walkers": 6},
        model={"members": 3, "trainers": 3},
        oracle={"workers": 4},
        placement={"prediction": [3, 0], "training": [0, 3]},
    )
    assert count(found, "predictor") == [3, 0]
    assert count(found, "trainer") == [0, 3]
    assert walkers(found, 0) == list(range(6))
    assert sum(count(found, "oracle")) == 4


def test_walkers_on_a_node_without_a_committee_belong_to_that_of_another() -> None:
    found = plan(
        machines(4, 4),
        generator={"walkers": 5, "hosts": 5},
        placement={"prediction": [1, 0], "generator": [2, 3]},
    )
    (exchange,) = found.of("exchange")
    assert exchange.rows == (0, 1, 2, 3, 4)
    assert exchange.host_of == (0, 1, 2, 2, 2)
    relay = next(job for job in found.on(1) if job.role == "relay")
    assert (relay.rows, relay.host_of) == ((2, 3, 4), (0, 1, 2))


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ({"oracle": [1]}, "has 1 numbers and there are 2 nodes"),
        ({"oracle": [1, 2]}, "places 3 of them; expected 2 in all"),
        ({"prediction": [0, 0]}, "no committee anywhere"),
    ],
)
def test_what_does_not_fit_is_refused(placement: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        plan(machines(4, 4), oracle={"workers": 2}, placement=placement)


def test_walkers_in_the_committee_s_process_must_be_where_it_is() -> None:
    with pytest.raises(SettingsError, match="a whole committee in one process on every node"):
        plan(
            machines(4, 4),
            generator={"walkers": 4, "placement": "committee"},
            placement={"prediction": [1, 0], "generator": [2, 2]},
        )


# A node is lost -------------------------------------------------------------------------------


def test_all_that_a_lost_node_had_goes_elsewhere_while_there_is_room() -> None:
    found = plan(machines(8, 8, 8), generator={"walkers": 3}, oracle={"workers": 6})
    moved, homeless = relocate(found.groups, found.machines, 1)
    assert not homeless
    before = {job.key for job in found.on(1) if job.process}
    assert {job.key for group in moved for job in group.jobs} == before
    assert all(group.node != 1 for group in moved)


def test_oracles_without_room_are_left_out_and_the_rest_is_crowded_in() -> None:
    found = plan(
        machines(2, 2),
        generator={"walkers": 2},
        model={"members": 2, "trainers": 2},
        oracle={"workers": 4},
        placement={"oracle": [2, 2], "training": [1, 1]},
    )
    moved, homeless = relocate(found.groups, found.machines, 1)
    assert [job.role for job in homeless] == ["oracle", "oracle"]
    assert {job.role for group in moved for job in group.jobs} == {
        "exchange",
        "generator",
        "trainer",
    }


def test_who_needs_a_gpu_goes_where_there_is_one_or_nowhere() -> None:
    nodes = machines(8, 8, 8, gpus={1: ("0",), 2: ("5",)})
    found = plan(nodes, generator={"walkers": 2}, model={"members": 2, "device": "cuda"})
    moved, homeless = relocate(found.groups, found.machines, 1)
    (shard,) = [group for group in moved if group.jobs[0].role == "exchange"]
    assert (shard.node, shard.jobs[0].device) == (2, "cuda:5")
    assert not homeless
    left = [machine for machine in found.machines if machine.rank != 1]
    groups = [*(g for g in found.groups if g.node != 1), *moved]
    _, homeless = relocate(groups, left, 2)
    assert {job.role for job in homeless} == {"exchange", "generator"}


def test_jobs_know_their_node_where_there_are_several() -> None:
    assert {job.node for job in plan(machines(4)).jobs} == {None}
    found = plan(machines(4, 4), generator={"walkers": 2})
    assert {job.node for job in found.jobs} == {0, 1}
    moved, _ = relocate(found.groups, found.machines, 1)
    assert {job.node for group in moved for job in group.jobs} == {0}
