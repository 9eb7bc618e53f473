"""A generator host: runs one walker or many, and talks to the exchange through shared memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pal.errors import Failure
from pal.ledger.directory import RunDirectory
from pal.records import Batch, Refusal, Sample
from pal.roles import Generator
from pal.runtime.messages import Failed, Shutdown, StopAsked
from pal.runtime.pool import Pool
from pal.runtime.worker import Desktop
from pal.transport.board import STEP
from pal.transport.slots import HostSlots

_RING_AFTER = 2e-4
"""Seconds of stepping after which samples that are ready are announced before the others."""


class WalkerSource:
    """Walkers of a worker process, with states in the run directory; also hears their news."""

    def __init__(self, desk: Desktop) -> None:
        self._desk = desk
        # Every process reads the states of all walkers, and tells what is wrong with its own.
        own = (f"{desk.job.role}-walkers", desk.job.index)
        self._saved_at, self._states = saved_walkers(
            desk.run, lambda role, index: desk.load(role, index, tell=(role, index) == own)
        )

    def build(self, walker: int) -> Generator:
        """Build a walker from the settings' kernel."""
        job = self._desk.job
        context = self._desk.context("generator", walker, job.walker_count)
        generator: Generator = job.kernels["generator"].build(context)
        return generator

    def load(self, walker: int) -> Any | None:
        """Return the state this walker had, whichever process ran it."""
        return self._states.get(walker)

    def save(self, states: Mapping[int, Any]) -> None:
        """Write the states of this process's walkers into one file of the run directory."""
        job = self._desk.job
        # Later than all there was, also where the clock was set back.
        self._saved_at = max(time.time(), self._saved_at + 1e-3)
        self._desk.save(f"{job.role}-walkers", job.index, (self._saved_at, dict(states)))

    @property
    def beat(self) -> Callable[[], None] | None:
        """What to call after each walker's step, where steps have a deadline."""
        return self._desk.meter.beat if "step" in self._desk.job.deadlines else None

    def failure(self, walker: int, error: BaseException) -> Failure:
        """Describe an exception of a walker."""
        return self._desk.failure("generator", walker, error)

    def report(self, failure: Failure) -> None:
        """Pass a failure on to the agent."""
        self._desk.channel.send(Failed(failure))

    def stop(self, reason: str) -> None:
        """Pass a wish to stop on to the agent."""
        self._desk.channel.send(StopAsked(reason))


def saved_walkers(
    directory: RunDirectory, load: Callable[[str, int], Any] | None = None
) -> tuple[float, dict[int, Any]]:
    """Return the newest saved state of every walker, whichever process saved it, and its time."""
    found: list[tuple[float, dict[int, Any]]] = []
    for path in directory.states.glob("*-walkers-*.state"):
        role, _, index = path.stem.rpartition("-")
        saved = (load or directory.load_state)(role, int(index))
        if saved is not None:
            found.append(saved)
    found.sort(key=lambda item: item[0])
    merged: dict[int, Any] = {}
    for _, states in found:
        merged.update(states)
    return max((time for time, _ in found), default=0.0), merged


class Host:
    """The loop of a generator host, and the outbox of its walkers."""

    def __init__(self, desk: Desktop) -> None:
        assert desk.slots is not None
        self._desk = desk
        self._own, self._exchange = desk.bells[0], desk.bells[1]
        walkers = desk.job.walkers
        source = WalkerSource(desk)
        self._pool = Pool(walkers, source, source, desk.job.restarts, source.beat)
        self._slots = HostSlots(desk.slots, desk.first, len(walkers))
        self._rung = time.monotonic()
        self._news = False
        self._save_at = self._rung + desk.save_interval

    def run(self) -> None:
        """Move walkers as answers come, until told to shut down."""
        desk = self._desk
        desk.ready()
        with desk.meter.working(STEP):
            self._pool.step(range(len(desk.job.walkers)), None, self)
        self._exchange.ring()
        while True:
            self._own.wait()
            desk.meter.beat()
            if desk.has_mail() and self._shutdown():
                self._pool.save()
                self._pool.close()
                return
            self._move_answered()

    def _move_answered(self) -> None:
        """Move every walker whose answer is there."""
        pool = self._pool
        self._rung = self._desk.meter.begin(STEP)
        self._news = False
        for rows, feedback in self._slots.receive():
            if isinstance(feedback, Refusal):
                pool.recover(rows, self, feedback)
            else:
                pool.step(rows, feedback, self)
        self._desk.meter.end()
        if self._news and self._slots.due:
            self._exchange.ring()
        if self._rung > self._save_at:
            pool.save()
            self._save_at = self._rung + self._desk.save_interval

    def send(self, row: int, sample: Sample) -> None:
        """Write a sample into its slot; announce it soon where the others take their time."""
        self._slots.send(row, sample)
        now = time.monotonic()
        if now - self._rung > _RING_AFTER:
            if self._slots.due:
                self._exchange.ring()
            self._rung, self._news = now, False
        else:
            self._news = True

    def send_all(self, rows: NDArray[np.intp], samples: Batch) -> None:
        """Write samples into their slots."""
        self._slots.send_all(rows, samples)
        self._news = True

    def end(self, row: int) -> None:
        """Let the exchange wait for this walker no more."""
        self._slots.end(row)
        self._exchange.ring()

    def _shutdown(self) -> bool:
        while (message := self._desk.channel.receive()) is not None:
            if isinstance(message, Shutdown):
                return True
        return False


def run(desk: Desktop) -> None:
    """Run a generator host."""
    Host(desk).run()
