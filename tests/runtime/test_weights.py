"""Weights as files and on their way to the predictors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pal.errors import LedgerError
from pal.runtime.orders import Job
from pal.runtime.releases import Releases
from pal.runtime.weights import facts, fetch, store, stored

WEIGHTS: dict[int, Any] = {
    0: {"layer.0": np.arange(6.0).reshape(2, 3), "scale": np.array(2.0)},
    3: {"layer.0": np.zeros((0, 3)), "scale": np.array(-1.0, dtype="f4")},
}


def test_what_was_stored_comes_back_exactly(tmp_path: Path) -> None:
    store(tmp_path / "v000001", WEIGHTS, {"version": 1, "labels": 5})
    found = fetch(tmp_path / "v000001")
    assert found.keys() == WEIGHTS.keys()
    for member, arrays in WEIGHTS.items():
        assert found[member].keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[member][name].dtype == array.dtype
            np.testing.assert_array_equal(found[member][name], array)
    assert facts(tmp_path / "v000001") == {"version": 1, "labels": 5}


def test_half_of_a_version_is_none(tmp_path: Path) -> None:
    """A kill while storing leaves a folder that nobody takes for weights, and that may go."""
    store(tmp_path / "v000001", WEIGHTS, {"version": 1, "labels": 5})
    half = tmp_path / "v000002.part"
    half.mkdir()
    (half / "member-0.npz").write_bytes(b"half")
    assert [path.name for path in stored(tmp_path)] == ["v000001"]
    store(tmp_path / "v000002", WEIGHTS, {"version": 2, "labels": 9})
    assert [path.name for path in stored(tmp_path)] == ["v000001", "v000002"]
    assert not half.exists()


def test_damaged_or_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="holds no member"):
        fetch(tmp_path / "nowhere")
    store(tmp_path / "v1", WEIGHTS, {"version": 1})
    path = tmp_path / "v1" / "member-3.npz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(LedgerError, match=r"member-3\.npz cannot be read"):
        fetch(tmp_path / "v1")


# Releases --------------------------------------------------------------------------------------


class Channel:
    backlog = 0


class Worker:
    def __init__(self, role: Any, members: tuple[int, ...]) -> None:
        self.job = Job(role, 0, {}, Path(), 0, members=members)
        self.channel: Any = Channel()


class Agent:
    """Keeps what is sent."""

    def __init__(self, *workers: Worker) -> None:
        self.workers = dict(enumerate(workers))
        self.sent: list[tuple[Worker, Any]] = []

    def send(self, worker: Worker, message: Any) -> None:
        self.sent.append((worker, message))


def releases(tmp_path: Path, *workers: Worker) -> tuple[Any, Agent]:
    agent = Agent(*workers)
    return Releases(agent, tmp_path, 2), agent  # type: ignore[arg-type]


def test_each_predictor_gets_its_own_members(tmp_path: Path) -> None:
    one, two = Worker("predictor", (0,)), Worker("predictor", (1,))
    found, agent = releases(tmp_path, Worker("exchange", ()), one, two)
    found.release({0: {"w": 1}}, 5)
    found.release({0: {"w": 2}, 1: {"w": 3}}, 7)
    assert [(w, m.members, m.version) for w, m in agent.sent] == [
        (one, {0: {"w": 1}}, 1),
        (one, {0: {"w": 2}}, 2),
        (two, {1: {"w": 3}}, 2),
    ]


def test_a_slow_predictor_gets_only_the_newest(tmp_path: Path) -> None:
    """What waits for it never grows beyond one committee."""
    slow = Worker("exchange", (0, 1))
    found, agent = releases(tmp_path, slow)
    slow.channel.backlog = 1000
    for value in range(50):
        found.release({value % 2: {"w": value}}, value)
    assert not agent.sent
    found.catch_up()
    assert not agent.sent
    slow.channel.backlog = 0
    found.catch_up()
    ((_, message),) = agent.sent
    assert message.members == {0: {"w": 48}, 1: {"w": 49}}
    assert message.version == 50
    found.catch_up()
    assert len(agent.sent) == 1


def test_a_predictor_that_starts_again_gets_all(tmp_path: Path) -> None:
    worker = Worker("exchange", (0, 1))
    found, agent = releases(tmp_path, worker)
    found.install(worker)
    assert not agent.sent
    worker.channel = None
    found.release({0: {"w": 1}}, 1)
    found.release({1: {"w": 2}}, 1)
    assert not agent.sent
    worker.channel = Channel()
    found.install(worker)
    assert [message.members for _, message in agent.sent] == [{0: {"w": 1}, 1: {"w": 2}}]


def test_only_whole_committees_are_stored_and_each_version_once(tmp_path: Path) -> None:
    found, _ = releases(tmp_path, Worker("exchange", (0, 1)))
    found.release({0: {"w": np.ones(1)}}, 5)
    found.store()
    assert not stored(tmp_path)
    found.release({1: {"w": np.ones(1)}}, 8)
    found.store()
    found.store()
    (folder,) = stored(tmp_path)
    assert facts(folder) == {"version": 2, "labels": 5}
    again, _ = releases(tmp_path, Worker("exchange", (0, 1)))
    again.restore(None)
    assert again.version == 2
    assert again.complete
