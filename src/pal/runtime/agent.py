"""The agent: starts workers through the nursery, watches them, carries messages.

It knows processes and channels, and nothing of learning. Whoever drives it calls `poll` and gets
news: messages from workers, workers that came up, died or were given up.
"""

from __future__ import annotations

import json
import math
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pal.errors import ChannelClosedError, Failure, WorkerError
from pal.runtime.inquest import Inquest
from pal.runtime.messages import Failed, Ready, Shutdown
from pal.runtime.nursery import Birth, Kill, send_request
from pal.runtime.orders import Job, Key
from pal.runtime.roads import Roads
from pal.runtime.supervision import RestartBudget
from pal.runtime.surroundings import THREAD_VARIABLES
from pal.runtime.watch import overdue
from pal.transport.channel import SocketChannel

MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""Let the C library keep freed memory: otherwise every array of a few hundred KB that a round
needs is fetched from the kernel anew, page by page, which costs more than what is done with it."""


_LAST_WAIT = 5.0
"""Seconds that killed workers are given to disappear."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process, from the agent's side. Survives restarts of the process."""

    job: Job
    roads: Roads
    budget: RestartBudget
    channel: SocketChannel | None = None
    pid: int = 0
    key: int = 0
    born: float = 0.0
    was_ready: bool = False
    """Whether any process of this worker ever came up."""
    up: bool = False
    """Whether its present process has."""
    told_at: float = 0.0
    """When it was sent a message last."""
    waiting: float | None = None
    """Since when, as far as was seen, something waits for it."""
    restarts: int = 0
    restart_at: float | None = None
    last: Failure | None = None
    condemned: bool = False
    """Whether its process was killed by an order that is not held against it."""
    ending: bool = False
    retired: bool = False
    """Whether it ends for good, while the campaign goes on."""

    @property
    def alive(self) -> bool:
        """Whether its process runs, as far as is known."""
        return self.channel is not None


@dataclass(frozen=True, slots=True)
class Said:
    """A worker sent a message."""

    key: Key
    message: Any


@dataclass(frozen=True, slots=True)
class Died:
    """A worker's process is gone. It is started again after a pause unless `given_up`.

    `was_ready`: whether any process of this worker ever came up.
    """

    key: Key
    failure: Failure
    given_up: bool
    was_ready: bool


@dataclass(frozen=True, slots=True)
class Left:
    """A worker has ended as it was told to."""

    key: Key


News: TypeAlias = Said | Died | Left


