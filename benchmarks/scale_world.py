"""Starts the agents of `scale.py`, watches them from outside, and sees that nothing stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
PATIENCE = 120.0
"""Seconds for all workers to come up, and again for all to end."""

ROOT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
MARK = "PAL_SCALE"


@dataclass
class World:
    """One run of so many agents, while it goes on and afterwards."""

    agents: int
    folder: Path
    process: subprocess.Popen[bytes]
    mark: str
    begun: float
    up: float = 0.0
    """When the first snapshot came in which every worker was ready."""
    ended: float = 0.0
    left: list[str] = field(default_factory=list)
    """What was still there a second after the end."""
    measured: Any = None
    news: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)

    def look(self) -> list[dict[str, Any]]:
        """Read what the head has written so far, complete lines only."""
        path = self.folder / "news.jsonl"
        text = path.read_text() if path.exists() else ""
        self.news = [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]
        return self.snapshots

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        return [line for line in self.news if "rounds" in line]

    @property
    def problems(self) -> list[str]:
        return [line["problem"] for line in self.news if "problem" in line]

    @property
    def stopped(self) -> float:
        """When the head was told to stop."""
        return next(line["now"] for line in self.news if "stopped" in line)

    def agent(self, rank: int) -> psutil.Process:
        return psutil.Process(int((self.folder / f"agent-{rank}").read_text()))

    def processes(self) -> list[psutil.Process]:
        """All processes of this world, the launcher among them."""
        launcher = psutil.Process(self.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def since(self, moment: float) -> list[dict[str, Any]]:
        """The snapshots after a moment, before the head was told to stop."""
        end = next((line["now"] for line in self.news if "stopped" in line), float("inf"))
        return [line for line in self.snapshots if moment <= line["now"] <= end]


def run(
    agents: int, settings: dict[str, Any], during: Callable[[World], Any], floor: int = 0
) -> World:
    """Run a campaign; call `during` once all workers are ready, and then let it end.

    `floor`: bytes to send over MPI alone beforehand.
    """
    with tempfile.TemporaryDirectory(prefix="pal-scale-") as name:
        folder = Path(name)
        merged = {"directory": str(folder / "run"), "stop": {"final_training": 0}, **settings}
        text = json.dumps({"settings": merged, "floor": floor}).replace("FOLDER", name)
        (folder / "plan.json").write_text(text)
        world = _start(agents, folder)
        try:
            _await_workers(world)
            shared = {path for process in world.processes() for path in _shared(process)}
            world.measured = during(world)
            (folder / "enough").touch()
            world.process.wait(PATIENCE)
            world.ended = time.monotonic()
        except BaseException:
            _kill(world)
            sys.stderr.write((folder / "errors").read_text()[-4000:])
            raise
        world.look()
        time.sleep(1.0)
        world.left = _marked(world.mark) + sorted(filter(os.path.exists, shared))
        if world.process.returncode:
            raise RuntimeError((folder / "errors").read_text()[-4000:])
        world.seen = json.loads((folder / "seen.json").read_text())
    return world


def _start(agents: int, folder: Path) -> World:
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [str(mpiexec) if mpiexec.exists() else shutil.which("mpiexec") or "mpiexec"]
    command += ["-n", str(agents), "--with-ft", "ulfm", "--bind-to", "none"]
    command += [sys.executable, str(HERE / "scale_agent.py"), str(folder)]
    mark = uuid.uuid4().hex
    environment = {**os.environ, **ROOT, MARK: mark}
    begun = time.monotonic()
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=errors, stderr=errors, start_new_session=True
        )
    return World(agents, folder, process, mark, begun)


def _await_workers(world: World) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for line in world.look():
            if line["ready"] == line["workers"]:
                world.up = line["now"]
                return
        if world.process.poll() is not None:
            raise RuntimeError(
                f"the agents ended before all workers were up: {world.problems[:5]}"
            )
        time.sleep(0.05)
    raise TimeoutError(f"not all workers were up within {PATIENCE:.0f} s: {world.problems[:5]}")


def _kill(world: World) -> None:
    """End what was started here, agents first, so that their workers go with them."""
    for pid in [int(path.read_text()) for path in world.folder.glob("agent-*")]:
        if str(pid) in {name.partition(" ")[0] for name in _marked(world.mark)}:
            os.kill(pid, signal.SIGKILL)
    if world.process.poll() is None:
        os.killpg(world.process.pid, signal.SIGKILL)
    world.process.wait()


def _shared(process: psutil.Process) -> set[str]:
    """Name the files of shared memory that a process has mapped."""
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if "/dev/shm/" in line}


def _marked(mark: str) -> list[str]:
    """Name the processes that were started, at whatever distance, with this mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                found.append(f"{path.name} {(path / 'comm').read_text().strip()}")
        except OSError:
            continue
    return found
