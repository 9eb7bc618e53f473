"""Each failure has a policy: deadlines, budgets, bounds, good weights in reserve, a breaker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from meanwhile import meanwhile, stop
from rig import Run, attempt, eventually, labels_in, number_of_labels, run, worker

from pal.controller.commands import State
from pal.errors import Failure, WorkerError
from pal.ledger.ledger import Ledger
from pal.monitor.metrics import Snapshot
from pal.runtime import node, watch
from pal.runtime.happenings import Happening
from pal.runtime.weights import fetch, stored


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run directory."""
    return tmp_path / "run"


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the workers often."""
    monkeypatch.setattr(node, "PULSE", 0.1)


class Until:
    """Ends a campaign once something has happened, and so many labels after it."""

    def __init__(
        self, folder: Path, happened: Callable[[Happening], bool], more: int = 15
    ) -> None:
        self._folder, self._happened, self._more = folder, happened, more
        self._goal: int | None = None
        self._labels = 0

    def __call__(self, happening: Happening) -> None:
        if isinstance(happening, Snapshot):
            self._labels = happening.labelled
            if self._goal is not None and self._labels >= self._goal:
                self._goal = None
                stop(self._folder)
        elif self._goal is None and self._happened(happening):
            self._happened = lambda _: False
            self._goal = self._labels + self._more


def failed(kind: str) -> Callable[[Happening], bool]:
    return lambda happening: isinstance(happening, Failure) and happening.kind == kind


SLOW = {"kernel": "toys:Slow", "options": {"seconds": 0.01}}
CURIOUS = {"options": {"threshold": -1.0}}
"""A selector that never has seen enough: there are labels as long as the campaign lives."""


# Deadlines -------------------------------------------------------------------------------------


def hung(done: Run, call: str, setting: str) -> Failure:
    """The one failure of a campaign in which one call did not come back."""
    (failure,) = done.failures
    assert failure.kind == "deadline"
    assert f"{call} took longer than 1 s ({setting}); its log is " in failure.message
    assert done.summary is not None
    assert done.summary.restarts == 1
    return failure


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("placement", ["hosts", "committee"])
def test_a_walker_that_hangs_is_started_again(
    folder: Path, tmp_path: Path, placement: str
) -> None:
    done = run(
        folder,
        Until(folder, failed("deadline")),
        generator={
            "kernel": "toys:HangOnce",
            "options": {"flag": str(tmp_path / "once")},
            "deadline": 1,
            "placement": placement,
        },
        exchange={"batching": "all"},
        oracle=SLOW,
        selector=CURIOUS,
    )
    failure = hung(done, "step", "generator.deadline")
    expected = ("generator", 1) if placement == "hosts" else ("prediction", 0)
    assert (failure.role, failure.index) == expected


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("predictors", [1, 2])
def test_a_prediction_that_hangs_costs_its_process_alone(
    folder: Path, tmp_path: Path, predictors: int
) -> None:
    options = {"deed": "hang", "flag": str(tmp_path / "once"), "member": 2}
    done = run(
        folder,
        Until(folder, failed("deadline")),
        model={
            "kernel": "toys:Sick",
            "options": options,
            "deadline": 1,
            "predictors": predictors,
            "train": False,
        },
        oracle=SLOW,
        selector=CURIOUS,
    )
    failure = hung(done, "predict", "model.deadline")
    assert (failure.role, failure.index) == ("prediction", predictors - 1)


@pytest.mark.usefixtures("watchful")
def test_an_epoch_that_hangs_is_trained_anew(folder: Path, tmp_path: Path) -> None:
    options = {"deed": "hang", "flag": str(tmp_path / "once"), "method": "train"}
    done = run(
        folder,
        Until(folder, failed("deadline"), more=40),
        model={"kernel": "toys:Sick", "options": options, "train_deadline": 1},
        oracle=SLOW,
        selector=CURIOUS,
    )
    assert hung(done, "train", "model.train_deadline").role == "training"
    assert done.summary is not None
    assert done.summary.version > 0


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("name", ["generator-1", "exchange", "predictor-1", "trainer-0"])
def test_a_worker_that_the_system_has_stopped_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever it was at, and though it says nothing."""
    monkeypatch.setattr(watch, "DEAF", 2.0)

    def deed() -> None:
        eventually(lambda: number_of_labels(folder) >= 10, "ten labels")
        victim = worker(folder, name)
        os.kill(victim, signal.SIGSTOP)
        eventually(lambda: worker(folder, name) != victim, "another process in its place")
        at = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) >= at + 15, "labels after it")
        stop(folder)

    with meanwhile(deed):
        done = run(
            folder,
            generator={"deadline": 2},
            model={"predictors": 2, "deadline": 2, "train_deadline": 2},
            exchange={"batching": "all"},
            oracle=SLOW,
            selector=CURIOUS,
        )
    (failure,) = done.failures
    assert failure.kind == "deadline"
    assert f"{name}.log" in failure.message


