"""A campaign that a real `pal run` leads, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from fault_kernels import BEAT

from pal.ledger.ledger import Ledger
from pal.testing import faults

HERE = Path(__file__).parent
PATHS = (str(HERE), str(HERE.parent / "e2e"), str(Path(faults.__file__).parents[2]))
PAL = [sys.executable, "-c", "import pal.cli; pal.cli.main()"]
MARK = "PAL_FAULT_WORLD"
_TELLING = re.compile(r"error|warning|crash|deadline|settings changed|saved")


def eventually(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait until the condition holds; return what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.002)
    return found


class World:
    """One campaign in a folder of its own. `disk`: where its run directory is, if elsewhere."""

    def __init__(self, folder: Path, disk: Path | None = None, **sections: Any) -> None:
        self.folder = folder
        self.run = (disk or folder) / "run"
        self.beats = folder / "beats"
        self.temp = folder / "temp"
        self.extra = folder / "extra"
        for path in (folder, self.beats, self.temp, self.extra):
            path.mkdir(parents=True, exist_ok=True)
        # Drawing the report takes longer than all the rest.
        (self.extra / "matplotlib.py").write_text("raise ImportError('not wanted here')\n")
        self.sections = sections
        self.process: subprocess.Popen[bytes] | None = None
        self.output = folder / "output.txt"
        self.environment: dict[str, str] = {}
        self.acknowledged: dict[int, bytes] = {}
        self._read_from = 0
        self._before = set(os.listdir("/dev/shm"))

    # `pal` ---------------------------------------------------------------------------------

    def settings(self, **changes: Any) -> Path:
        """Write the settings; sections are laid over the defaults."""
        beats = {"beats": str(self.beats)}
        data: dict[str, Any] = {
            "directory": str(self.run),
            "save_interval": 0.2,
            "generator": {"kernel": "fault_kernels:Walker", "walkers": 3, "options": beats},
            "model": {"kernel": "fault_kernels:Member", "members": 3, "options": beats},
            "oracle": {
                **{"kernel": "fault_kernels:Oracle", "options": beats},
                **{"workers": 2, "grace": 2},
            },
            "selector": {"kernel": "toys:Threshold", "options": {"threshold": -1.0}},
            "training": {"retrain_size": 4},
            "stop": {"final_training": 0, "failures": None},
        }
        for name, section in (*self.sections.items(), *changes.items()):
            own = dict(section)
            if "options" in own:
                own["options"] = {**data[name].get("options", {}), **own["options"]}
            data[name] = {**data.get(name, {}), **own}
        path = self.folder / "pal.json"
        path.write_text(json.dumps(data))
        return path

    def pal(self, *words: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*PAL, *map(str, words)],
            cwd=self.folder,
            env=self._env(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *words: str, **changes: Any) -> float:
        """Start `pal run` in a process group of its own; return when."""
        settings = self.settings(**changes)
        self._read_from = self.output.stat().st_size if self.output.exists() else 0
        began = time.monotonic()
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*PAL, "run", str(settings), *words],
                cwd=self.folder,
                env=self._env(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return began

    def _env(self) -> dict[str, str]:
        paths = os.pathsep.join([str(self.extra), *PATHS])
        own = {"PYTHONPATH": paths, "TMPDIR": str(self.temp), MARK: str(self.folder)}
        wide = {"PYTHONUNBUFFERED": "1", "COLUMNS": "500"}
        return {**os.environ, **own, **wide, **self.environment}

    def end(self, seconds: float = 30.0) -> int:
        """End it in good order, as Ctrl-C does; return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)

    def close(self) -> None:
        """Leave nothing, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGCONT)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # What is seen from outside --------------------------------------------------------------

    def said(self, since: int | None = None) -> str:
        """What `pal run` has printed since it was started the last time, or since a place."""
        text = self.output.read_bytes()[self._read_from if since is None else since :]
        return text.decode(errors="replace")

    def place(self) -> int:
        """Where the output ends now."""
        return self.output.stat().st_size

    def seen(self, since: int | None = None, pattern: str = "") -> str:
        """The first telling line of the output."""
        wanted = re.compile(pattern) if pattern else _TELLING
        for line in self.said(since).splitlines():
            if wanted.search(line):
                return line.strip()
        return "nothing"

    def labels(self) -> int:
        """How many labels are on the disk."""
        return self._count("ledger.sqlite")

    def copied(self) -> int:
        """How many labels the copy of the ledger has."""
        return self._count("ledger.backup.sqlite")

    def _count(self, name: str) -> int:
        try:
            db = sqlite3.connect(f"file:{self.run / name}?mode=rw", uri=True)
            try:
                return int(db.execute("SELECT count(*) FROM labels").fetchone()[0])
            finally:
                db.close()
        except sqlite3.Error:
            return 0

    def acknowledge(self) -> int:
        """Take down all labels that are on the disk: from now on none of them may be lost."""
        db = sqlite3.connect(f"file:{self.run / 'ledger.sqlite'}?mode=rw", uri=True)
        try:
            found = dict(db.execute("SELECT sample, data FROM labels").fetchall())
        finally:
            db.close()
        self.acknowledged |= found
        return len(found)

    def await_labels(self, more: int, seconds: float = 30.0) -> None:
        """Wait for so many new labels on the disk."""
        goal = self.labels() + more
        eventually(lambda: self.labels() >= goal, f"{more} more labels", seconds)

    def beat(self, name: str) -> tuple[int, float]:
        """Which process did this last, and when."""
        try:
            return BEAT.unpack((self.beats / name).read_bytes())
        except Exception:
            return 0, 0.0

    def descriptors(self) -> int:
        """How many descriptors the agent has open, in a quiet moment."""
        folder = Path(f"/proc/{faults.agent(self.run)}/fd")
        return min(len(os.listdir(folder)) for _ in range(20) if not time.sleep(0.01))

    def processes(self) -> list[int]:
        """All that belong to this world."""
        mark = f"{MARK}={self.folder}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    # What must be true at the end ------------------------------------------------------------

    def lost(self) -> int:
        """Check the ledger; return how many labels that were on the disk once are not, now."""
        with Ledger.open_readonly(self.run) as ledger:
            ledger.check()
            numbers = ledger.labelled_ids()
            assert len(numbers) == len(set(numbers)), "a label is there twice"
            made = self._journal()
            for item in ledger.labelled():
                sample, label = np.asarray(item.sample), np.asarray(item.label)
                assert label == 1 + sample[0] * sample[1], f"sample {item.identity} is wrong"
                assert f"{sample[0]!r} {sample[1]!r}" in made, "a label that no oracle made"
        with sqlite3.connect(self.run / "ledger.sqlite") as db:
            found = dict(db.execute("SELECT sample, data FROM labels").fetchall())
        db.close()
        return sum(found.get(number) != data for number, data in self.acknowledged.items())

    def _journal(self) -> set[str]:
        return {
            line for path in self.beats.glob("journal-*") for line in path.read_text().splitlines()
        }

    def leaks(self) -> list[str]:
        """What a campaign that has ended has left: processes, shared memory, files."""
        with suppress(AssertionError):
            eventually(lambda: not self.processes(), "all processes gone", 10.0)
        left = [f"process {pid}" for pid in self.processes()]
        fresh = set(os.listdir("/dev/shm")) - self._before
        # Other programs of this machine may use multiprocessing or MPI.
        left += [n for n in fresh if not n.startswith(("sem.mp-", "sm_segment", "mpich"))]
        left += [f"temp: {path.name}" for path in self.temp.iterdir()]
        scratch = self.run / "scratch"
        left += [f"scratch: {path.name}" for path in scratch.iterdir()] if scratch.exists() else []
        return left + [p.name for p in self.run.glob(".*.tmp")]


def small_disk(place: Path, size: str = "8m") -> bool:
    """Mount a small disk, which root may; whether it worked."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None:
        return False
    return not subprocess.run(command, capture_output=True, check=False).returncode
