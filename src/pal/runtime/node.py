"""A node: its agent on the fabric. It obeys the head, tells news, and joins what is apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pal.runtime import wire
from pal.runtime.agent import Agent, Worker
from pal.runtime.machines import HEAD
from pal.runtime.orders import Key
from pal.runtime.outposts import Outpost, Relay
from pal.transport.fabric import Fabric

PULSE = 1.0
"""Seconds between two signs of life."""

_FULL = 64 << 20
"""Bytes on their way to the head at which workers must wait before they are heard again."""


@dataclass(slots=True)
class Node:
    """One node's side of a campaign.

    `obey` takes what other agents say, `work` all else; both never block for long.
    """

    fabric: Fabric
    agent: Agent
    closed: bool = False
    _relays: dict[int, Relay] = field(default_factory=dict)
    _outposts: dict[int, Outpost] = field(default_factory=dict)
    _routes: dict[int, int] = field(default_factory=dict)
    _closing: bool = False
    _pulse_at: float = 0.0
    _doers: dict[type, Callable[[int, Any], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._doers = {
            wire.Start: lambda _, order: self._start(order),
            wire.Tell: lambda _, order: self._tell(order.key, order.message),
            wire.Spread: lambda _, order: self._spread(order),
            wire.Kill: lambda _, order: self._kill(order),
            wire.Forgive: lambda _, order: self._forgive(order.key),
            wire.Lose: lambda _, order: self.lose(order.rank, order.reason),
            wire.Route: lambda _, order: self._route(order),
            wire.Close: lambda _, order: self._close(order),
            wire.Moves: self._hear_walkers,
            wire.Gone: self._hear_walkers,
            wire.Answers: self._hear_committee,
        }

    def work(self, timeout: float) -> None:
        """Serve the workers for at most so long, and tell the head what they say."""
        if self.closed:
            time.sleep(timeout)
            return
        if self.fabric.backlog(HEAD) > _FULL:
            return
        for news in self.agent.poll(timeout):
            self.fabric.send(HEAD, wire.Told(news), news.key)
        now = time.monotonic()
        if now >= self._pulse_at:
            self._pulse_at = now + PULSE
            self.agent.nudge()
            self.agent.end_overdue()
            self.fabric.send(HEAD, wire.Pulse(self.agent.read()))
        if self._closing and self.agent.empty:
            self.closed = True
            readings = self.agent.read()
            self.agent.leave()
            self.fabric.send(HEAD, wire.Closed(readings))

    def obey(self, source: int, message: Any) -> None:
        """Do what another agent asks."""
        if not self.closed:
            self._doers[type(message)](source, message)

    def lose(self, rank: int, reason: str) -> None:
        """Go on without a node: hear no more of it, and let its walkers go."""
        self.fabric.expel(rank, wire.Goodbye(reason))
        for outpost in self._outposts.values():
            outpost.lose(rank)

    def kill_all(self) -> None:
        """End at once, with all workers."""
        if not self.closed:
            self.closed = True
            self.agent.close(patience=0.0)

    # What the head orders --------------------------------------------------------------------

    def _start(self, order: wire.Start) -> None:
        roads = self.agent.start(order.jobs)
        for job in order.jobs:
            if job.role == "outpost":
                outpost = Outpost(job, roads, self._send)
                self._outposts[job.index] = outpost
                self.agent.watch(outpost.fd, outpost.answer)
            elif job.role == "relay":
                relay = Relay(job, roads, self._send)
                self._relays[job.index] = relay
                self.agent.watch(relay.fd, relay.pass_on)
                if job.shard in self._routes:
                    relay.route(self._routes[job.shard])

    def _send(self, rank: int, message: Any) -> None:
        """Send between walkers and committee, on a stream of its own."""
        self.fabric.send(rank, message, "walk")

    def _worker(self, key: Key) -> Worker | None:
        return self.agent.workers.get(key)

    def _tell(self, key: Key, message: Any) -> None:
        worker = self._worker(key)
        if worker is not None:
            self.agent.send(worker, message)

    def _spread(self, order: wire.Spread) -> None:
        """Pass on to the workers here; hand half of the other nodes to one of them, and so on."""
        rest: dict[int, list[tuple[int, Key]]] = {}
        for rank, key in order.targets:
            if rank == self.fabric.rank:
                self._tell(key, order.message)
            else:
                rest.setdefault(rank, []).append((rank, key))
        ranks = list(rest)
        while ranks:
            half = ranks[len(ranks) // 2 :]
            ranks = ranks[: len(ranks) // 2]
            targets = tuple(target for rank in half for target in rest[rank])
            self.fabric.send(half[0], wire.Spread(targets, order.message), "spread")

    def _kill(self, order: wire.Kill) -> None:
        worker = self._worker(order.key)
        if worker is not None:
            self.agent.kill(worker, order.kind, order.reason)

    def _forgive(self, key: Key) -> None:
        worker = self._worker(key)
        if worker is not None:
            worker.budget.forgive()

    def _route(self, order: wire.Route) -> None:
        self._routes[order.shard] = order.rank
        for relay in self._relays.values():
            if relay.shard == order.shard:
                relay.route(order.rank)

    def _close(self, order: wire.Close) -> None:
        self._closing = True
        self.agent.begin_to_close(order.patience)

    # Walkers here and committee there, or the other way round --------------------------------

    def _hear_walkers(self, source: int, message: wire.Moves | wire.Gone) -> None:
        outpost = self._outposts.get(message.outpost)
        if outpost is not None:
            outpost.hear(source, message)

    def _hear_committee(self, _: int, message: wire.Answers) -> None:
        relay = self._relays.get(message.outpost)
        if relay is not None:
            relay.hear(message)
