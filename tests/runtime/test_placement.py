"""Which processes a campaign has, and with what."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pal.exchange.batching import All, Ready
from pal.runtime import machines
from pal.runtime.orders import Job
from pal.runtime.placement import Placement, place, spread
from pal.settings import parse


@given(st.integers(0, 50), st.integers(1, 20))
def test_spread_is_even_and_in_order_and_leaves_nothing_out(count: int, places: int) -> None:
    crews = spread(count, places)
    assert len(crews) == places
    assert list(itertools.chain(*crews)) == list(range(count))
    sizes = [len(crew) for crew in crews]
    assert max(sizes) - min(sizes) <= 1


def plan(**sections: Any) -> Placement:
    data: dict[str, Any] = {
        role: {"kernel": "toys:Any", **sections.pop(role, {})}
        for role in ("generator", "model", "oracle")
    }
    return place(parse({**data, **sections}), Path("run"), {})


def numbers(jobs: list[Job], name: str) -> list[tuple[int, ...]]:
    return [getattr(job, name) for job in jobs]


def names(found: Placement) -> list[str]:
    return [job.name for job in found.jobs]


def test_the_smallest_campaign() -> None:
    assert names(plan()) == ["exchange", "generator-0", "trainer-0", "oracle-0"]


def test_a_process_for_each_walker_or_several_in_each() -> None:
    assert numbers(plan(generator={"walkers": 3}).of("generator"), "walkers") == [(0,), (1,), (2,)]
    found = plan(generator={"walkers": 7, "hosts": 3})
    assert numbers(found.of("generator"), "walkers") == [(0, 1), (2, 3), (4, 5, 6)]
    assert found.of("exchange")[0].host_of == (0, 0, 1, 1, 2, 2, 2)


def test_never_a_host_without_a_walker() -> None:
    found = plan(generator={"walkers": 2, "hosts": 8})
    assert numbers(found.of("generator"), "walkers") == [(0,), (1,)]


def test_walkers_in_the_committee_s_process() -> None:
    found = plan(generator={"walkers": 4, "placement": "committee"})
    assert not found.of("generator")
    assert found.of("exchange")[0].walkers == (0, 1, 2, 3)


def test_members_spread_over_predictors_and_trainers() -> None:
    found = plan(model={"members": 5, "predictors": 2, "trainers": 3})
    assert numbers(found.of("predictor"), "members") == [(0, 1), (2, 3, 4)]
    assert numbers(found.of("trainer"), "members") == [(0,), (1, 2), (3, 4)]
    exchange = found.of("exchange")[0]
    assert (exchange.members, exchange.seats) == ((), ((0, 1), (2, 3, 4)))


def test_nobody_labels_or_trains_where_that_is_off() -> None:
    found = plan(model={"train": False}, oracle={"enabled": False})
    assert names(found) == ["exchange", "generator-0"]


def test_every_name_is_there_once() -> None:
    found = plan(
        generator={"walkers": 5, "hosts": 2},
        model={"members": 4, "predictors": 2, "trainers": 2},
        oracle={"workers": 3},
    )
    assert len(set(names(found))) == len(names(found)) == 1 + 2 + 2 + 2 + 3
    assert len(found.lines()) == len(found.jobs)


def test_batching_by_the_settings() -> None:
    everyone = plan(exchange={"batching": "all", "max_size": 8})
    assert everyone.of("exchange")[0].batching == All(8)
    ready = plan(exchange={"min_size": 3, "max_wait": "2 s"})
    assert ready.of("exchange")[0].batching == Ready(3, 2.0, None)


@pytest.mark.parametrize(("cores", "pinned"), [(4, True), (5, True), (3, False)])
def test_cores_of_their_own_only_where_there_are_enough_for_all(
    monkeypatch: pytest.MonkeyPatch, cores: int, pinned: bool
) -> None:
    monkeypatch.setattr(machines, "available_cores", lambda: list(range(10, 10 + cores)))
    found = plan()
    taken = [core for job in found.jobs for core in job.cores]
    assert taken == (list(range(10, 14)) if pinned else [])
    assert [len(machine.cores) for machine in found.machines] == [cores]


def test_threads_are_counted_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "available_cores", lambda: list(range(7)))
    found = plan(oracle={"threads": 3}, model={"threads": 1})
    assert found.of("oracle")[0].cores == (3, 4, 5)
    assert not plan(oracle={"threads": 5}).of("oracle")[0].cores


def test_several_devices_are_dealt_out_in_turn() -> None:
    found = plan(
        model={"members": 4, "predictors": 3, "trainers": 2, "device": "cuda:0,2"}
        | {"train_device": "cuda:1"}
    )
    assert [job.device for job in found.of("predictor")] == ["cuda:0", "cuda:2", "cuda:0"]
    assert [job.device for job in found.of("trainer")] == ["cuda:1", "cuda:1"]
