"""A worker process from its birth to its end: surroundings, log, state, failures.

What it does in between is its role's own module, imported only here and only when needed.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pal.errors import ChannelClosedError, Failure, LedgerDiskError, LedgerError
from pal.ledger.directory import RunDirectory
from pal.roles import Context
from pal.runtime.labels import described
from pal.runtime.messages import Failed, Ready
from pal.runtime.orders import Job, Order
from pal.runtime.surroundings import THREAD_VARIABLES, of_launcher, seed_of
from pal.transport.board import Board, Meter
from pal.transport.channel import SocketChannel
from pal.transport.doorbell import Doorbell, attach_doorbell
from pal.transport.mailbox import Post
from pal.transport.segment import Segment
from pal.transport.slots import Slots

KERNEL_OF = {
    "generator": "generator",
    "oracle": "oracle",
    "broker": "oracle",
    "trainer": "training",
}
"""The kernel a worker's role belongs to; all others belong to prediction."""


class Desktop:
    """What every worker has at hand: its job, channel, meter, doorbells, states."""

    def __init__(self, order: Order, fds: Sequence[int]) -> None:
        self.job: Job = order.job
        self.channel = SocketChannel(socket.socket(fileno=fds[order.channel]))
        shared = order.shared
        board = Board(_segment(fds[shared.board]), shared.board_rows)
        self.meter: Meter = board.meter(shared.row)
        self.bells: list[Doorbell] = [
            attach_doorbell(tuple(fds[place] for place in bell)) for bell in shared.bells
        ]
        self.first = shared.first
        self.slots: Slots | None = None
        if shared.slots >= 0:
            self.slots = Slots(_segment(fds[shared.slots]), shared.slot_count, shared.slot_size)
        self.posts = [Post(_segment(fds[place])) for place in shared.posts]
        self.run = RunDirectory(self.job.directory)
        # What was sent before this worker came up lies in its channel already: look there first.
        self._mail = -1.0
        self.born = time.monotonic()
        self._refused = False

    def context(self, role: str, index: int, count: int, generation: int = 0) -> Context:
        """Describe one instance of a role to its kernel; each generation has another seed."""
        directory = self.job.directory / "work" / f"{role}-{index}"
        directory.mkdir(parents=True, exist_ok=True)
        return Context(
            role,
            index,
            count,
            seed_of(self.job.seed, role, index, generation),
            directory,
            self.job.device,
            self.job.threads,
        )

    def load(self, role: str, index: int, tell: bool = True) -> Any | None:
        """Return a saved state; where the file is damaged, the one before it, and tell so.

        Where both are damaged there is none, and the kernel starts anew.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                state = self.run.load_state(role, index)
            except LedgerError as error:
                state, told = None, [str(error)]
            else:
                told = [str(warning.message) for warning in caught]
        for text in told if tell else ():
            self._tell("DamagedState", text)
        return state

    def save(self, role: str, index: int, state: Any) -> None:
        """Keep a state; where the disk refuses, tell it once, and go on with what is there."""
        try:
            self.run.save_state(role, index, state)
        except LedgerDiskError as error:
            if not self._refused:
                self._tell(type(error).__name__, f"a state is not saved: {error}")
            self._refused = True
        else:
            self._refused = False

    def _tell(self, kind: str, text: str) -> None:
        role = KERNEL_OF.get(self.job.role, "prediction")
        failure = Failure(role, self.job.index, kind, text, host=self.job.where)
        self.channel.send(Failed(failure))

    def ready(self, hears_labels: bool = False) -> None:
        """Tell the agent that work begins."""
        self.channel.send(Ready(time.monotonic() - self.born, hears_labels))

    def has_mail(self) -> bool:
        """Whether the agent has sent something since the last call. Costs next to nothing."""
        mail = self.meter["mail"]
        if mail == self._mail:
            return False
        self._mail = mail
        return True

    @property
    def save_interval(self) -> float:
        """Seconds between two savings of states, as they are at present."""
        return self.meter["saving"] or self.job.save_interval

    @property
    def told_to_end(self) -> bool:
        """Whether a `Shutdown` is on its way; for who waits elsewhere than at the channel."""
        return self.meter["end"] != 0

    def failure(self, role: str, index: int, error: BaseException, **more: Any) -> Failure:
        """Describe an exception of a kernel of this worker."""
        return described(role, index, error, host=self.job.where, **more)


def _segment(fd: int) -> Segment:
    return Segment(fd, os.fstat(fd).st_size)


def main(order: Order, fds: Sequence[int]) -> int:
    """Run a worker; return its exit code."""
    job = order.job
    _surroundings(job)
    desk = Desktop(order, fds)
    desk.meter.reset()
    role = KERNEL_OF.get(job.role, "prediction")
    try:
        _run(desk)
    except ChannelClosedError:
        return 0
    except Exception as error:
        traceback.print_exc()
        failure = desk.failure(role, job.index, error)
        with suppress(ChannelClosedError):
            desk.channel.send(Failed(failure, fatal=True))
            desk.channel.flush()
        return 1
    desk.channel.flush()
    return 0


def _run(desk: Desktop) -> None:
    importlib.import_module(f"pal.runtime.roles.{desk.job.role}").run(desk)


def _surroundings(job: Job) -> None:
    """Set log file, threads, cores, device and environment, before any user code is imported."""
    log = job.directory / "logs" / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable()
    if job.home is not None:
        os.chdir(job.home)
    for name in THREAD_VARIABLES:
        os.environ[name] = str(job.threads)
    if job.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores)
    if job.nice:
        os.nice(job.nice)
    if job.device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = job.device.removeprefix("cuda:")
    elif job.device == "cpu" and job.role != "broker":  # what it starts may have other devices
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if job.role in ("oracle", "broker"):
        for name in filter(of_launcher, list(os.environ)):
            del os.environ[name]
