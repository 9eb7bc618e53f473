"""Campaigns on two nodes of a real Slurm: agents on each, and what happens when one is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rig import check_ledger, eventually, labels_in
from slurm import Slurm
from slurm_project import Project

from pal.ledger.ledger import Ledger

LAUNCHER = Path(sys.executable).with_name("mpirun")
MPICH = Path(__file__).parents[2] / ".venv-mpich" / "bin" / "python"
TWO = ("--nodes", "2", "--time", "5min")
AGENT = "pal run pal.toml --nodes 2"


@pytest.fixture(autouse=True)
def root(project: Project) -> None:
    """Open MPI's launcher is not to mind who the tests run as, nor a long folder for sockets."""
    if not LAUNCHER.exists():
        pytest.skip(f"{LAUNCHER} is not there")
    project.environment |= {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    project.environment.pop("TMPDIR", None)
    project.workers = 4


def on_node(slurm: Slurm, name: str, what: str = "") -> list[int]:
    """The processes of a job's steps on one node."""
    found = []
    for process in slurm.processes():
        try:
            variables, words = process.environ(), " ".join(process.cmdline())
        except psutil.Error:
            continue
        step = variables.get("SLURM_STEP_ID", "batch")
        if variables.get("SLURMD_NODENAME") == name and step == "0" and what in words:
            found.append(process.pid)
    return found


def workers_on(slurm: Slurm, name: str) -> int:
    return len(on_node(slurm, name, "pal.runtime.nursery"))


def lost(project: Project) -> list[int]:
    with Ledger.open_readonly(project.run) as ledger:
        failures = [entry.failure for entry in ledger.failures()]
    return [failure.index for failure in failures if failure.kind == "NodeLost"]


def test_a_submitted_campaign_has_an_agent_on_each_node(project: Project, slurm: Slurm) -> None:
    project.settings(labels=100)
    number = project.submit(*TWO)
    project.wait_labels(10)
    for name in slurm.nodes:
        assert on_node(slurm, name, AGENT), f"no agent on {name}"
        assert workers_on(slurm, name), f"no worker on {name}"
    assert slurm.wait(number) == "COMPLETED", project.output()
    output = project.output()
    assert "2 nodes over Open MPI" in output
    assert "stop.labels = 100 reached" in output
    assert "\x1b" not in output, "a log is no terminal"
    check_ledger(project.run)
    logs = {path.stem for path in (project.run / "logs").glob("oracle-*.log")}
    assert logs == {f"oracle-{index}" for index in range(4)}


def test_a_campaign_on_two_nodes_goes_on_over_its_wall_times(
    project: Project, slurm: Slurm
) -> None:
    project.settings(labels=250, seconds=0.2)
    project.submit("--nodes", "2", "--time", "20s", "--requeue")
    jobs = lambda: project.submitted() if not slurm.jobs() else []  # noqa: E731
    numbers = eventually(jobs, "the end of all jobs", 100)
    assert len(numbers) >= 2, project.output()
    assert {slurm.state(number) for number in numbers} == {"COMPLETED"}
    *paused, last = project.sessions()
    assert len(paused) + 1 == len(numbers)
    assert all("the batch job ends at" in str(reason) for reason in paused)
    assert last == "stop.labels = 250 reached"
    check_ledger(project.run)
    assert len(labels_in(project.run)) >= 250


def test_a_signal_before_the_end_reaches_the_head(project: Project, slurm: Slurm) -> None:
    project.settings(labels=10_000)
    number = project.submit(*TWO)
    project.wait_labels(5)
    slurm.command("scancel", "--batch", "--signal=USR1", number)
    assert slurm.wait(number) == "FAILED", project.output()
    assert slurm.job(number)["ExitCode"] == "75:0"
    (reason,) = project.sessions()
    assert str(reason).startswith("to be continued: ")
    check_ledger(project.run)


def test_an_agent_that_dies_does_not_end_the_job(project: Project, slurm: Slurm) -> None:
    """As by the kernel's killer for want of memory: the node itself is there."""
    project.settings(labels=100)
    number = project.submit(*TWO)
    project.wait_labels(10)
    for pid in on_node(slurm, "n2", AGENT):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: lost(project), "the loss", 10)
    assert slurm.wait(number) == "COMPLETED", project.output()
    assert lost(project) == [1]
    check_ledger(project.run)
    assert len(labels_in(project.run)) >= 100