# Restart budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"generator": {"kernel": "toys:Broken", "restarts": 1}}, "every walker was given up"),
        (
            {
                "model": {
                    "kernel": "toys:Sick",
                    "options": {"deed": "raise"},
                    "restarts": 1,
                    "predictors": 2,
                }
            },
            "predictor-0 died 2 times",
        ),
        (
            {
                "model": {
                    "kernel": "toys:Sick",
                    "options": {"deed": "raise", "method": "train"},
                    "restarts": 2,
                }
            },
            "trainer-0 died 3 times",
        ),
    ],
)
def test_each_kernel_may_have_a_restart_budget_of_its_own(
    folder: Path, sections: dict[str, Any], name: str
) -> None:
    done = attempt(folder, restart={"budget": 50, "delay": 0.001}, **sections)
    assert isinstance(done.error, WorkerError)
    assert name in str(done.error)


# Labels that are none --------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [False, True])
def test_labels_out_of_bounds_or_not_converged_are_failures_with_their_reason(
    folder: Path, outside: bool
) -> None:
    oracle: dict[str, Any] = {
        "kernel": "toys:Flagged",
        "bounds": {"energy": [-1.0, 1.5]},
        "converged": "converged",
        "retries": 3,
        "pause_after": None,
    }
    if outside:
        oracle |= {"workers": 0, "outside": 2}
        oracle |= {"executor": "concurrent.futures:ThreadPoolExecutor"}
    done = run(
        folder,
        model={"train": False},
        oracle=oracle,
        stop={"labels": 20, "failures": None},
    )
    for sample, label in labels_in(folder).values():
        assert label.keys() == {"energy", "slope"}
        assert -1.0 <= label["energy"][0] <= 1.5
        assert sample[1] <= 1.0
    assert done.kinds("oracle") == {"LabelFailure"}
    reasons = {failure.message.split(" = ")[0] for failure in done.failures}
    assert "the oracle has not converged: its label says converged" in reasons
    assert "energy[0]" in reasons
    with Ledger.open_readonly(folder) as ledger:
        ended = ledger.states(State.FAILED, State.QUARANTINED)
        assert ended
        assert {row.attempts for row in ended} == {1}, "the physics says no: nobody asks again"


# Samples that no oracle should cost ------------------------------------------------------------


def test_unphysical_samples_never_reach_an_oracle(folder: Path, tmp_path: Path) -> None:
    """Neither those of walkers, which go on, nor initial ones."""
    done = run(
        folder,
        initial={"kernel": "toys:grid", "options": {"count": 12}},
        oracle={"kernel": "toys:truth"},
        selector={"reject": {"bounds": {"point": [-1.9, 0.8]}}},
        restart={"budget": 0},
        stop={"labels": 30},
    )
    with Ledger.open_readonly(folder) as ledger:
        states = ledger.states()
        for row in states:
            sample = ledger.sample(row.candidate.sample)
            assert np.asarray(sample).max() <= 0.8
            assert np.asarray(sample).min() >= -1.9
        assert sum(row.candidate.walker < 0 for row in states) == 10
        told = [entry.failure for entry in ledger.failures()]
    assert {failure.kind for failure in told} == {"Unphysical"}
    assert [failure.role for failure in told].count("initial") == 2
    assert 1 <= [failure.role for failure in told].count("generator") <= 2
    assert done.last.rejected > 10
    assert done.summary is not None
    assert done.summary.rejected == done.last.rejected


