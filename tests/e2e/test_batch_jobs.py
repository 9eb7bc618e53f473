"""Campaigns in batch jobs that end before they do: nothing is lost, and the next job goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rig import attempt, campaign, check_ledger, labels_in, processes_of, run

from pal.runtime.happenings import Happening
from pal.runtime.walltime import VARIABLE

SLOW = {"kernel": "toys:Slow", "options": {"seconds": 0.1}, "grace": 1}
STOP = {"final_training": 0, "labels": 10_000, "before_end": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def ending_in(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(time.time() + seconds))


def after(labels: int, act: Callable[[], Any]) -> Callable[[Happening], None]:
    """Act once, as soon as there are so many labels."""
    done: list[bool] = []

    def watch(happening: Happening) -> None:
        if not done and getattr(happening, "labelled", 0) >= labels:
            done.append(True)
            act()

    return watch


def send(number: int) -> Callable[[], Any]:
    return lambda: os.kill(os.getpid(), number)


def test_a_campaign_ends_before_its_job_and_goes_on_in_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_in(8.0, monkeypatch)
    work = campaign(folder, oracle=SLOW, stop=STOP)
    for _ in work:
        pass
    assert time.time() < float(os.environ[VARIABLE])
    assert work.continues
    assert work.summary is not None
    assert "the batch job ends at" in work.summary.reason
    assert not (folder / "report.html").exists(), "there is no time for it"
    check_ledger(folder)
    before = labels_in(folder)
    assert before

    monkeypatch.delenv(VARIABLE)
    wanted = len(before) + 5
    done = run(folder, oracle=SLOW, stop={**STOP, "labels": wanted})
    assert before.keys() <= labels_in(folder).keys()
    assert done.summary is not None
    assert done.summary.reason == f"stop.labels = {wanted} reached"
    assert (folder / "report.html").exists()


def test_a_job_that_got_nowhere_is_not_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_in(2.0, monkeypatch)
    done = attempt(
        folder,
        oracle={"kernel": "toys:Slow", "options": {"seconds": 30}, "grace": 0},
        initial={"kernel": "toys:grid"},
        stop={**STOP, "before_end": 0.5},
    )
    assert done.error is not None
    assert done.error.exit_code == 1
    assert "the next job would get no further" in str(done.error)


def test_sigusr1_means_that_the_time_is_nearly_up(folder: Path) -> None:
    work = campaign(folder, oracle=SLOW, stop=STOP)
    watch = after(3, send(signal.SIGUSR1))
    for happening in work:
        watch(happening)
    assert work.continues
    assert work.summary is not None
    assert "SIGUSR1 says" in work.summary.reason
    check_ledger(folder)


def test_a_cancelled_job_requeues_at_once_what_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    ending_in(3600.0, monkeypatch)
    oracle = {"kernel": "toys:Slow", "options": {"seconds": 0.5}, "grace": 60, "workers": 2}
    work = campaign(folder, oracle={**oracle, "retries": 0}, stop=STOP)

    def cancel() -> None:  # every process of the job hears it, as from a batch system
        for pid in processes_of(folder):
            os.kill(pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    watch, started = after(2, cancel), time.monotonic()
    for happening in work:
        watch(happening)
    assert time.monotonic() - started < 25
    assert not work.continues
    assert work.summary is not None
    assert work.summary.reason == "SIGTERM received from the batch system"
    assert work.summary.failed == work.summary.restarts == 0
    check_ledger(folder)


def test_a_job_whose_time_is_over_while_it_ends_is_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    ending_in(5.0, monkeypatch)  # which is so near that SIGTERM means the end of the time
    work = campaign(folder, oracle=SLOW, stop=STOP)
    watch = after(2, send(signal.SIGTERM))
    for happening in work:
        watch(happening)
    assert work.continues