@dataclass(slots=True)
class Agent:
    """One node's workers. `slot_size` is the room of a walker's sample, and of its feedback."""

    budget: int = 10
    delay: float = 0.1
    slot_size: int = 1 << 12
    workers: dict[Key, Worker] = field(default_factory=dict)
    _roads: list[Roads] = field(default_factory=list)
    _by_key: dict[int, Worker] = field(default_factory=dict)
    _by_fd: dict[int, Worker] = field(default_factory=dict)
    _resting: dict[Key, Worker] = field(default_factory=dict)
    """Who is to be started again. A poll must not look at all workers: there may be hundreds."""
    _keys: int = 0
    _nursery: subprocess.Popen[bytes] | None = None
    _socket: socket.socket | None = None
    _lines: bytes = b""
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _news: list[News] = field(default_factory=list)
    _closing: bool = False
    _kill_at: float = math.inf
    _give_up_at: float = math.inf
    _patience: float = 0.0
    _save_every: float = 0.0
    _inquest: Inquest = field(default_factory=Inquest)

    def open(self) -> None:
        """Start the nursery, with room for many descriptors."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        here, there = socket.socketpair()
        environment = {**MALLOC, **os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "pal.runtime.nursery", str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        there.close()
        self._socket = here
        self._lines = b""
        self._selector.register(here, selectors.EVENT_READ, self._hear_nursery)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever this descriptor becomes readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def start(self, jobs: Sequence[Job]) -> Roads:
        """Start workers that share roads; return these."""
        roads = Roads(jobs, self.slot_size)
        self._roads.append(roads)
        for job in jobs:
            if job.process:
                budget = self.budget if job.budget is None else job.budget
                worker = Worker(job, roads, RestartBudget(budget, self.delay))
                self._tell_interval(worker)
                self.workers[job.key] = worker
                self._bear(worker)
        return roads

    def read(self) -> dict[Key, dict[str, float]]:
        """Return what every worker has written on its board, its present work included."""
        now = time.monotonic()
        return {
            key: worker.roads.meter(worker.job).reading(now)
            for key, worker in self.workers.items()
        }

    def nudge(self) -> None:
        """Ring every exchange.

        Hosts decide without a lock whether to ring; should two ever miss each other, this helps.
        """
        for roads in self._roads:
            roads.wake_centre()

    def end_overdue(self) -> None:
        """Kill workers that take longer than their deadlines; they are started again."""
        now = time.monotonic()
        for worker in self.workers.values():
            if not (worker.job.deadlines and worker.up) or worker.ending or worker.last:
                continue
            meter = worker.roads.meter(worker.job)
            waits = worker.told_at > meter["alive"] or worker.roads.waits_for(worker.job)
            worker.waiting = (worker.waiting or now) if waits else None
            reason = overdue(worker.job, meter, now, worker.waiting)
            if reason:
                self.kill(worker, "deadline", reason, forgiven=False)

    def _bear(self, worker: Worker) -> None:
        assert self._socket is not None
        channel, there = SocketChannel.pair(beside=True)
        order, fds = worker.roads.order(worker.job, there)
        self._keys += 1
        worker.key, worker.channel, worker.restart_at = self._keys, channel, None
        worker.born, worker.pid, worker.last = time.monotonic(), 0, None
        worker.condemned = worker.up = False
        worker.waiting = None
        self._by_key[worker.key] = self._by_fd[channel.fileno()] = worker
        self._resting.pop(worker.job.key, None)
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._hear(worker))
        with suppress(OSError):
            send_request(self._socket, Birth(worker.key, order), fds)
        there.close()

    def send(self, worker: Worker, message: Any) -> None:
        """Send a message; to a worker that is gone it is lost, and its death is news already."""
        if worker.channel is None:
            return
        worker.told_at = time.monotonic()
        with suppress(ChannelClosedError):
            worker.channel.send(message)
            self._attend(worker)
        self._knock(worker)

    def _attend(self, worker: Worker) -> None:
        """Watch for room to write while something waits to be sent."""
        assert worker.channel is not None
        events = selectors.EVENT_READ
        if worker.channel.backlog:
            events |= selectors.EVENT_WRITE
        key = self._selector.get_key(worker.channel)
        if key.events != events:
            self._selector.modify(worker.channel, events, key.data)

    def _knock(self, worker: Worker) -> None:
        """Make a worker that sleeps on its doorbell look at its channel."""
        bell = worker.roads.bells.get(worker.job.key)
        if bell is not None:
            worker.roads.meter(worker.job).add("mail")
            bell.ring()

    def kill(self, worker: Worker, kind: str, reason: str, forgiven: bool = True) -> None:
        """Kill a worker's process group; its death is told as this failure.

        `forgiven`: it is not held against the worker, which is started again at once.
        """
        if worker.pid and self._socket is not None:
            worker.last = self._inquest.failure(worker.job, kind, reason)
            worker.condemned = forgiven
            with suppress(OSError):
                send_request(self._socket, Kill(worker.pid, signal.SIGKILL), [])

    def poll(self, timeout: float) -> list[News]:
        """Wait for news, at most so long, and return them."""
        now = time.monotonic()
        due = [w.restart_at for w in self._resting.values() if w.restart_at is not None]
        wait = min([timeout, self._kill_at - now, *(at - now for at in due)])
        for key, events in self._selector.select(max(0.0, wait)):
            if events & selectors.EVENT_WRITE:
                self._push(key)
            if events & selectors.EVENT_READ:
                key.data()
        self._restart_due()
        self._kill_late()
        news, self._news = self._news, []
        return news

    def _push(self, key: selectors.SelectorKey) -> None:
        worker = self._by_fd.get(key.fd)
        if worker is not None and worker.channel is not None:
            with suppress(ChannelClosedError):
                worker.channel.push()
                self._attend(worker)
            self._knock(worker)

    def _restart_due(self) -> None:
        now = time.monotonic()
        for worker in list(self._resting.values()):
            if worker.restart_at is not None and worker.restart_at <= now and not self._closing:
                worker.restarts += 1
                self._bear(worker)

    def _hear(self, worker: Worker) -> None:
        """Read all that a worker has sent."""
        channel = worker.channel
        if channel is None:
            return
        try:
            while (message := channel.receive()) is not None:
                if isinstance(message, Ready):
                    worker.was_ready = worker.up = True
                if isinstance(message, Failed) and message.fatal:
                    worker.last = message.failure
                else:
                    self._news.append(Said(worker.job.key, message))
        except ChannelClosedError:
            self._hang_up(worker)

    def _hang_up(self, worker: Worker) -> None:
        if worker.channel is not None:
            self._selector.unregister(worker.channel)
            del self._by_fd[worker.channel.fileno()]
            worker.channel.close()
            worker.channel = None

    def _hear_nursery(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._nursery_died()
            return
        *lines, self._lines = (self._lines + data).split(b"\n")
        for line in lines:
            news = json.loads(line)
            if "born" in news:
                self._by_key[news["born"]].pid = news["pid"]
            elif "gone" in news:
                self._gone(self._by_key.pop(news["gone"]), news["code"])

    def _nursery_died(self) -> None:
        """All workers died with their nursery: begin again with a new one."""
        assert self._socket is not None
        self._selector.unregister(self._socket)
        self._socket.close()
        if self._nursery is not None:
            self._nursery.wait()
        orphans, self._by_key = list(self._by_key.values()), {}
        self._socket = None
        for worker in orphans:
            # The kernel killed the workers with the nursery, but not what they had started.
            if worker.pid:
                with suppress(OSError):
                    os.killpg(worker.pid, signal.SIGKILL)
        if not self._closing:
            self.open()
        for worker in orphans:
            self._gone(worker, -signal.SIGKILL)

    def _gone(self, worker: Worker, code: int) -> None:
        """Note a worker's end, once all it still said has been heard."""
        self._hear(worker)
        self._hang_up(worker)
        worker.pid = 0
        self._forget_walkers(worker)
        if worker.ending or (code == 0 and worker.job.role in ("evaluator", "sampler")):
            self._news.append(Left(worker.job.key))
            self._clear(worker)
            return
        now = time.monotonic()
        failure = worker.last or self._inquest.crash(worker.job, code)
        pause = 0.0 if worker.condemned else worker.budget.next_pause(now, now - worker.born)
        if pause is not None and not self._closing:
            worker.restart_at = now + pause
            self._resting[worker.job.key] = worker
        self._news.append(Died(worker.job.key, failure, pause is None, worker.was_ready))

    def _forget_walkers(self, worker: Worker) -> None:
        """Let the exchange go on without the walkers of a host that is gone."""
        roads = worker.roads
        if worker.job.role == "generator" and roads.slots is not None:
            roads.slots.forget(roads.places(worker.job))
            roads.wake_centre()

    def end(self, workers: Iterable[Worker]) -> None:
        """Tell workers to save their state and end."""
        for worker in workers:
            worker.ending, worker.restart_at = True, None
            self._resting.pop(worker.job.key, None)
            worker.roads.meter(worker.job).add("end")
            self.send(worker, Shutdown())

    def retire(self, key: Key) -> None:
        """Let a worker end for good; what it had is given back once it has."""
        worker = self.workers.get(key)
        if worker is None or worker.retired:
            return
        worker.retired = True
        self.end([worker])
        if worker.key not in self._by_key:  # it died, and waits to be started again
            self._news.append(Left(key))
            self._clear(worker)

    def _clear(self, worker: Worker) -> None:
        """Forget a retired worker, and its roads when nobody else is left on them."""
        if not worker.retired:
            return
        del self.workers[worker.job.key]
        roads = worker.roads
        if not roads.apart and not any(other.roads is roads for other in self.workers.values()):
            self._roads.remove(roads)
            roads.close()

    def save_every(self, seconds: float) -> None:
        """Have all workers save their states so often, those that start later, too."""
        self._save_every = max(seconds, 1e-6)  # 0 stands for none by hand
        for worker in self.workers.values():
            self._tell_interval(worker)

    def _tell_interval(self, worker: Worker) -> None:
        if self._save_every:
            worker.roads.meter(worker.job).put("saving", self._save_every)

    def begin_to_close(self, patience: float) -> None:
        """Tell all workers to end; whoever takes over `patience` seconds is killed by `poll`."""
        self._closing = True
        self.end(self.workers.values())
        self._kill_at = time.monotonic() + patience
        self._give_up_at = self._kill_at + _LAST_WAIT
        self._patience = patience

    @property
    def empty(self) -> bool:
        """Whether all workers have ended, or will not even when killed."""
        return not self._by_key or time.monotonic() >= self._give_up_at

    def _kill_late(self) -> None:
        """Kill workers that were told to end and have not."""
        if time.monotonic() >= self._kill_at:
            self._kill_at = math.inf
            for worker in list(self._by_key.values()):
                self.kill(worker, "deadline", f"did not end within {self._patience:g} s")

    def close(self, patience: float) -> list[News]:
        """End all workers and the nursery; kill workers that take over `patience` seconds."""
        self.begin_to_close(patience)
        news: list[News] = []
        while not self.empty:
            news += self.poll(_LAST_WAIT)
        self.leave()
        return news

    def leave(self) -> None:
        """End the nursery, and give back all there is."""
        self._end_nursery()
        for worker in self.workers.values():
            self._hang_up(worker)
        self._selector.close()
        for roads in self._roads:
            roads.close()

    def _end_nursery(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
        if self._nursery is not None:
            try:
                self._nursery.wait(10.0)
            except subprocess.TimeoutExpired as error:
                self._nursery.kill()
                self._nursery.wait()
                raise WorkerError("the nursery did not end and was killed") from error
