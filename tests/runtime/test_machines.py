"""What a node has, and how agents that were started several to a node share it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pal.runtime.machines import Machine, available_devices, bound_tightly, shared


def machine(rank: int, host: str, cores: int | range, devices: tuple[str, ...] = ()) -> Machine:
    found = range(cores) if isinstance(cores, int) else cores
    return Machine(rank, host, tuple(found), devices, 64)


def test_one_agent_a_node_has_all_of_it() -> None:
    nodes = [machine(0, "a", 4, ("0", "1")), machine(1, "b", 8)]
    assert shared(nodes) == tuple(nodes)


def test_several_agents_of_a_node_share_it_fairly() -> None:
    nodes = [
        machine(0, "a", 5, ("0", "1", "2")),
        machine(1, "b", 4),
        machine(2, "a", 5, ("0", "1", "2")),
    ]
    first, other, second = shared(nodes)
    assert other.cores == (0, 1, 2, 3)
    assert sorted(first.cores + second.cores) == [0, 1, 2, 3, 4]
    assert sorted(first.devices + second.devices) == ["0", "1", "2"]
    assert abs(len(first.cores) - len(second.cores)) == 1


def test_more_agents_than_cores_or_devices_have_them_together() -> None:
    found = shared([machine(rank, "a", 2, ("0",)) for rank in range(4)])
    assert [m.cores for m in found] == [(0,), (1,), (0,), (1,)]
    assert [m.devices for m in found] == [("0",)] * 4


def test_what_a_launcher_has_bound_apart_stays_apart() -> None:
    nodes = [machine(0, "a", range(2)), machine(1, "a", range(2, 4))]
    assert [m.cores for m in shared(nodes)] == [(0, 1), (2, 3)]


def test_an_agent_that_was_bound_to_one_core_is_told_of() -> None:
    assert "bind-to none" in bound_tightly(machine(0, "a", 1), 1)
    assert not bound_tightly(machine(0, "a", 64), 1)
    assert not bound_tightly(machine(0, "a", 16), 4)


@pytest.mark.parametrize(
    ("visible", "found"), [(None, ("0", "1", "10")), ("", ()), ("1, 3", ("1", "3"))]
)
def test_devices_are_those_of_the_machine_or_those_left_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, found: tuple[str, ...]
) -> None:
    for name in ("nvidia0", "nvidia10", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert available_devices(tmp_path) == found
