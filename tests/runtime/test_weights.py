"""Weights as files and on their way to the predictors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pal.errors import LedgerDiskError, LedgerError
from pal.runtime.cluster import Station
from pal.runtime.orders import Job
from pal.runtime.releases import Releases
from pal.runtime.weights import facts, fetch, newest, store, stored

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
    with pytest.raises(LedgerError, match=r"member-3\.npz .* is damaged or cut short"):
        fetch(tmp_path / "v1")


@pytest.mark.parametrize("file", ["member-3.npz", "facts.json"])
@pytest.mark.parametrize("kept", [0, 10, -30])
def test_of_weights_cut_short_the_version_before_is_taken(
    tmp_path: Path, file: str, kept: int
) -> None:
    for version in (1, 2):
        store(tmp_path / f"v00000{version}", WEIGHTS, {"version": version, "labels": 5})
    path = tmp_path / "v000002" / file
    path.write_bytes(path.read_bytes()[:kept])
    found = newest(tmp_path)
    assert (found.version, found.labels, found.members.keys()) == (1, 5, WEIGHTS.keys())
    (remark,) = found.remarks
    assert f"{path}" in remark
    assert remark.endswith("going on from v000001")
    again, _ = releases(tmp_path, station("exchange", (0, 3)))
    again.restore(None)
    assert again.version == 1
    again.release({0: WEIGHTS[0]}, 6)
    assert again.version == 3, "the number of damaged weights is not given again"


def test_where_all_weights_are_damaged_the_models_begin_anew(tmp_path: Path) -> None:
    store(tmp_path / "v000001", WEIGHTS, {"version": 1, "labels": 5})
    (tmp_path / "v000001" / "facts.json").write_text("[]")
    found = newest(tmp_path)
    assert not found.members
    assert "learn all labels anew" in found.remarks[-1]


# Releases --------------------------------------------------------------------------------------


class Cluster:
    """Keeps what is sent."""

    def __init__(self, *stations: Station) -> None:
        self.stations = stations
        self.sent: list[tuple[Station, Any]] = []

    def of(self, role: str) -> list[Station]:
        return [station for station in self.stations if station.job.role == role]

    def spread(self, stations: list[Station], message: Any) -> None:
        self.sent += [(station, message) for station in stations]


def station(role: Any, members: tuple[int, ...], index: int = 0) -> Station:
    return Station(Job(role, index, {}, Path(), 0, members=members), node=0, ready=True)


def releases(tmp_path: Path, *stations: Station) -> tuple[Any, Cluster]:
    cluster = Cluster(*stations)
    return Releases(cluster, tmp_path, 2), cluster  # type: ignore[arg-type]


def test_each_predictor_gets_its_own_members(tmp_path: Path) -> None:
    one, two = station("predictor", (0,)), station("predictor", (1,), 1)
    found, cluster = releases(tmp_path, station("exchange", ()), one, two)
    found.release({0: {"w": 1}}, 5)
    found.installed(one, 1)
    found.release({0: {"w": 2}, 1: {"w": 3}}, 7)
    assert [(s, m.members, m.version) for s, m in cluster.sent] == [
        (one, {0: {"w": 1}}, 1),
        (one, {0: {"w": 2}}, 2),
        (two, {1: {"w": 3}}, 2),
    ]


def test_committees_on_several_nodes_get_one_message_together(tmp_path: Path) -> None:
    shards = [station("exchange", (0, 1), index) for index in range(3)]
    found, cluster = releases(tmp_path, *shards)
    found.release({0: {"w": 1}, 1: {"w": 2}}, 5)
    assert [s for s, _ in cluster.sent] == shards
    assert len({id(message) for _, message in cluster.sent}) == 1


def test_a_slow_predictor_gets_only_the_newest(tmp_path: Path) -> None:
    """What waits for it never grows beyond one committee."""
    slow = station("exchange", (0, 1))
    found, cluster = releases(tmp_path, slow)
    for value in range(50):
        found.release({value % 2: {"w": value}}, value)
    assert [message.version for _, message in cluster.sent] == [1]
    found.installed(slow, 1)
    _, (_, message) = cluster.sent
    assert message.members == {0: {"w": 48}, 1: {"w": 49}}
    assert message.version == 50
    found.installed(slow, 50)
    assert len(cluster.sent) == 2


def test_a_predictor_that_starts_again_gets_all(tmp_path: Path) -> None:
    worker = station("exchange", (0, 1))
    found, cluster = releases(tmp_path, worker)
    found.welcome(worker)
    assert not cluster.sent
    worker.ready = False
    found.lost(worker)
    found.release({0: {"w": 1}}, 1)
    found.release({1: {"w": 2}}, 1)
    assert not cluster.sent
    worker.ready = True
    found.welcome(worker)
    assert [message.members for _, message in cluster.sent] == [{0: {"w": 1}, 1: {"w": 2}}]


def test_what_a_lost_node_was_to_pass_on_is_sent_again(tmp_path: Path) -> None:
    one, two = station("exchange", (0, 1)), station("exchange", (0, 1), 1)
    found, cluster = releases(tmp_path, one, two)
    found.release({0: {"w": 1}, 1: {"w": 1}}, 1)
    found.installed(one, 1)
    found.again()
    assert [s for s, _ in cluster.sent] == [one, two, two]
    found.installed(two, 1)
    found.again()
    assert len(cluster.sent) == 3


def test_the_version_that_all_use_is_the_oldest_of_any(tmp_path: Path) -> None:
    one, two = station("exchange", (0, 1)), station("exchange", (0, 1), 1)
    found, _ = releases(tmp_path, one, two)
    for shard in (one, two):
        found.welcome(shard)
    found.release({0: {"w": 1}, 1: {"w": 1}}, 1)
    found.installed(one, 1)
    assert found.everywhere == 0
    found.installed(two, 1)
    assert found.everywhere == 1
    found.release({0: {"w": 2}, 1: {"w": 2}}, 2)
    found.installed(one, 2)
    two.ready = False
    found.lost(two)
    assert found.everywhere == 2


def test_only_whole_committees_are_stored_and_each_version_once(tmp_path: Path) -> None:
    found, _ = releases(tmp_path, station("exchange", (0, 1)))
    found.release({0: {"w": np.ones(1)}}, 5)
    found.store()
    assert not stored(tmp_path)
    found.release({1: {"w": np.ones(1)}}, 8)
    found.store()
    found.store()
    found.settle()
    (folder,) = stored(tmp_path)
    assert facts(folder) == {"version": 2, "labels": 5}
    again, _ = releases(tmp_path, station("exchange", (0, 1)))
    again.restore(None)
    assert again.version == 2
    assert again.complete


def test_a_disk_that_refuses_weights_is_told_of(tmp_path: Path) -> None:
    found, _ = releases(tmp_path / "models")
    (tmp_path / "models").touch()  # no folder can be made in there
    found.release({0: WEIGHTS[0], 1: WEIGHTS[0]}, 5)
    found.store()
    with pytest.raises(LedgerDiskError, match="models"):
        found.settle()
    found.settle()


# Weights that give nothing but NaN -------------------------------------------------------------


def distrusting(tmp_path: Path) -> tuple[Any, Cluster, Station]:
    """Releases of a committee of two, of which one version is on disk; and its exchange."""
    exchange = station("exchange", (0, 1))
    found, cluster = releases(tmp_path, exchange)
    found.release({0: {"w": np.array(1.0)}, 1: {"w": np.array(1.0)}}, 5)
    found.store()
    found.settle()
    found.installed(exchange, 1)
    return found, cluster, exchange


def test_distrusted_weights_give_way_to_good_ones_everywhere(tmp_path: Path) -> None:
    found, cluster, exchange = distrusting(tmp_path)
    found.release({0: {"w": np.array(2.0)}}, 8)
    found.installed(exchange, 2)
    good = {"w": np.array(1.5)}
    assert found.distrust(0, 2, good) is good
    assert cluster.sent[-1][1].members == {0: {"w": 1.5}}
    assert found.version == 3
    assert found.complete


def test_distrusted_weights_are_not_what_the_next_session_starts_from(tmp_path: Path) -> None:
    found, _, exchange = distrusting(tmp_path)
    found.release({0: {"w": np.array(2.0)}}, 8)
    found.store()
    found.settle()
    found.installed(exchange, 2)
    assert [path.name for path in stored(tmp_path)] == ["v000001", "v000002"]
    found.distrust(0, 2, None)
    assert [path.name for path in stored(tmp_path)] == ["v000001"]
    found.store()
    found.settle()
    again, _ = releases(tmp_path, exchange)
    again.restore(None)
    assert again.newest[0]["w"] == 1.0
    assert again.version == 3


def test_weights_that_a_session_starts_from_may_be_distrusted_too(tmp_path: Path) -> None:
    """Then those stored before them are used."""
    found, _, exchange = distrusting(tmp_path)
    found.release({0: {"w": np.array(2.0)}, 1: {"w": np.array(3.0)}}, 8)
    found.store()
    found.settle()
    again, cluster = releases(tmp_path, exchange)
    again.restore(None)
    again.welcome(exchange)
    again.installed(exchange, 2)
    again.distrust(0, 2, None)
    assert cluster.sent[-1][1].members == {0: {"w": 1.0}}
    assert again.newest[1]["w"] == 3.0


def test_newer_weights_on_their_way_are_not_taken_back(tmp_path: Path) -> None:
    found, _, _ = distrusting(tmp_path)
    found.release({0: {"w": np.array(2.0)}}, 8)
    found.release({0: {"w": np.array(3.0)}}, 9)
    found.distrust(0, 2, None)
    assert found.newest[0]["w"] == 3.0


def test_a_member_is_taken_back_once_until_its_trainer_sends_others(tmp_path: Path) -> None:
    """One that gives NaN with any weights must not cost all that are on disk."""
    found, _, _ = distrusting(tmp_path)
    found.release({0: {"w": np.array(2.0)}}, 8)
    found.distrust(0, 2, None)
    found.distrust(0, 3, None)
    assert found.newest[0]["w"] == 1.0
    assert stored(tmp_path)


def test_first_weights_that_are_distrusted_leave_the_member_without(tmp_path: Path) -> None:
    exchange = station("exchange", (0, 1))
    found, cluster = releases(tmp_path, exchange)
    found.release({1: {"w": np.array(1.0)}}, 5)
    found.release({0: {"w": np.array(2.0)}}, 6)  # waits: the first ones are on their way
    found.distrust(0, 2, None)
    assert not found.complete
    found.installed(exchange, 1)
    assert cluster.sent[-1][1].members == {}, "they are sent to nobody any more"
