"""Campaigns whose oracles are beyond the job: on executors of the standard library, on Parsl."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from meanwhile import child, meanwhile, stop
from rig import (
    Run,
    attempt,
    check_ledger,
    eventually,
    kill,
    labels_in,
    number_of_labels,
    processes_of,
    run,
    worker,
)

from pal.controller.commands import State
from pal.errors import KernelError
from pal.ledger.ledger import Ledger

POOL = {
    "executor": "concurrent.futures:ProcessPoolExecutor",
    "executor_options": {"max_workers": 2},
    "outside": 2,
    "workers": 0,
}
PARSL = {
    "executor": "parsl",
    "executor_options": {"provider": "local", "workers_per_node": 2},
    "outside": 2,
    "workers": 0,
}
ALL = {"options": {"threshold": -1.0}}
"""A selector for which every sample is worth a label, so that they never run out."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run directory."""
    return tmp_path / "run"


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Where oracles leave notes."""
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def campaign(folder: Path, **sections: Any) -> Run:
    done = run(folder, **{"selector": ALL, **sections})
    check_labels(folder)
    return done


def check_labels(folder: Path) -> None:
    for sample, label in labels_in(folder).values():
        np.testing.assert_allclose(label, [1 + sample[0] * sample[1]])


def oracles_of(folder: Path) -> set[str]:
    """Who has made labels, as the ledger tells."""
    with Ledger.open_readonly(folder) as ledger:
        return {
            line.detail.partition(",")[0]
            for row in ledger.states(State.LABELLED)
            for line in ledger.story(row.candidate.sample)
            if line.what == State.RETURNED
        }


def story_of(folder: Path, state: State) -> str:
    with Ledger.open_readonly(folder) as ledger:
        return "\n".join(
            line.detail
            for row in ledger.states(state)
            for line in ledger.story(row.candidate.sample)
        )


def read(path: Path) -> str:
    """What is in a file; nothing if there is none."""
    return path.read_text() if path.exists() else ""


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def waiting(marks: Path) -> list[int]:
    """Helpers that wait in the middle of a label."""
    pids = [int(path.name.removeprefix("pid-")) for path in marks.glob("pid-*")]
    return [pid for pid in pids if alive(pid)]


def test_all_labels_come_from_a_pool_of_processes(folder: Path) -> None:
    done = campaign(folder, oracle=POOL, stop={"labels": 25})
    assert done.summary is not None
    assert done.summary.labels == 25
    assert not done.failures
    assert oracles_of(folder) == {"oracle 0", "oracle 1"}
    names = {path.name for path in (folder / "logs").iterdir()}
    assert {"broker.log", "oracle-0.log", "oracle-1.log"} <= names


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, "concurrent.futures:ThreadPoolExecutor"])
def test_oracles_in_the_job_and_beyond_label_together(folder: Path, executor: Any) -> None:
    slow = {"kernel": "toys:Slow", "options": {"seconds": 0.02}}
    done = campaign(
        folder,
        oracle={"executor": executor, "outside": 2, "workers": 1, **slow},
        stop={"labels": 60},
    )
    assert not done.failures
    assert oracles_of(folder) == {"oracle 0", "oracle 1", "oracle 2"}
    assert done.summary is not None
    assert done.summary.utilisation["oracle"] > 0


def test_factory_and_oracle_may_be_python_functions(folder: Path, marks: Path) -> None:
    made = marks / "made"

    def factory(workers: int, context: Any) -> ProcessPoolExecutor:
        made.write_text(f"{context.count} {context.directory.parent.name}")
        return ProcessPoolExecutor(workers)

    def label(sample: Any) -> Any:
        return np.array([1 + sample[0] * sample[1]])

    options = {"executor": factory, "executor_options": {"workers": 1}, "kernel": label}
    campaign(folder, oracle={**POOL, **options}, stop={"labels": 5})
    assert made.read_text() == "2 logs"


@pytest.mark.parametrize(
    ("deed", "kind", "state"),
    [
        ("raise", "ZeroDivisionError", State.FAILED),
        ("refuse", "LabelFailure", State.FAILED),
        ("die", "crash", State.QUARANTINED),
        ("hang", "deadline", State.QUARANTINED),
    ],
)
def test_bad_samples_end_as_they_would_in_the_job(
    folder: Path, deed: str, kind: str, state: State
) -> None:
    def enough(_: Any) -> None:
        if done_with(folder, state):
            stop(folder)

    done = campaign(
        folder,
        watch=enough,
        oracle={
            **POOL,
            "kernel": "outside_toys:Moody",
            "options": {"deed": deed},
            "deadline": 0.2,
        },
        stop={"after": 30, "failures": None},
    )
    assert done.kinds("oracle") == {kind}
    counts = done.counts()
    assert counts[state] >= 1
    assert counts.get(State.FAILED, 0) + counts.get(State.QUARANTINED, 0) == counts[state]
    (failure, *_) = done.failures
    assert failure.sample is not None
    assert failure.host
    if deed == "raise":
        assert "outside_toys.py" in failure.traceback
    tries = {failure.sample: 0 for failure in done.failures}
    for failure in done.failures:
        tries[failure.sample] += 1
    assert max(tries.values()) == (1 if deed == "refuse" else 2)


def done_with(folder: Path, state: State) -> int:
    with Ledger.open_readonly(folder) as ledger:
        counts = ledger.counts()
        return counts.get(state, 0) >= 1 and counts.get(State.LABELLED, 0) >= 5


def break_in(
    folder: Path, marks: Path, deed: Callable[[], None], out: int = 2, **oracle: Any
) -> Run:
    """Do something while labels are being made beyond the job, then let them be made."""

    def work() -> None:
        eventually(lambda: len(waiting(marks)) == out, "labels under way", 40)
        deed()
        (marks / "go").touch()
        at = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) >= at + 5, "labels after it", 60)
        stop(folder)

    kernel = {"kernel": "outside_toys:Waiting", "options": {"folder": str(marks)}}
    with meanwhile(work):
        return campaign(folder, oracle={**kernel, **oracle}, stop={"after": 80})


def test_a_killed_worker_of_the_pool_costs_what_was_running(folder: Path, marks: Path) -> None:
    """The whole pool breaks, as the standard library has it; the broker makes a new one."""
    made = marks / "made"

    def deed() -> None:
        helpers = waiting(marks)
        kill(psutil.Process(helpers[0]).ppid())
        eventually(lambda: len(made.read_text().split()) == 2, "a second pool")

    options = {"executor": "outside_toys:Counted", "executor_options": {"log": str(made)}}
    done = break_in(folder, marks, deed, **{**POOL, **options})
    assert done.kinds("oracle") == {"lost"}
    assert len(done.failures) == 2
    assert "BrokenProcessPool" in done.failures[0].message
    assert done.summary is not None
    assert (done.summary.failed, done.summary.restarts) == (0, 0)


def test_a_killed_broker_costs_what_was_running(folder: Path, marks: Path) -> None:
    helpers: list[int] = []

    def deed() -> None:
        helpers.extend(waiting(marks))
        broker = worker(folder, "broker")
        kill(broker)
        eventually(lambda: not any(map(alive, helpers)), "its labels are gone")

    done = break_in(folder, marks, deed, **POOL)
    assert len(helpers) == 2
    assert [failure.kind for failure in done.failures] == ["crash"]
    assert done.summary is not None
    assert (done.summary.failed, done.summary.restarts) == (0, 1)
    assert "lost" in story_of(folder, State.LABELLED)


def test_a_killed_agent_leaves_nothing_beyond_the_job(folder: Path, marks: Path) -> None:
    kernel = {
        "kernel": "outside_toys:Waiting",
        "options": {"folder": str(marks), "helper": True},
    }
    with child(folder, selector=ALL, oracle={**POOL, **kernel}) as agent:
        eventually(lambda: len(waiting(marks)) == 2, "labels under way")
        helpers = [*waiting(marks), int(eventually(lambda: read(marks / "program"), "a program"))]
        os.killpg(agent.pid, signal.SIGKILL)
        eventually(lambda: not any(map(alive, helpers)), "its labels are gone")
        eventually(lambda: not processes_of(folder), "no worker is left")


def test_the_end_leaves_no_label_running_and_the_next_session_makes_it(
    folder: Path, marks: Path
) -> None:
    sections: dict[str, Any] = {
        "oracle": {
            **POOL,
            "kernel": "outside_toys:Waiting",
            "options": {"folder": str(marks), "helper": True},
            "grace": 0.1,
        },
        "name": "same",
    }

    def end() -> None:
        eventually(lambda: len(waiting(marks)) == 2 and read(marks / "program"), "labels")
        stop(folder)

    with meanwhile(end):
        done = campaign(folder, stop={"after": 60}, **sections)
    assert done.summary is not None
    assert done.summary.labels == 0
    assert done.seconds < 20
    assert not waiting(marks)
    assert not alive(int((marks / "program").read_text()))
    (marks / "go").touch()
    again = campaign(folder, stop={"labels": 10}, **sections)
    assert again.summary is not None
    assert again.summary.labels == 10
    assert "requeued at the end" in story_of(folder, State.LABELLED)


@pytest.mark.parametrize(
    ("oracle", "words"),
    [
        ({"kernel": "outside_toys:Absent"}, "Absent"),
        ({"kernel": "toys:Unbuildable"}, "expected better options"),
        ({"executor": "outside_toys:absent"}, "oracle.executor = 'outside_toys:absent'"),
        ({"executor": "toys:truth", "executor_options": {"sample": [1, 2]}}, "no method submit"),
        ({"executor_options": {"max_worker": 2}}, "did you mean 'max_workers'?"),
        ({"executor": "outside_toys:Faulty", "executor_options": {"how": "module"}}, "installed"),
        ({"executor": "outside_toys:Faulty", "executor_options": {"how": "broken"}}, "partition"),
    ],
)
def test_what_can_never_work_ends_the_campaign_at_once(
    folder: Path, oracle: dict[str, Any], words: str
) -> None:
    done = attempt(folder, selector=ALL, oracle={**POOL, **oracle}, stop={"after": 30})
    assert isinstance(done.error, KernelError)
    assert words in str(done.error)
    assert "broker cannot start" in str(done.error)
    assert done.seconds < 15


def test_an_executor_that_breaks_is_made_anew_and_no_sample_is_blamed(
    folder: Path, marks: Path
) -> None:
    options = {"executor": "outside_toys:Flaky", "executor_options": {"flag": str(marks / "f")}}
    done = campaign(folder, oracle={**POOL, **options}, stop={"labels": 20})
    assert done.kinds("oracle") == {"IndexError"}
    assert "made anew in 0.5 s: the batch system is away" in done.failures[0].message
    assert len(done.failures) == 1
    with Ledger.open_readonly(folder) as ledger:
        assert {row.attempts for row in ledger.states(State.LABELLED)} == {1}


def test_an_executor_that_loses_everything_ends_the_campaign(folder: Path) -> None:
    options = {"executor": "outside_toys:Faulty", "executor_options": {"how": "lost"}}
    done = attempt(
        folder, selector=ALL, oracle={**POOL, **options}, stop={"after": 30, "failures": 3}
    )
    assert isinstance(done.error, KernelError)
    assert "lost it: BrokenExecutor: gone" in str(done.error)
    assert done.counts()[State.QUARANTINED] == 3


def block_of(helper: int) -> list[psutil.Process]:
    """The processes of the block on this machine in which a helper's caller lives."""
    group = os.getpgid(psutil.Process(helper).ppid())
    return [process for process in psutil.process_iter() if _group(process.pid) == group]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def test_parsl_labels_and_a_lost_block_costs_what_was_running_there(
    folder: Path, marks: Path
) -> None:
    helpers: list[int] = []

    def deed() -> None:
        helpers.extend(waiting(marks))
        for process in block_of(helpers[0]):
            # What cleans up after the others survives them, as it is meant to.
            if "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()
        eventually(lambda: not any(map(alive, helpers)), "the helpers are gone")

    options = {**PARSL, "executor": "outside_toys:quick_parsl", "executor_options": {}}
    done = break_in(folder, marks, deed, **options)
    assert done.kinds("oracle") == {"lost"}
    assert {"ManagerLost" in failure.message for failure in done.failures} == {True}
    assert done.summary is not None
    assert (done.summary.failed, done.summary.restarts) == (0, 0)
    assert list((folder / "logs" / "executor").glob("*/parsl.log"))


