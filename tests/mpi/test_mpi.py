"""The fabric over real MPI: the suite of all fabrics, deaths, and how a job ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mpi_jobs import MPICH, OPEN_MPI, SETTINGS, TOLERANT, Mpi, environment

PROGRAM = Path(__file__).with_name("program.py")


@dataclass(frozen=True)
class Job:
    code: int
    notes: dict[int, dict[str, Any]]
    errors: list[str]
    output: str


def run(command: list[str], act: str, folder: Path, size: int = 4, seconds: float = 40.0) -> Job:
    """Run the program; whatever happens, nothing of it is left afterwards."""
    with open(folder / "output", "w+b") as output:
        process = subprocess.Popen(
            [*command, str(PROGRAM), act, str(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            code = process.wait(10.0)
            pytest.fail(f"{act} hangs:\n{(folder / 'output').read_text(errors='replace')}")
        finally:
            process.kill()
    notes = {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.json")}
    errors = [path.read_text() for path in folder.glob("error-*.txt")]
    leave_nothing(notes)
    return Job(code, notes, errors, (folder / "output").read_text(errors="replace"))


def leave_nothing(notes: dict[int, dict[str, Any]]) -> None:
    end = time.monotonic() + 5.0
    left = [f"/proc/{note['pid']}" for note in notes.values()]
    left += [segment for note in notes.values() for segment in note["segments"]]
    while any(map(os.path.exists, left)):
        assert time.monotonic() < end, f"left behind: {[*filter(os.path.exists, left)]}"
        time.sleep(0.02)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("mpi", [OPEN_MPI, MPICH], ids=lambda mpi: mpi.name)
def test_conformance(mpi: Mpi, size: int, tmp_path: Path) -> None:
    command = [*mpi.launcher("-n", str(size)), str(mpi.python)]
    job = run(command, "conformance", tmp_path)
    assert job.code == 0, job.output
    assert sorted(job.notes) == list(range(size))
    for note in job.notes.values():
        assert mpi.name in note["description"]
        assert not note["survives"]
        assert set(note["results"].values()) == {"passed"}
        assert len(note["errors"]) == int(size > 1)


def tolerant(act: str, folder: Path) -> Job:
    command = [*OPEN_MPI.launcher(*TOLERANT, "-n", "4"), str(OPEN_MPI.python)]
    return run(command, act, folder)


def check_survivors(job: Job, dead: set[int]) -> None:
    died = max(job.notes[rank]["died"] for rank in dead)
    survivors = set(range(4)) - dead
    for rank in survivors:
        note = job.notes[rank]
        assert note["survives"]
        assert sorted(lost for lost, _ in note["lost"]) == sorted(dead), "each loss is told once"
        assert max(when for _, when in note["lost"]) - died < 1.0
        assert note["letters"].count("after it") == len(survivors)
        assert not note.get("backlog")


@pytest.mark.parametrize(
    ("act", "dead", "code"),
    [
        ("kill-last", {3}, 0),
        ("kill-head", {0}, 0),
        ("segfault", {1}, 0),
        ("kill-busy", {1}, 0),
        ("two-deaths", {0, 2}, 0),
        ("codes", {3}, 5),
        ("kill-and-abort", {3}, 9),
    ],
)
def test_survivors_of_a_death_notice_it_and_go_on(
    act: str, dead: set[int], code: int, tmp_path: Path
) -> None:
    job = tolerant(act, tmp_path)
    check_survivors(job, dead)
    assert job.code == code, job.output


def test_a_rank_that_fails_without_farewell_is_a_death(tmp_path: Path) -> None:
    job = tolerant("unclosed", tmp_path)
    assert job.code == 0, job.output
    assert "a mistake in the agent" in job.output
    for rank in (0, 2, 3):
        assert [lost for lost, _ in job.notes[rank]["lost"]] == [1]


def test_a_rank_that_hears_that_it_is_expelled_ends(tmp_path: Path) -> None:
    job = tolerant("expelled", tmp_path)
    assert job.code == 0, job.output
    assert "you are expelled" in job.notes[3]["letters"]
    assert "why?" not in job.notes[0]["letters"]
    assert not any(note["lost"] for note in job.notes.values())


@pytest.mark.parametrize("mpi", [OPEN_MPI, MPICH], ids=lambda mpi: mpi.name)
def test_an_expelled_rank_whose_death_would_end_the_job_waits_for_its_end(
    mpi: Mpi, tmp_path: Path
) -> None:
    job = run([*mpi.launcher("-n", "4"), str(mpi.python)], "outlived", tmp_path)
    assert job.code in (0, 9), job.output  # 9: what MPICH makes of an abort with code 0
    for rank in (0, 1, 2):
        assert job.notes[rank]["letters"].count("after it") == 3


@pytest.mark.parametrize("options", [TOLERANT, ()], ids=["tolerant", "plain"])
def test_a_frozen_rank_is_expelled_and_does_not_outlive_the_job(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    job = run([*OPEN_MPI.launcher(*options, "-n", "4"), str(OPEN_MPI.python)], "frozen", tmp_path)
    assert job.code == 0, job.output
    for rank in (0, 1, 2):
        assert job.notes[rank]["letters"].count("after it") == 3
    assert job.notes[0]["backlog"] == 0


@pytest.mark.parametrize(
    ("mpi", "options"),
    [(OPEN_MPI, TOLERANT), (OPEN_MPI, ()), (MPICH, ())],
    ids=["Open MPI, tolerant", "Open MPI", "MPICH"],
)
def test_an_abort_ends_every_rank_with_its_code(
    mpi: Mpi, options: tuple[str, ...], tmp_path: Path
) -> None:
    command = [*mpi.launcher(*options, "-n", "4"), str(mpi.python)]
    job = run(command, "abort", tmp_path, seconds=20.0)
    assert job.code == 7, job.output


@pytest.mark.parametrize("mpi", [OPEN_MPI, MPICH], ids=lambda mpi: mpi.name)
def test_without_tolerance_a_death_ends_the_job(mpi: Mpi, tmp_path: Path) -> None:
    command = [*mpi.launcher("-n", "4"), str(mpi.python)]
    assert run(command, "kill-last", tmp_path).code in (9, 137)


def test_waiting_for_the_last_rank_at_the_end_costs_nothing(tmp_path: Path) -> None:
    job = run([*OPEN_MPI.launcher("-n", "2"), str(OPEN_MPI.python)], "late", tmp_path)
    assert job.code == 0
    assert job.notes[1]["busy"] < 0.2


@pytest.mark.parametrize(
    ("launcher", "python", "started"),
    [(MPICH, OPEN_MPI, "PMI"), (OPEN_MPI, MPICH, "Open MPI's mpirun")],
    ids=["mpiexec of MPICH", "mpiexec of Open MPI"],
)
def test_a_launcher_of_another_mpi_is_an_error_that_explains(
    launcher: Mpi, python: Mpi, started: str, tmp_path: Path
) -> None:
    python.launcher()
    command = [*launcher.launcher("-n", "2"), str(python.python)]
    job = run(command, "late", tmp_path)
    assert job.code != 0
    assert job.errors
    for text in job.errors:
        assert started in text
        assert "started 2 processes" in text
        assert f"({python.name}" in text
        assert "a world of 1" in text


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        ("import sys; sys.modules['mpi4py'] = None", "mpi4py is not installed"),
        ("import os; os.environ['MPI4PY_LIBMPI'] = '/nowhere/libmpi.so'", "finds no MPI library"),
    ],
)
def test_what_is_missing_is_named_with_the_fix(setup: str, reason: str) -> None:
    code = f"{setup}\nfrom pal.transport.launch import Launch, connect\n"
    code += 'connect(Launch("Open MPI\'s mpirun", 0, 2))'
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | SETTINGS
    )
    assert "WorldError: Open MPI's mpirun started this process" in result.stderr
    assert reason in result.stderr
    assert 'pip install "pal[mpi]"' in result.stderr


def test_importing_the_module_does_not_import_mpi() -> None:
    code = "import pal.transport.mpi, pal.transport.launch, sys; sys.exit('mpi4py' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | SETTINGS)