def test_a_campaign_whose_initial_samples_are_all_unphysical_says_so(folder: Path) -> None:
    done = attempt(
        folder,
        initial={"kernel": "toys:grid"},
        selector={"reject": {"bounds": {"point": [5.0, 6.0]}}},
    )
    assert done.error is not None
    assert "all 6 initial samples are unphysical by selector.reject" in str(done.error)


# Members and trainers that return NaN ----------------------------------------------------------


@pytest.mark.parametrize("predictors", [1, 2])
def test_a_member_that_predicts_nan_is_put_back_with_its_last_good_weights(
    folder: Path, tmp_path: Path, predictors: int
) -> None:
    """No walker sees it, its trainer goes on from there, and what is kept on disk is good."""
    done = run(
        folder,
        Until(folder, failed("NotFiniteError"), more=40),
        model={
            "kernel": "toys:Explosive",
            "options": {"flag": str(tmp_path / "once")},
            "predictors": predictors,
            "weights_every": 30,
        },
        oracle=SLOW,
        selector=CURIOUS,
    )
    assert not done.kinds("generator"), "no walker noticed"
    told = [failure for failure in done.failures if failure.role == "prediction"]
    for failure in told:
        assert failure.index == 1
        assert "it is reloaded from weights version" in failure.message
        assert failure.message.endswith("and put back")
    assert 1 <= len(told) <= 6, "as often as its trainer sent such weights before it heard of it"
    for path in stored(folder / "models"):
        assert all(np.abs(each["w"]).max() < 1e300 for each in fetch(path).values())
    assert done.summary is not None
    assert done.summary.restarts == 0


@pytest.mark.parametrize("trainers", [1, 3])
def test_a_trainer_that_diverges_begins_again_from_its_last_good_weights(
    folder: Path, tmp_path: Path, trainers: int
) -> None:
    options = {"deed": "diverge", "flag": str(tmp_path / "once"), "method": "train", "call": 25}
    done = run(
        folder,
        Until(folder, failed("NotFiniteError"), more=40),
        model={"kernel": "toys:Sick", "options": options, "trainers": trainers},
        oracle=SLOW,
        selector=CURIOUS,
    )
    (failure,) = done.failures
    assert (failure.role, failure.index, failure.kind) == ("training", 0, "NotFiniteError")
    assert "goes back to its last good weights, and it trains from them again" in failure.message
    assert done.summary is not None
    assert done.summary.restarts == 0, "no process died for it"


def test_a_trainer_that_always_diverges_waits_for_new_labels_each_time(folder: Path) -> None:
    """The campaign goes on with the weights there are."""
    options = {"deed": "diverge", "method": "train", "call": 5}
    done = run(
        folder,
        model={"kernel": "toys:Sick", "options": options, "weights_every": 2},
        oracle=SLOW,
        selector=CURIOUS,
        stop={"labels": 40},
    )
    assert done.kinds("training") == {"NotFiniteError"}
    assert not done.kinds("prediction")
    assert "it waits for new labels" in done.failures[1].message
    rounds = 2 + done.last.labelled // 10
    assert len(done.failures) <= 2 * rounds


# The oracle is broken --------------------------------------------------------------------------


def test_a_broken_oracle_does_not_burn_the_queue_and_is_found_mended(
    folder: Path, tmp_path: Path
) -> None:
    licence = tmp_path / "licence"
    ended: list[int] = []

    def look(happening: Happening) -> None:
        text = getattr(happening, "text", "")
        if "samples in a row got no label" in text:
            licence.touch()
        elif "labelling goes on" in text:
            with Ledger.open_readonly(folder) as ledger:
                ended.append(len(ledger.states(State.FAILED)))
            stop(folder)

    done = run(
        folder,
        look,
        oracle={
            "kernel": "toys:Mendable",
            "options": {"file": str(licence)},
            "workers": 2,
            "retries": 0,
            "pause_after": 3,
            "probe_after": 0.5,
        },
        stop={"failures": None},
    )
    assert ended, "it was found mended"
    assert ended[0] <= 10, "three in a row, those under way, and a few early probes"
    assert done.last.queued > 0
    assert any("labelling" in snapshot.phase for snapshot in done.snapshots)
