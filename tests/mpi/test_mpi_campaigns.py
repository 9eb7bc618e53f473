"""Whole campaigns under the launchers of real MPI libraries: how they run, are hurt, and end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi_jobs import MPICH, OPEN_MPI, TOLERANT, Job, Mpi, Project, send
from rig import eventually

from pal.ledger.directory import RunDirectory

BOTH = pytest.mark.parametrize("mpi", [OPEN_MPI, MPICH], ids=lambda mpi: mpi.name)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    made.close()


def lost(project: Project) -> list[int]:
    """The nodes that were lost, as the ledger tells."""
    failures = [entry.failure for entry in project.failures()]
    return [failure.index for failure in failures if failure.kind == "NodeLost"]


@pytest.mark.parametrize("size", [1, 2, 4])
@BOTH
def test_a_campaign_runs_and_leaves_nothing(mpi: Mpi, size: int, project: Project) -> None:
    job = project.mpi(mpi, size)
    project.wait_labels(job, 5)
    assert sorted(job.agents()) == list(range(size))
    assert job.end() == 0, job.output
    project.check(labels=30)
    assert not lost(project)
    assert (f"{size} nodes over {mpi.name}" in job.output) == (size > 1)


@pytest.mark.parametrize("whom", ["agent", "group and workers"])
def test_a_node_that_is_killed_does_not_end_the_campaign(whom: str, project: Project) -> None:
    project.settings(labels=60)
    job = project.tolerant()
    project.wait_labels(job, 10)
    before, victim = project.labels(), job.agent(2)
    if whom == "agent":
        send(signal.SIGKILL, [victim])
    else:
        family = job.family(2)
        os.killpg(os.getpgid(victim), signal.SIGKILL)
        send(signal.SIGKILL, family)
    eventually(lambda: lost(project), "the loss", 5.0)
    assert job.end() == 0, job.output
    assert lost(project) == [2]
    project.check(labels=60)
    assert before.keys() <= project.labels().keys()


def test_a_frozen_node_is_given_up_and_told_to_end_when_it_comes_back(project: Project) -> None:
    project.settings(labels=10_000, silence=2.0)
    job = project.tolerant(3)
    project.wait_labels(job, 10)
    frozen = job.agent(2)
    send(signal.SIGSTOP, [frozen])
    eventually(lambda: lost(project), "the loss", 15.0)
    send(signal.SIGCONT, [frozen])
    eventually(lambda: frozen not in job.processes(), "the end of what was frozen")
    assert job.process.poll() is None
    project.stop()
    assert job.end() == 0, job.output
    assert "the agent of rank 2" in job.output
    assert "goes on without it: its agent gave no sign of life for" in job.output
    project.check(labels=10)


def test_a_node_that_stays_frozen_does_not_outlive_the_campaign(project: Project) -> None:
    project.settings(labels=10_000, silence=2.0)
    job = project.tolerant(3)
    project.wait_labels(job, 10)
    send(signal.SIGSTOP, [job.agent(2)])
    eventually(lambda: lost(project), "the loss", 15.0)
    project.stop()
    assert job.end() == 0, job.output
    assert lost(project) == [2]
    project.check(labels=10)


def test_a_slow_node_is_not_lost(project: Project) -> None:
    project.settings(labels=80, seconds=0.1, silence=4.0)
    job = project.tolerant(2)
    project.wait_labels(job, 10)
    for _ in range(2):
        send(signal.SIGSTOP, [job.agent(1)])
        time.sleep(1.5)
        send(signal.SIGCONT, [job.agent(1)])
        project.wait_labels(job, len(project.labels()) + 3)
    assert job.end() == 0, job.output
    assert not lost(project)
    project.check(labels=80)


def test_the_loss_of_the_head_ends_all_and_loses_no_label(project: Project) -> None:
    project.settings(labels=10_000)
    job = project.tolerant()
    project.wait_labels(job, 20)
    send(signal.SIGKILL, [job.agent(0)])
    assert job.end(15) not in (0, 75), job.output
    for rank in (1, 2, 3):
        assert f"the agent of rank {rank}" in job.output
    assert "ends: the head is lost" in job.output
    project.resume(labels=60)


@pytest.mark.parametrize(
    ("mpi", "rank"), [(OPEN_MPI, 2), (MPICH, 0)], ids=["Open MPI", "MPICH, the head"]
)
def test_without_fault_tolerance_any_loss_ends_all_and_loses_no_label(
    mpi: Mpi, rank: int, project: Project
) -> None:
    project.settings(labels=10_000)
    job = project.mpi(mpi, 3)
    project.wait_labels(job, 20)
    send(signal.SIGKILL, [job.agent(rank)])
    assert job.end(15) not in (0, 75), job.output
    project.resume(labels=60)


# How a campaign is refused ----------------------------------------------------------------------

RANK_1_ALONE = """#!/bin/bash
# The first word is for rank 1 alone: what to do with its command.
odd=$1; shift
if [ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = 1 ]; then eval "$odd"; fi
exec "$@"
"""
EVERY = pytest.mark.parametrize(
    ("mpi", "options"),
    [(OPEN_MPI, TOLERANT), (OPEN_MPI, ()), (MPICH, ())],
    ids=["Open MPI, tolerant", "Open MPI", "MPICH"],
)


def start_oddly(project: Project, mpi: Mpi, options: tuple[str, ...], odd: str) -> Job:
    """Start two agents, of which rank 1 does something else first."""
    script = project.folder / "odd.sh"
    script.write_text(RANK_1_ALONE)
    script.chmod(0o755)
    launcher = mpi.launcher(*options, "-n", "2")
    return project.start(*launcher, str(script), odd, *mpi.pal, "run", "--json", "pal.toml")


@EVERY
def test_a_mistake_in_the_settings_is_told_once(
    mpi: Mpi, options: tuple[str, ...], project: Project
) -> None:
    job = project.mpi(mpi, 2, *options, words=["--set", "oracle.wurkers=3"])
    assert job.end() == 2, job.output
    assert job.output.count("oracle.wurkers: unknown setting; did you mean 'workers'?") == 1


@EVERY
def test_an_agent_that_cannot_read_its_settings_holds_nobody_up(
    mpi: Mpi, options: tuple[str, ...], project: Project
) -> None:
    job = start_oddly(project, mpi, options, 'set -- "$@" --set oracle.wurkers=3')
    assert job.end(15) == 5, job.output
    assert "the agent of rank 1 on " in job.output
    assert "cannot begin: pal.toml:\n  oracle.wurkers: unknown setting" in job.output


@BOTH
def test_agents_with_different_settings_are_refused(mpi: Mpi, project: Project) -> None:
    job = start_oddly(project, mpi, (), 'set -- "$@" --set oracle.workers=3')
    assert job.end(15) == 5, job.output
    assert "has read other settings than the head" in job.output
    assert not (project.run / "ledger.sqlite").exists()


@BOTH
def test_a_directory_in_use_is_told_by_the_head(mpi: Mpi, project: Project) -> None:
    with RunDirectory(project.run):
        job = project.mpi(mpi, 2)
        assert job.end(15) == 4, job.output
    assert job.output.count(f"{project.run} is in use by process {os.getpid()}") == 1


def test_another_number_of_agents_is_refused(project: Project) -> None:
    job = project.mpi(OPEN_MPI, 2, words=["--nodes", "3"])
    assert job.end(15) == 5, job.output
    assert "3 nodes were asked for, and 2 agents are there" in job.output


def test_agents_of_another_mpi_than_the_launcher_are_refused(project: Project) -> None:
    job = project.start(*MPICH.launcher("-n", "2"), *OPEN_MPI.pal, "run", "pal.toml")
    assert job.end(15) == 5, job.output
    assert "started 2 processes, but for the MPI library of mpi4py" in job.output
    assert not (project.run / "ledger.sqlite").exists()


def can_unshare() -> bool:
    """Whether this machine lets a process have mounts of its own."""
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return done.returncode == 0


def test_an_agent_that_does_not_see_the_run_directory_is_refused(project: Project) -> None:
    if not (shutil.which("unshare") and can_unshare()):
        pytest.skip("no mount namespaces here")
    project.run.mkdir()
    cover = f"mount -t tmpfs none {project.run}"
    odd = f"""exec unshare --mount sh -c '{cover}; exec "$@"' sh "$@" """
    job = start_oddly(project, OPEN_MPI, TOLERANT, odd)
    assert job.end(30) == 5, job.output
    assert f"does not see the run directory {project.run} as the head does" in job.output


# How a campaign is stopped ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mpi", "options"), [(OPEN_MPI, TOLERANT), (MPICH, ())], ids=["Open MPI", "MPICH"]
)
def test_pal_stop_ends_all_nodes_in_good_order(
    mpi: Mpi, options: tuple[str, ...], project: Project
) -> None:
    project.settings(labels=10_000)
    job = project.mpi(mpi, 4, *options)
    project.wait_labels(job, 10)
    project.stop()
    assert job.end() == 0, job.output
    assert "asked to stop by the operator" in job.output
    assert (project.run / "report.html").exists()
    project.check(labels=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_mpich_passes_signals_on_and_the_campaign_ends_in_good_order(
    number: signal.Signals, project: Project
) -> None:
    project.settings(labels=10_000)
    job = project.mpi(MPICH, 2)
    project.wait_labels(job, 10)
    job.process.send_signal(number)
    assert job.end(20) == 0, job.output
    assert f"stopping: {number.name} received" in job.output
    project.check(labels=10)


def test_open_mpi_kills_at_a_signal_and_no_label_is_lost(project: Project) -> None:
    project.settings(labels=10_000)
    job = project.tolerant()
    project.wait_labels(job, 20)
    job.process.send_signal(signal.SIGINT)
    assert job.end(15) == 1, job.output
    project.resume(labels=60)


# What else runs under MPI -----------------------------------------------------------------------

ORACLE = """
import os, subprocess, sys
import numpy as np

