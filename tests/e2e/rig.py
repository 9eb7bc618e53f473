"""Runs toy campaigns in real processes, and looks afterwards whether they left anything."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pal.controller.commands import State
from pal.errors import Failure, PalError
from pal.ledger.ledger import Ledger
from pal.monitor.metrics import Snapshot
from pal.monitor.summary import Summary
from pal.records import Array
from pal.runtime.campaign import Campaign
from pal.runtime.happenings import Happening, Note
from pal.settings import parse
from pal.testing.faults import processes as processes_of

TOYS = str(Path(__file__).parent)

DEFAULTS: dict[str, dict[str, Any]] = {
    "generator": {"kernel": "toys:Walk", "walkers": 3},
    "model": {"kernel": "toys:Quadratic", "members": 3},
    "oracle": {"kernel": "toys:truth", "grace": 2},
    "selector": {"kernel": "toys:Threshold"},
    "stop": {"final_training": 0, "after": 40},
    "restart": {"delay": 0.01},
}


def eventually(
    condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 20.0
) -> Any:
    """Wait until the condition holds, and return what it returned.

    A function tells what is missing as things stand when the time is over.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            missing = what if isinstance(what, str) else what()
            raise AssertionError(f"{missing}: not within {seconds} s")
        time.sleep(0.005)
    return found


def campaign(directory: Path, accept_changes: bool = False, **sections: Any) -> Campaign:
    """Make a toy campaign; each section is laid over the defaults."""
    data: dict[str, Any] = {"directory": directory}
    for name, section in {**DEFAULTS, **sections}.items():
        default = DEFAULTS.get(name, {})
        data[name] = default | dict(section) if isinstance(section, Mapping) else section
    return Campaign.from_settings(parse(data), accept_changes=accept_changes)


@dataclass
class Run:
    """What a campaign did."""

    directory: Path
    summary: Summary | None = None
    error: PalError | None = None
    seconds: float = 0.0
    happenings: list[Happening] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        return [item for item in self.happenings if isinstance(item, Failure)]

    @property
    def snapshots(self) -> list[Snapshot]:
        return [item for item in self.happenings if isinstance(item, Snapshot)]

    @property
    def notes(self) -> list[str]:
        return [item.text for item in self.happenings if isinstance(item, Note)]

    @property
    def last(self) -> Snapshot:
        return self.snapshots[-1]

    def kinds(self, role: str) -> set[str]:
        """The kinds of failure that a role had."""
        return {failure.kind for failure in self.failures if failure.role == role}

    def labels(self) -> dict[int, tuple[Any, Any]]:
        return labels_in(self.directory)

    def counts(self) -> dict[State, int]:
        with Ledger.open_readonly(self.directory) as ledger:
            return ledger.counts()


def labels_in(directory: Path) -> dict[int, tuple[Any, Any]]:
    """Every labelled sample, with its label, that is on disk."""
    with Ledger.open_readonly(directory) as ledger:
        return {item.identity: (item.sample, item.label) for item in ledger.labelled()}


def number_of_labels(directory: Path) -> int:
    """How many labels are on disk now; 0 while there is no ledger."""
    try:
        with Ledger.open_readonly(directory) as ledger:
            return len(ledger.labelled_ids())
    except (PalError, sqlite3.Error):
        return 0


def run(directory: Path, watch: Callable[[Happening], None] | None = None, **sections: Any) -> Run:
    """Run a toy campaign to its end; raises what it raised."""
    result = attempt(directory, watch, **sections)
    if result.error is not None:
        raise result.error
    check_ledger(directory)
    return result


def attempt(
    directory: Path, watch: Callable[[Happening], None] | None = None, **sections: Any
) -> Run:
    """Run a toy campaign to its end, and keep the error it may have raised."""
    result = Run(directory)
    started = time.monotonic()
    work = campaign(directory, **sections)
    try:
        for happening in work:
            result.happenings.append(happening)
            if watch is not None:
                watch(happening)
    except PalError as error:
        result.error = error
    result.summary = work.summary
    result.seconds = time.monotonic() - started
    return result


def check_ledger(directory: Path) -> None:
    """Every candidate is in one state, labels and states agree, and nothing is damaged."""
    with Ledger.open_readonly(directory) as ledger:
        ledger.check()
        labelled = ledger.labelled_ids()
        assert len(labelled) == len(set(labelled))
        marked = {row.candidate.sample for row in ledger.states(State.LABELLED)}
        assert marked == set(labelled)
        in_flight = ledger.states(State.RUNNING, State.RETURNED)
        assert not in_flight, f"neither waiting nor ended: {in_flight}"


def worker(directory: Path, name: str) -> int:
    """The process of a worker, as soon as there is one."""

    def look() -> int | None:
        found = [pid for pid, stem in processes_of(directory).items() if stem == name]
        return min(found, default=None)

    pid: int = eventually(look, f"worker {name}")
    return pid


def nursery() -> int:
    """The nursery of a campaign in this process."""
    (found,) = (
        child.pid
        for child in psutil.Process().children()
        if "pal.runtime.nursery" in child.cmdline()
    )
    return found


def kill(pid: int) -> None:
    """Kill -9."""
    os.kill(pid, signal.SIGKILL)


def trace(folder: Path, walkers: int) -> list[Array]:
    """What each walker met: rows of (two coordinates, heard mean, heard deviation)."""
    return [
        np.frombuffer((folder / f"walker-{index}").read_bytes()).reshape(-1, 4)
        for index in range(walkers)
    ]


def versions(folder: Path, walkers: int) -> list[list[int]]:
    """The versions of the weights by which each walker was answered, as `toys.Informed` notes."""
    paths = [folder / f"versions-{index}" for index in range(walkers)]
    return [[int(w) for w in p.read_text().split()] if p.exists() else [] for p in paths]


@contextmanager
def nothing_left() -> Iterator[None]:
    """Whatever runs inside must leave no child, no descriptor and no shared memory."""
    before = _possessions()
    yield
    gc.collect()
    left = _possessions() - before
    assert not left, f"left behind: {sorted(left)}"


def _possessions() -> set[str]:
    """Children, open descriptors and shared memory of this process."""
    found = {f"child {child.pid}" for child in psutil.Process().children(recursive=True)}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"descriptor {fd}: {os.readlink(f'/proc/self/fd/{fd}')}")
        except OSError:
            continue  # that of the listing itself
    # matplotlib keeps the fonts open with which it has drawn.
    found = {item for item in found if "matplotlib" not in item}
    return found | {f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if _ours(name)}


def _ours(name: str) -> bool:
    """Whether a piece of shared memory may be a campaign's; an MPI job may run beside."""
    return not name.startswith(("sm_segment.", "mpich_shm_"))
