"""Kernels that raise, hang, return nonsense or cannot be built: each failure has a policy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Run, attempt, labels_in, processes_of, run

from pal.controller.commands import State
from pal.errors import KernelError, LedgerDiskError, WorkerError
from pal.ledger.ledger import Ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run directory."""
    return tmp_path / "run"


def poisoned(done: Run, state: State) -> list[int]:
    """Samples that ended in a state; checks that they are the poisoned ones."""
    with Ledger.open_readonly(done.directory) as ledger:
        found = [row.candidate.sample for row in ledger.states(state)]
        assert all(ledger.sample(number)[0] > 1.5 for number in found)  # type: ignore[index]
        for row in ledger.states(state):
            assert row.attempts == (1 if state is State.FAILED and refused(ledger, row) else 2)
    for sample, _ in labels_in(done.directory).values():
        assert sample[0] <= 1.5
    return found


def refused(ledger: Ledger, row: Any) -> bool:
    """Whether the physics said no, which nobody asks it twice."""
    kinds = {entry.failure.kind for entry in ledger.failures(row.candidate.sample)}
    return kinds == {"LabelFailure"}


@pytest.mark.parametrize(
    ("deed", "kind", "state"),
    [
        ("refuse", "LabelFailure", State.FAILED),
        ("raise", "ZeroDivisionError", State.FAILED),
        ("nan", "NotFiniteError", State.FAILED),
        ("type", "ContractError", State.FAILED),
        ("none", "ContractError", State.FAILED),
        ("segfault", "crash", State.QUARANTINED),
        ("hang", "deadline", State.QUARANTINED),
    ],
)
def test_a_poisoned_sample_ends_and_the_campaign_goes_on(
    folder: Path, deed: str, kind: str, state: State
) -> None:
    done = run(
        folder,
        oracle={
            "kernel": "toys:Poisoned",
            "options": {"deed": deed},
            "workers": 4 if deed == "hang" else 2,
            "deadline": 0.6 if deed == "hang" else None,
            "retries": 1,
        },
        restart={"delay": 0.001},
        stop={"labels": 25, "after": 30},
    )
    assert len(labels_in(folder)) >= 25, done.summary
    assert poisoned(done, state)
    assert done.kinds("oracle") == {kind}
    for failure in done.failures:
        assert failure.sample is not None
        assert failure.host
    with Ledger.open_readonly(folder) as ledger:
        assert {entry.failure.kind for entry in ledger.failures()} == {kind}
    assert not list((folder / "scratch").glob("*")), "no scratch folder is left"


def test_poison_upon_poison_does_not_use_up_the_oracle(folder: Path) -> None:
    """More deaths than the restart budget, each on a sample of its own: they are at fault."""
    done = run(
        folder,
        oracle={"kernel": "toys:Poisoned", "options": {"deed": "segfault", "above": 1.0}},
        restart={"delay": 0.001, "budget": 2},
        stop={"labels": 15, "after": 30, "failures": None},
    )
    assert len(labels_in(folder)) >= 15, done.summary
    assert len([failure for failure in done.failures if failure.role == "oracle"]) > 3


@pytest.mark.parametrize("deed", ["raise", "die", "nan"])
@pytest.mark.parametrize("placement", ["hosts", "committee"])
def test_a_walker_that_stumbles_once_begins_again(
    folder: Path, tmp_path: Path, deed: str, placement: str
) -> None:
    done = run(
        folder,
        generator={
            "kernel": "toys:Once",
            "options": {"flag": str(tmp_path / "once"), "deed": deed, "who": 1},
            "hosts": 2,
            "placement": placement,
        },
        exchange={"batching": "all"},
        stop={"labels": 30},
    )
    (failure,) = done.failures
    kind = {"raise": "RuntimeError", "die": "crash", "nan": "NotFiniteError"}[deed]
    assert failure.kind == kind
    if deed != "die":
        assert (failure.role, failure.index) == ("generator", 1)
    assert len(labels_in(folder)) >= 30


@pytest.mark.parametrize("placement", ["hosts", "committee"])
@pytest.mark.parametrize("hosts", [1, "each"])
def test_walkers_that_never_walk_end_the_campaign(
    folder: Path, placement: str, hosts: Any
) -> None:
    done = attempt(
        folder,
        generator={"kernel": "toys:Broken", "placement": placement, "hosts": hosts},
        restart={"budget": 2, "delay": 0.001},
    )
    assert isinstance(done.error, WorkerError)
    assert "every walker was given up" in str(done.error)
    assert "restart.budget = 2" in str(done.error)
    assert done.seconds < 10


@pytest.mark.parametrize("predictors", [1, 2])
def test_a_member_that_predicts_nan_is_left_out(folder: Path, predictors: int) -> None:
    done = run(
        folder,
        model={
            "kernel": "toys:Sick",
            "options": {"deed": "nan", "member": 1, "call": 3},
            "train": False,
            "predictors": predictors,
            "members": 4,
        },
        stop={"labels": 20},
    )
    (failure,) = done.failures
    assert (failure.role, failure.index, failure.kind) == ("prediction", 1, "NotFiniteError")


