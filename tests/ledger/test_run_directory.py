from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pal.errors import LedgerDiskError, LedgerError, LedgerForeignError, LedgerLockedError
from pal.ledger.directory import RunDirectory, write_atomically
from pal.ledger.ledger import Ledger

CHILDREN = Path(__file__).with_name("ledger_children.py")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def test_one_process_at_a_time(run: RunDirectory) -> None:
    child = subprocess.Popen(
        [sys.executable, str(CHILDREN), "claim", str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"claimed\n"
        with pytest.raises(LedgerLockedError, match=f"in use by process {child.pid} on .*choose"):
            run.claim()
        holder = run.holder()
        assert holder is not None
        assert holder["pid"] == child.pid
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert run.holder() is None
        run.claim()
        run.release()


def test_a_claim_is_given_back(run: RunDirectory) -> None:
    other = RunDirectory(run.path)
    with run:
        with pytest.raises(LedgerLockedError, match=f"process {os.getpid()}"):
            other.claim()
        assert other.holder() == run.holder()
    with other:
        pass
    assert other.holder() is None
    assert run.lock.read_text() == ""


def test_a_forked_child_does_not_hold_the_claim(run: RunDirectory) -> None:
    code = (
        "import os, sys\nfrom pal.ledger.directory import RunDirectory\n"
        f"run = RunDirectory({str(run.path)!r})\nrun.claim()\n"
        "if os.fork():\n    os._exit(0)\n"
        "os.write(1, b'alive\\n')\nsys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"alive\n"
        child.wait()
        run.claim()
        run.release()


def test_a_directory_with_other_files_is_refused(run: RunDirectory) -> None:
    run.path.mkdir()
    (run.path / "thesis.tex").touch()
    with pytest.raises(LedgerForeignError, match=r"no campaign, but 1 other .*thesis\.tex"):
        run.claim()
    assert [path.name for path in run.path.iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_does_no_harm(run: RunDirectory) -> None:
    run.claim()
    run.logs.mkdir()
    (run.path / "ledger.sqlite-journal").touch()
    (run.path / ".muster-1f").touch()  # by which the agents of several nodes find the directory
    run.release()
    with run:
        Ledger.open(run.path).close()
    (run.path / "notes.txt").touch()
    with run:
        pass


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerDiskError, match="File exists"):
        RunDirectory(tmp_path / "file").claim()


def test_clearing_leaves_what_pal_did_not_write(run: RunDirectory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "fast disk"
    elsewhere.mkdir()
    (elsewhere / "data").touch()
    with run:
        Ledger.open(run.path).close()
        run.save_state("generator", 0, 1)
        (run.models / "7").mkdir(parents=True)
        run.scratch.symlink_to(elsewhere)
        for name in ("dataset.npz", "report.html", ".status.json.1-2.tmp", "ledger.sqlite-wal"):
            (run.path / name).touch()
        run.status.touch()
        for name in ("settings.toml", ".hidden", "model.txt"):
            (run.path / name).touch()
        run.clear()
    left = {path.name for path in run.path.iterdir()}
    assert left == {"settings.toml", ".hidden", "model.txt", "lock"}
    assert (elsewhere / "data").exists()


def test_only_the_owner_clears(run: RunDirectory) -> None:
    with run:
        Ledger.open(run.path).close()
    with pytest.raises(LedgerError, match="must be claimed before"):
        run.clear()
    assert run.ledger.exists()


@pytest.fixture
def saved(run: RunDirectory) -> RunDirectory:
    run.path.mkdir()
    run.save_state("generator", 3, {"step": 1})
    run.save_state("generator", 3, {"step": 2, "positions": np.arange(100.0)})
    return run


def test_states_come_back(saved: RunDirectory) -> None:
    assert saved.load_state("generator", 3)["step"] == 2
    assert saved.load_state("generator", 4) is None
    assert {path.name for path in saved.states.iterdir()} == {
        "generator-3.state",
        "generator-3.state.1",
    }


@pytest.mark.parametrize("kept", [0, 5, 20, 40, -1])
def test_a_state_cut_short_gives_way_to_the_one_before(saved: RunDirectory, kept: int) -> None:
    file = saved.states / "generator-3.state"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.warns(
        UserWarning, match=r"generator-3\.state is cut short.*generator-3\.state\.1"
    ):
        assert saved.load_state("generator", 3) == {"step": 1}


def test_a_crash_between_the_renames_leaves_the_state_before(saved: RunDirectory) -> None:
    (saved.states / "generator-3.state").unlink()
    assert saved.load_state("generator", 3) == {"step": 1}


def test_states_that_are_all_damaged_are_named(saved: RunDirectory) -> None:
    for file in saved.states.iterdir():
        file.write_bytes(b"zzz")
    with pytest.raises(LedgerError, match=r"generator-3\.state is cut.*\.1 is cut.*start anew"):
        saved.load_state("generator", 3)


class Gone:
    """A state whose class a later version no longer has."""

    def __reduce__(self) -> Any:
        return eval, ("missing_name",)


def test_a_state_that_cannot_be_read_is_named(run: RunDirectory) -> None:
    run.path.mkdir()
    run.save_state("model", 0, Gone())
    with pytest.raises(LedgerError, match=r"model-0\.state cannot be read: NameError"):
        run.load_state("model", 0)


def test_what_a_killed_process_has_begun_is_swept(run: RunDirectory) -> None:
    run.states.mkdir(parents=True)
    dead = run.states / ".trainer-0.new.4194305-17.tmp"  # no process has such a number
    alive = run.path / f".dataset.npz.{os.getpid()}-17.tmp"
    for path in (dead, alive):
        path.touch()
    run.sweep()
    assert not dead.exists()
    assert alive.exists()


def test_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    write_atomically(file, b"old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(LedgerDiskError, match=r"refused .*status\.json"):
        write_atomically(tmp_path / "missing" / "status.json", b"x")