class Parallel:
    def label(self, sample):
        code = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
        launcher = os.path.join(os.path.dirname(sys.executable), "mpiexec")
        done = subprocess.run(
            [launcher, "-n", "2", sys.executable, "-c", code], capture_output=True, text=True
        )
        assert "".join(done.stdout.split()) == "22", done.stdout + done.stderr
        return np.array([1 + sample[0] * sample[1]])
"""


@BOTH
def test_an_oracle_may_be_an_mpi_program(mpi: Mpi, project: Project) -> None:
    (project.folder / "parallel.py").write_text(ORACLE)
    oracle = ["oracle.kernel=parallel:Parallel", "oracle.options={}", "oracle.workers=2"]
    project.settings(labels=3)
    words = [word for change in oracle for word in ("--set", change)]
    job = project.mpi(mpi, 2, *(TOLERANT if mpi is OPEN_MPI else ()), words=words)
    assert job.end(60) == 0, job.output
    project.check(labels=3)
    assert not project.failures()


SCRIPT = """
import pal, toys

summary = pal.Campaign(
    generator={"kernel": toys.Walk, "walkers": 4, "options": {"pause": 0.01}},
    model={"kernel": toys.Quadratic, "members": 2},
    oracle={"kernel": toys.truth, "workers": 2},
    selector={"kernel": toys.Threshold, "options": {"threshold": 0.0}},
    directory="run",
    stop={"labels": 20, "final_training": 0},
).run()
print(summary.labels, "labels on the head alone")
"""


@BOTH
def test_a_python_script_runs_under_mpi(mpi: Mpi, project: Project) -> None:
    (project.folder / "script.py").write_text(SCRIPT)
    job = project.start(*mpi.launcher("-n", "2"), str(mpi.python), "script.py")
    assert job.end() == 0, job.output
    assert job.output.count("labels on the head alone") == 1
    project.check(labels=20)