@pytest.mark.parametrize("deed", ["raise", "die", "shape", "type"])
@pytest.mark.parametrize("predictors", [1, 2])
def test_a_member_that_fails_once_is_restarted(
    folder: Path, tmp_path: Path, deed: str, predictors: int
) -> None:
    done = run(
        folder,
        model={
            "kernel": "toys:Sick",
            "options": {"deed": deed, "flag": str(tmp_path / "once")},
            "train": False,
            "predictors": predictors,
        },
        stop={"labels": 20},
    )
    (failure,) = done.failures
    kinds = {
        "raise": "RuntimeError",
        "die": "crash",
        "shape": "ShapeError",
        "type": "ContractError",
    }
    assert failure.kind == kinds[deed]
    assert failure.role == "prediction"
    assert done.summary is not None
    assert done.summary.restarts == 1


@pytest.mark.parametrize("deed", ["raise", "die"])
def test_a_trainer_that_fails_once_is_restarted(folder: Path, tmp_path: Path, deed: str) -> None:
    done = run(
        folder,
        model={
            "kernel": "toys:Sick",
            "options": {"deed": deed, "flag": str(tmp_path / "once"), "method": "train"},
        },
        stop={"epochs": 60},
    )
    (failure,) = done.failures
    assert failure.role == "training"
    assert failure.kind == {"raise": "RuntimeError", "die": "crash"}[deed]
    assert done.summary is not None
    assert done.summary.version > 0


@pytest.mark.parametrize(
    ("sections", "name", "kind"),
    [
        ({"model": {"kernel": "toys:Sick", "options": {"deed": "raise"}}}, "exchange", "Runtime"),
        (
            {"model": {"kernel": "toys:Sick", "options": {"deed": "raise"}, "predictors": 2}},
            "predictor-0",
            "Runtime",
        ),
        (
            {"model": {"kernel": "toys:Sick", "options": {"deed": "raise", "method": "train"}}},
            "trainer-0",
            "Runtime",
        ),
        ({"selector": {"kernel": "toys:Torn"}}, "exchange", "ShapeError"),
        (
            {
                "model": {"predictors": 2},
                "exchange": {"slot_size": 1},
                "generator": {"kernel": "toys:Bulky"},
            },
            "every walker was given up",
            "SlotTooSmallError",
        ),
    ],
)
def test_what_fails_time_and_again_ends_the_campaign(
    folder: Path, sections: dict[str, Any], name: str, kind: str
) -> None:
    """The exit is clean: it names the worker and its last failure, and the ledger is whole."""
    done = attempt(folder, restart={"budget": 2, "delay": 0.001}, **sections)
    assert isinstance(done.error, WorkerError)
    assert name in str(done.error)
    assert kind in str(done.error)
    assert done.seconds < 10
    with Ledger.open_readonly(folder) as ledger:
        ledger.check()
        (session,) = ledger.sessions()
        assert session.end is not None
        assert name in session.reason


def test_initial_samples_are_made_again_after_a_crash(folder: Path, tmp_path: Path) -> None:
    options = {"count": 6, "flag": str(tmp_path / "once")}
    done = run(
        folder, initial={"kernel": "toys:fragile_grid", "options": options}, stop={"labels": 15}
    )
    (failure,) = done.failures
    assert failure.kind == "crash"
    with Ledger.open_readonly(folder) as ledger:
        assert sum(row.candidate.walker < 0 for row in ledger.states()) == 6


@pytest.mark.parametrize("role", ["generator", "model", "oracle", "selector"])
def test_a_kernel_that_cannot_be_imported_ends_the_campaign_at_once(
    folder: Path, role: str
) -> None:
    done = attempt(folder, **{role: {"kernel": "toys:NoSuchClass"}})
    assert isinstance(done.error, KernelError)
    assert "toys:NoSuchClass" in str(done.error)
    assert done.seconds < 8


def test_a_kernel_with_wrong_options_ends_the_campaign_at_once(folder: Path) -> None:
    done = attempt(folder, oracle={"kernel": "toys:Slow", "options": {"minutes": 3}})
    assert isinstance(done.error, KernelError)
    assert "minutes" in str(done.error)
    assert done.seconds < 8


def test_missing_weights_are_named_and_nothing_is_left(folder: Path) -> None:
    done = attempt(folder, model={"weights": folder / "no-such-folder"})
    assert done.error is not None
    assert "no-such-folder" in str(done.error)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_stays_full_ends_the_campaign_and_leaves_nobody(small_disk: Path) -> None:
    done = attempt(
        small_disk / "run",
        stop={"disk": 1.0},
        generator={"kernel": "toys:Bulky"},
        model={"kernel": "toys:Mean", "train": False},
        oracle={"kernel": "toys:total"},
    )
    assert isinstance(done.error, LedgerDiskError), done.error
    assert "disk refused" in str(done.error)
    assert not processes_of(small_disk)
    with Ledger.open_readonly(small_disk / "run") as ledger:
        ledger.check()


def test_an_oracle_that_cannot_be_built_ends_the_campaign_at_once(folder: Path) -> None:
    done = attempt(
        folder, oracle={"kernel": "toys:Unbuildable"}, initial={"kernel": "toys:late_grid"}
    )
    assert isinstance(done.error, KernelError)
    assert "oracle-0 cannot start: " in str(done.error)
    assert "expected better options" in str(done.error)
    assert len(done.failures) == 1
    assert done.seconds < 15  # the initial samples, which nobody could label, take longer
