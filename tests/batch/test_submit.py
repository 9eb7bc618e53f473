"""`pal submit` and what `pal status` tells of a job, with commands that play a batch system."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pal.batch import jobs, queue
from pal.batch.systems import SYSTEMS
from pal.cli import app
from pal.errors import BatchError
from pal.ledger.directory import RunDirectory

SETTINGS = """
name = "my toy"
directory = "out"
[generator]
kernel = "toys:Walk"
[model]
kernel = "toys:Quadratic"
[oracle]
kernel = "toys:truth"
"""
ANSWERS = {
    "slurm": ("sbatch", "Submitted batch job 41"),
    "pbs": ("qsub", "41.server"),
    "torque": ("qsub", "41.server"),
    "lsf": ("bsub", "Job <41> is submitted to queue <normal>."),
    "sge": ("qsub", "41"),
}
QUEUES = {
    ("slurm", "squeue", "41 PD"): "pending",
    ("slurm", "squeue", "41 R"): "running",
    ("pbs", "qstat", '{"Jobs": {"41.server": {"job_state": "Q"}}}'): "pending",
    ("pbs", "qstat", '{"Jobs": {"41.server": {"job_state": "H"}}}'): "held",
    ("pbs", "qstat", '{"Jobs": {"41.server": {"job_state": "F"}}}'): "ended",
    ("lsf", "bjobs", "41 RUN"): "running",
    ("lsf", "bjobs", "41 DONE"): "ended",
    ("sge", "qstat", "41 0.5 toy ada qw 11/25/2025"): "pending",
    ("sge", "qstat", "job-ID prior name"): "ended",
}
Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Make a command that says something, ends with a code, and notes how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, says: str = "", code: int = 0) -> None:
        (folder / f"{name}.says").write_text(says + "\n")
        out = " >&2" if code else ""
        file = folder / name
        file.write_text(
            f'#!/bin/bash\necho "$@" >{file}.asked\ncat {file}.says{out}\nexit {code}\n'
        )
        file.chmod(0o755)

    return make


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pal.toml").write_text(SETTINGS)
    monkeypatch.chdir(folder)
    return folder


def ask(*words: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.mark.parametrize("system", ANSWERS)
def test_each_system_is_given_the_script_and_its_number_is_kept(
    system: str, play: Play, project: Path, tmp_path: Path
) -> None:
    command, answer = ANSWERS[system]
    play(command, answer)
    play("sacct", code=1)

    done = ask("submit", "--system", system, "--time", "2h", "--cores-per-node", 4)

    assert done.exit_code == 0, done.output
    number = "41.server" if "server" in answer else "41"
    assert f"job {number} is submitted to {SYSTEMS[system].title}" in done.output
    script = project / "out" / "jobs" / "my-toy-1.sh"
    assert os.access(script, os.X_OK)
    assert f"{sys.executable} -m pal run pal.toml" in script.read_text()
    if system != "lsf":  # it reads the script from standard input
        assert (tmp_path / "bin" / f"{command}.asked").read_text().split()[-1] == str(script)
    (line,) = (project / "out" / "jobs" / "submitted.jsonl").read_text().splitlines()
    assert json.loads(line)["number"] == number

    again = ask("submit", "--again", script, "--system", system)
    assert again.exit_code == 0, again.output
    assert [path.name for path in script.parent.glob("*.sh")] == ["my-toy-1.sh"]
    newest = jobs.newest(RunDirectory(project / "out"))
    assert newest is not None
    assert newest.log.name == "my-toy-1-41.log"


@pytest.mark.parametrize(("system", "command", "answer"), QUEUES)
def test_queues_say_where_a_job_is(system: str, command: str, answer: str, play: Play) -> None:
    play(SYSTEMS[system].submit)
    play("sacct", code=1)
    play(command, answer)
    number = "41.server" if system == "pbs" else "41"
    assert queue.state(SYSTEMS[system], number) == QUEUES[system, command, answer]


def test_a_job_that_slurm_has_forgotten_has_ended(play: Play) -> None:
    play("sbatch")
    play("sacct", code=1)
    play("squeue", "slurm_load_jobs error: Invalid job id specified", code=1)
    assert queue.state(SYSTEMS["slurm"], "41") == "ended"
    play("squeue", "slurm_load_jobs error: Unable to contact slurm controller", code=1)
    assert queue.state(SYSTEMS["slurm"], "41") == "unknown"


def test_a_waiting_job_is_told_before_there_is_a_campaign(
    play: Play, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play("sbatch", "Submitted batch job 41")
    play("sacct", code=1)
    play("squeue", "41 PD")
    assert ask("submit", "--time", "2h").exit_code == 0

    done = ask("status")
    assert done.exit_code == 0, done.output
    assert "not begun" in done.output
    assert "41 of Slurm is pending" in done.output
    told = json.loads(ask("status", "--json").output)
    assert told["job"]["state"] == "pending"
    monkeypatch.setenv("PATH", str(project))
    assert "state unknown from this machine" in ask("status").output


@pytest.mark.parametrize("system", ["slurm", "lsf", "sge"])
def test_a_refusal_is_passed_on_with_the_way_out(system: str, play: Play, project: Path) -> None:
    command, _ = ANSWERS[system]
    play("sacct", code=1)
    play(command, "error: Invalid account specified", code=1)
    done = ask("submit", "--system", system, "--time", "2h", "--cores-per-node", 4)
    assert done.exit_code == 7
    assert f"{SYSTEMS[system].title} refused" in done.stderr
    assert "Invalid account specified" in done.stderr
    assert SYSTEMS[system].by_hand("") in done.stderr


def test_a_dry_run_needs_no_batch_system_and_leaves_nothing(
    project: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "parsl", None)
    done = ask("submit", "--system", "pbs", "--time", "2h", "--cores-per-node", 4, "--dry-run")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("#!/bin/bash\n")
    assert "#PBS -l walltime=02:00:00\n" in done.output
    assert [path.name for path in project.iterdir()] == ["pal.toml"]


def test_without_parsl_the_extra_is_named(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "parsl", None)
    monkeypatch.setitem(sys.modules, "parsl.providers", None)
    play("sbatch", "Submitted batch job 41")
    with pytest.raises(BatchError, match=r'pip install "pal\[cluster\]"'):
        queue.submit(SYSTEMS["slurm"], tmp_path / "job.sh")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--system", "slurm"], 2, "--time is missing"),
        (["--system", "slurm", "--time", "2"], 2, "a unit"),
        (["--system", "slrm", "--time", "2h"], 2, "did you mean 'slurm'"),
        (["--time", "2h"], 2, "looked for sbatch (Slurm)"),
        (["--system", "lsf", "--time", "2h"], 7, "bsub (LSF) is not on the PATH"),
        (["--system", "pbs", "--time", "2h"], 2, "--cores-per-node"),
        (["--system", "slurm", "--again", "nowhere.sh"], 2, "there is no such script"),
        (["--system", "slurm", "--time", "2h", "--set", "oracle.wrokers=2"], 2, "'workers'"),
    ],
)
def test_what_cannot_be_submitted_says_why(
    words: list[str],
    code: int,
    says: str,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = ask("submit", *words)
    assert done.exit_code == code
    assert says in done.stderr