def lose_by_slurm(slurm: Slurm) -> None:
    slurm.node_down("n2")


def lose_by_force(slurm: Slurm) -> None:
    for pid in on_node(slurm, "n2"):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("lose", "options"), [(lose_by_slurm, ["--requeue"]), (lose_by_force, [])]
)
def test_a_node_that_is_lost_ends_the_job_and_the_next_one_goes_on(
    lose: Callable[[Slurm], None], options: list[str], project: Project, slurm: Slurm
) -> None:
    """Open MPI's launcher ends all others, with code 0, when its daemon on a node is gone."""
    project.settings(labels=10_000)
    number = project.submit(*TWO, *options)
    project.wait_labels(10)
    before = labels_in(project.run)
    wanted = len(before) + 100
    project.settings(labels=wanted)  # of the next job
    lose(slurm)
    assert slurm.wait(number) == ("COMPLETED" if options else "FAILED"), project.output()
    assert "the launcher ended before the campaign did" in project.output()
    eventually(lambda: not slurm.processes(), "no process of the job")
    assert len(project.submitted()) == 1 + len(options)
    again = project.submitted()[-1] if options else project.submit(*TWO)
    assert slurm.wait(again) == "COMPLETED", project.output()
    assert before.keys() <= labels_in(project.run).keys()
    assert project.sessions()[-1] == f"stop.labels = {wanted} reached"
    check_ledger(project.run)


def test_a_cancelled_job_on_two_nodes_leaves_nothing_and_loses_no_label(
    project: Project, slurm: Slurm
) -> None:
    project.settings(labels=10_000)
    number = project.submit(*TWO, "--requeue")
    project.wait_labels(10)
    before = labels_in(project.run)
    slurm.cancel(number)
    assert slurm.wait(number) == "CANCELLED"
    eventually(lambda: not slurm.processes(), "no process of the job")
    assert project.submitted() == [number]
    wanted = len(labels_in(project.run)) + 10
    project.settings(labels=wanted)
    again = project.submit("--time", "5min")
    assert slurm.wait(again) == "COMPLETED", project.output()
    assert before.keys() <= labels_in(project.run).keys()
    check_ledger(project.run)


@pytest.mark.parametrize(
    ("python", "plugin", "prologue"),
    [
        (Path(sys.executable), "pmix", ""),
        (MPICH, "pmi2", "export MPIR_CVAR_CH4_NETMOD=ofi"),
    ],
    ids=["Open MPI", "MPICH"],
)
def test_srun_starts_the_agents(
    python: Path, plugin: str, prologue: str, project: Project, slurm: Slurm
) -> None:
    if not python.exists():
        pytest.skip(f"{python} is not there; `make test` installs it")
    if shutil.which("srun") is None or plugin not in slurm.command(
        "bash", "-c", "srun --mpi=list 2>&1"
    ):
        pytest.skip(f"this srun knows no {plugin}")
    project.settings(labels=30)
    prologues = [f"export SLURM_MPI_TYPE={plugin}", *filter(None, [prologue])]
    words = [word for line in prologues for word in ("--prologue", line)]
    script = project.script(*TWO, "--launcher", "srun", *words)
    script.write_text(script.read_text().replace(sys.executable, str(python)))
    number = slurm.submit(script)
    assert slurm.wait(number) == "COMPLETED", project.output()
    assert "2 nodes over " in project.output()
    check_ledger(project.run)


def test_srun_without_the_plugin_is_an_error_that_explains(project: Project, slurm: Slurm) -> None:
    project.settings(labels=30)
    number = project.submit(*TWO, "--launcher", "srun")
    assert slurm.wait(number) == "FAILED", project.output()
    assert "Slurm's srun started 2 processes, but for the MPI library" in project.output()
    assert "srun --mpi=pmix for Open MPI" in project.output()