def test_parsl_s_blocks_die_with_a_killed_broker_and_a_new_one_goes_on(
    folder: Path, marks: Path
) -> None:
    before: set[int] = set()

    def deed() -> None:
        broker = psutil.Process(worker(folder, "broker"))
        outside = set(waiting(marks)) - {worker(folder, "oracle-0")}
        block = {process.pid for process in block_of(min(outside))}
        children = {child.pid for child in broker.children(recursive=True)}
        assert len(outside) == 2
        assert len(block) > 3
        assert not block & children
        before.update(outside | block | children)
        kill(broker.pid)
        eventually(lambda: not any(map(alive, before)), "all that Parsl had started is gone")

    done = break_in(folder, marks, deed, **{**PARSL, "workers": 1}, out=3)
    assert done.summary is not None
    assert done.summary.failed == 0


@pytest.fixture
def mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Open MPI run as whoever runs the tests, on as many cores as there are."""
    pytest.importorskip("mpi4py")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    # A user's own setting, which must get through; it also keeps clear of /dev/shm.
    monkeypatch.setenv("OMPI_MCA_btl", "self,tcp")
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")


@pytest.mark.usefixtures("mpi")
@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="needs mpiexec on PATH")
def test_oracles_may_be_mpi_programs_in_the_job_and_beyond(folder: Path) -> None:
    """The agent is itself started by an MPI launcher, whose variables must not reach them."""
    oracle = {**POOL, "workers": 1, "outside": 1, "kernel": "outside_toys:Mpi"}
    launcher = ["mpiexec", "-n", "1"]
    with child(folder, launcher, selector=ALL, oracle=oracle, stop={"labels": 4}) as agent:
        assert agent.wait(60) == 0
    check_ledger(folder)
    check_labels(folder)
    assert len(labels_in(folder)) == 4
    assert oracles_of(folder) == {"oracle 0", "oracle 1"}
    with Ledger.open_readonly(folder) as ledger:
        assert not ledger.failures()
