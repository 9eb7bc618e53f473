"""MPI libraries, and campaigns under their launchers: started, hurt and watched from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from rig import TOYS, check_ledger, eventually, labels_in, number_of_labels

from pal.ledger.ledger import Ledger

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PYTHONPATH": str(ROOT / "src"),
}
TOLERANT = ("--with-ft", "ulfm")

_MARK = "PAL_TEST_JOB"
"""The variable by which every process of a job is found, workers and nurseries included."""


@dataclass(frozen=True)
class Mpi:
    """An MPI library with its launcher, and a Python whose mpi4py uses it."""

    name: str
    python: Path

    def launcher(self, *options: str) -> list[str]:
        mpiexec = self.python.with_name("mpiexec")
        if not mpiexec.exists():
            pytest.skip(f"{mpiexec} is not there; `make test` installs it")
        bind = ["--bind-to", "none"] if self.name == "Open MPI" else []
        return [str(mpiexec), *bind, *options]

    @property
    def pal(self) -> list[str]:
        return [str(self.python), "-m", "pal"]


OPEN_MPI = Mpi("Open MPI", Path(sys.executable))
MPICH = Mpi("MPICH", ROOT / ".venv-mpich" / "bin" / "python")


def environment() -> dict[str, str]:
    """Return the environment in which launchers start."""
    # Open MPI needs a short path for its sockets, and pytest's are long.
    own = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    return {**own, **SETTINGS, "PYTHONUNBUFFERED": "1"}


class Job:
    """A running job, with its processes and its output."""

    def __init__(self, command: Sequence[str], folder: Path, more: Mapping[str, str]) -> None:
        self.command = list(command)
        self._mark = f"{_MARK}={folder}-{time.monotonic_ns()}"
        self._output = folder / f"output-{time.monotonic_ns()}"
        name, _, value = self._mark.partition("=")
        self._segments: set[str] = set()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env={**environment(), **more, name: value},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def processes(self) -> dict[int, dict[str, str]]:
        """Every living process of the job, with its environment."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                items = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if self._mark in items:
                found[int(folder.name)] = dict(item.partition("=")[::2] for item in items)
        return found

    def agents(self) -> dict[int, int]:
        """The process of the agent of each rank."""
        found = {}
        for pid, variables in self.processes().items():
            rank = variables.get("OMPI_COMM_WORLD_RANK", variables.get("PMI_RANK"))
            if rank is not None and "pal" in _words(pid):
                found[int(rank)] = pid
        return found

    def agent(self, rank: int) -> int:
        pid: int = eventually(
            lambda: self.agents().get(rank), lambda: f"agent {rank}; {self.output}"
        )
        return pid

    def family(self, rank: int) -> list[int]:
        """An agent, its nursery and all its workers."""
        agent = psutil.Process(self.agent(rank))
        return [agent.pid, *(child.pid for child in agent.children(recursive=True))]

    def note_segments(self) -> None:
        """Remember the shared memory that the job uses; none of it may be left."""
        for pid in self.processes():
            try:
                lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            except OSError:
                continue
            paths = {line.split()[-1] for line in lines if "/dev/shm/" in line}
            self._segments |= {path for path in paths if path.startswith("/dev/shm/")}

    def end(self, seconds: float = 40.0) -> int:
        """Wait for the end; nothing may be left then."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.command} hangs:\n{self.output}")
        eventually(lambda: not self.processes(), f"no process of {self.command}", 15.0)
        left = [path for path in self._segments if os.path.exists(path)]
        assert not left, f"left behind: {left}"
        return code

    def kill(self) -> None:
        """Whatever happened, leave nothing."""
        for _ in range(100):
            found = self.processes()
            for pid in found:
                send(signal.SIGKILL, [pid])
            if self.process.poll() is not None and not found:
                return
            time.sleep(0.02)


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def send(number: int, pids: Iterable[int]) -> None:
    """Send a signal to processes, as far as they still are."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


TOML = """
name = "toy"
directory = "run"
[generator]
kernel = "toys:Walk"
walkers = 4
hosts = 4
options = {{ pause = 0.01 }}
[model]
kernel = "toys:Quadratic"
members = 2
[oracle]
kernel = "toys:Slow"
options = {{ seconds = {seconds} }}
workers = 4
grace = 1
[selector]
kernel = "toys:Threshold"
options = {{ threshold = 0.0 }}
[stop]
final_training = 0
labels = {labels}
[restart]
delay = 0.01
silence = {silence}
"""


class Project:
    """A toy campaign in a folder, and all the jobs that ran in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.jobs: list[Job] = []
        self.settings()

    def settings(self, labels: int = 30, seconds: float = 0.05, silence: float = 20.0) -> None:
        text = TOML.format(labels=labels, seconds=seconds, silence=silence)
        (self.folder / "pal.toml").write_text(text)

    def start(self, *command: str, **more: str) -> Job:
        paths = ":".join([SETTINGS["PYTHONPATH"], TOYS])
        job = Job(command, self.folder, {"PYTHONPATH": paths, **more})
        self.jobs.append(job)
        return job

    def mpi(self, mpi: Mpi, size: int, *options: str, words: Sequence[str] = ()) -> Job:
        """Start `pal run` with so many agents."""
        launcher = mpi.launcher(*options, "-n", str(size))
        return self.start(*launcher, *mpi.pal, "run", "--json", *words, "pal.toml")

    def tolerant(self, size: int = 4, words: Sequence[str] = ()) -> Job:
        return self.mpi(OPEN_MPI, size, *TOLERANT, words=words)

    def stop(self) -> None:
        """Ask the campaign to end, as an operator does from anywhere."""
        asked = self.start(*OPEN_MPI.pal, "stop", "run")
        assert asked.end() == 0, asked.output

    def wait_labels(self, job: Job, count: int) -> None:
        def enough() -> bool:
            assert job.process.poll() is None, job.output
            return number_of_labels(self.run) >= count

        eventually(enough, f"{count} labels; {job.command}", 30.0)
        job.note_segments()

    def labels(self) -> dict[int, tuple[Any, Any]]:
        return labels_in(self.run)

    def check(self, labels: int) -> None:
        """The ledger is whole, has so many labels at least, and each of them is right."""
        check_ledger(self.run)
        found = self.labels()
        assert len(found) >= labels
        for sample, label in found.values():
            assert label[0] == pytest.approx(1 + sample[0] * sample[1])

    def failures(self) -> list[Any]:
        with Ledger.open_readonly(self.run) as ledger:
            return list(ledger.failures())

    def resume(self, labels: int) -> None:
        """Go on without MPI; every label that was there still is."""
        before = self.labels()
        self.settings(labels=labels)
        job = self.start(*OPEN_MPI.pal, "run", "--json", "pal.toml")
        assert job.end() == 0, job.output
        self.check(labels)
        after = self.labels()
        for identity, (sample, label) in before.items():
            assert (after[identity][0] == sample).all()
            assert (after[identity][1] == label).all()

    def close(self) -> None:
        for job in self.jobs:
            job.kill()
