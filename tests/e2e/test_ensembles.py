"""Walkers that move in one call: the same lives as alone, also after one has stumbled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rig import run, trace

from pal.ledger.directory import RunDirectory
from pal.runtime.roles.generator import saved_walkers

POOLED: dict[str, Any] = {"hosts": 1}
LOCAL: dict[str, Any] = {"placement": "committee"}


def herd(tmp_path: Path, name: str = "one", **options: Any) -> dict[str, Any]:
    """Settings of a campaign of five walkers; they leave a trace in the folder `met-name`."""
    met = tmp_path / f"met-{name}"
    met.mkdir()
    return {
        "generator": {"kernel": "toys:Herd", "walkers": 5, "options": options | {"trace": met}},
        "model": {"train": False},
        "oracle": {"enabled": False},
        "exchange": {"batching": "all"},
        "stop": {"samples": 300},
        "seed": 4,
    }


def calls(log: Path) -> list[list[int]]:
    """How many walkers moved in each call, and how many steps the first one had made."""
    return [[int(word) for word in line.split()] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("place", [POOLED, LOCAL, {"hosts": 2}])
@pytest.mark.parametrize("batching", ["all", "ready"])
def test_joined_walkers_live_as_those_alone(
    tmp_path: Path, place: dict[str, Any], batching: str
) -> None:
    """A step here depends on what was heard, so one lost or exchanged answer would be seen."""
    lives, log = [], tmp_path / "calls"
    for name, where, how in (("alone", {"hosts": "each"}, "all"), ("joined", place, batching)):
        settings = herd(tmp_path, name, log=str(log) if name == "joined" else "")
        settings["generator"] |= where
        settings["exchange"] = {"batching": how}
        assert not run(tmp_path / name, **settings).failures
        lives.append(trace(tmp_path / f"met-{name}", 5))
    for alone, joined in zip(*lives, strict=True):
        shared = min(len(alone), len(joined))
        assert shared > 20
        # Predictions of batches of other sizes may be rounded in another way.
        np.testing.assert_allclose(alone[:shared], joined[:shared], rtol=1e-12)
        if batching == "all":
            assert alone[:shared].tobytes() == joined[:shared].tobytes()
    assert max(size for size, _ in calls(log)) > 1


@pytest.mark.parametrize("place", [POOLED, LOCAL])
def test_a_herd_goes_on_where_its_states_were_saved(tmp_path: Path, place: dict[str, Any]) -> None:
    log = tmp_path / "calls"
    for samples, name in ((100, "first"), (300, "second")):
        settings = herd(tmp_path, name, log=str(log))
        settings["generator"] |= place
        run(tmp_path / "run", **settings | {"stop": {"samples": samples}})
    steps = [count for _, count in calls(log)]
    assert steps == list(range(1, len(steps) + 1)), "no step is lost or made twice"
    assert len(steps) >= 60


@pytest.mark.parametrize("place", [POOLED, LOCAL])
@pytest.mark.parametrize("deed", ["raise", "nan"])
def test_a_herd_that_stumbles_goes_back_and_on(
    tmp_path: Path, place: dict[str, Any], deed: str
) -> None:
    """An exception takes back all that moved, a sample of NaN only the one that sent it."""
    settings = herd(tmp_path, deed=deed, flag=str(tmp_path / "flag"))
    settings["generator"] |= place
    done = run(tmp_path / "run", **settings)
    assert done.summary is not None
    assert done.summary.samples >= 300
    found = sorted((failure.index, failure.kind) for failure in done.failures)
    if deed == "nan":
        assert found == [(1, "NotFiniteError")]
    else:
        assert found == [(index, "RuntimeError") for index in range(5)]


@pytest.mark.parametrize("place", [POOLED, LOCAL])
def test_one_of_a_herd_asks_for_the_end(tmp_path: Path, place: dict[str, Any]) -> None:
    settings = herd(tmp_path, deed="stop", flag=str(tmp_path / "flag"))
    settings["generator"] |= place
    done = run(tmp_path / "run", **settings | {"stop": {}})
    assert done.summary is not None
    assert done.summary.reason == "walker 1 asked to stop"
    assert not done.failures


def test_states_travel_between_alone_and_joined(tmp_path: Path) -> None:
    """The state files do not tell how the walkers moved."""
    for samples, name, place in ((100, "first", {"hosts": "each"}), (250, "second", LOCAL)):
        settings = herd(tmp_path, name)
        settings["generator"] |= place
        done = run(tmp_path / "run", **settings | {"stop": {"samples": samples}})
        assert not done.failures
        last = {
            walker: state["steps"]
            for walker, state in saved_walkers(RunDirectory(tmp_path / "run"))[1].items()
        }
        assert sorted(last) == list(range(5))
    met = [trace(tmp_path / f"met-{name}", 5) for name in ("first", "second")]
    for walker, (first, second) in enumerate(zip(*met, strict=True)):
        assert last[walker] == len(first) + len(second)
