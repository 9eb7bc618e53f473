"""The cluster: all nodes of a campaign, as the head sees them. One machine is a cluster of one.

Every order goes over the fabric, to the head's own node, too; so there is one way for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pal.errors import Failure
from pal.runtime import wire
from pal.runtime.agent import Agent, Died, Left, Said
from pal.runtime.agent import News as WorkerNews
from pal.runtime.machines import HEAD, Machine
from pal.runtime.messages import LabelDone, Ready
from pal.runtime.node import PULSE, Node
from pal.runtime.orders import Job, Key
from pal.runtime.seats import Group, relocate, without
from pal.transport.fabric import Fabric, Lost
from pal.transport.parting import at_the_end

_LAST_WORD = 5.0
"""Seconds to get rid of the last messages."""

_PAST = -1
"""In place of a node: counts of workers that were let go."""

_LATE = 15.0
"""Seconds beyond its patience that a node may take to close."""


@dataclass(slots=True, eq=False)
class Station:
    """One job of the campaign, whichever process does it, on whichever node."""

    job: Job
    node: int
    ready: bool = False
    """Whether its process has come up, and is not known to have died since."""
    given_up: bool = False
    restarts: int = 0
    retired: bool = False
    """Whether the operator has let it go; its number may be given to another when it has left."""
    leaving: bool = False

    @property
    def counts(self) -> bool:
        """Whether it is one of those that the campaign has."""
        return not self.retired and self.job.role != "sampler"


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is gone, with all its workers; those of `moved` are started elsewhere."""

    failure: Failure
    moved: tuple[Station, ...]
    homeless: tuple[Station, ...]


@dataclass(frozen=True, slots=True)
class Signalled:
    """The agent of another node got a signal that asks for the end."""

    name: str
    node: str

    def __str__(self) -> str:
        return f"{self.name} received by the agent of {self.node}"


News: TypeAlias = WorkerNews | NodeLost | Signalled


class Cluster:
    """Starts workers on their nodes, passes messages on, and notices when a node is lost."""

    def __init__(
        self, fabric: Fabric, agent: Agent, machines: Sequence[Machine], silence: float
    ) -> None:
        self.machines = tuple(machines)
        self.remarks: Sequence[str] = ()
        """What the operator should know of the agents before the campaign begins."""
        self.stations: dict[Key, Station] = {}
        self._fabric = fabric
        self._node = Node(fabric, agent)
        self._silence = silence
        self._groups: list[Group] = []
        self._news: list[News] = []
        now = time.monotonic()
        self._heard = {m.rank: now for m in machines if m.rank != HEAD}
        """When each of the other nodes gave its last sign of life."""
        self._looked = now
        self._pulse_at = 0.0
        self._closing = False
        self._closed: set[int] = set()
        self._lost: set[int] = set()
        self._readings: dict[tuple[int, Key], Mapping[str, float]] = {}
        self._hearers: dict[type, Callable[[int, Any], None]] = {
            wire.Told: lambda _, message: self._on_told(message.news),
            wire.Pulse: lambda rank, message: self._note(rank, message.readings),
            wire.Closed: self._on_closed,
            wire.Signalled: lambda rank, message: self._news.append(
                Signalled(message.name, self._name(rank))
            ),
            wire.Broken: self._on_broken,
            wire.Goodbye: lambda rank, message: self._lose(rank, message.reason),
        }

    @property
    def description(self) -> str:
        """What joins the agents, for users."""
        return self._fabric.description

    def introduction(self, summary: Sequence[str]) -> list[tuple[str, str]]:
        """Say what is where, if there are several nodes; as (text, level)."""
        lines = [(remark, "warning") for remark in self.remarks]
        if len(self.machines) > 1:
            head = f"{len(self.machines)} nodes over {self.description}:"
            lines = [(line, "info") for line in (head, *summary)] + lines
        return lines

    def open(self) -> None:
        """Get ready to start workers on the head's own node."""
        self._node.agent.open()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever this descriptor becomes readable."""
        self._node.agent.watch(fd, callback)

    # Orders ----------------------------------------------------------------------------------

    def start(self, group: Group) -> None:
        """Start a group of workers on its node."""
        self._groups.append(group)
        for job in group.jobs:
            if job.process:
                station = self.stations.setdefault(job.key, Station(job, group.node))
                station.job, station.node = job, group.node
                if station.retired:
                    station.retired = station.given_up = False
        self._fabric.send(group.node, wire.Start(group.jobs))
        for job in group.jobs:
            if job.role == "exchange":
                for rank in (HEAD, *self._heard):
                    self._fabric.send(rank, wire.Route(job.shard, group.node))

    def send(self, station: Station, message: Any) -> None:
        """Send a message; to a worker that is gone it is lost, and its death is news already."""
        self._fabric.send(station.node, wire.Tell(station.job.key, message), station.job.key)

    def spread(self, stations: Sequence[Station], message: Any) -> None:
        """Send one message to several workers; over many nodes it goes as down a tree."""
        if len(stations) == 1:
            self.send(stations[0], message)
        elif stations:
            targets = tuple((station.node, station.job.key) for station in stations)
            self._node.obey(HEAD, wire.Spread(targets, message))

    def kill(self, station: Station, kind: str, reason: str) -> None:
        """Kill a worker's process group; its death is told as this failure."""
        self._fabric.send(station.node, wire.Kill(station.job.key, kind, reason))

    def retire(self, station: Station) -> None:
        """Let a worker end for good: neither a death nor a lost node brings it back."""
        station.retired = station.given_up = station.leaving = True
        station.ready = False
        rest = (without(group, station.job.key) for group in self._groups)
        self._groups = [group for group in rest if group is not None]
        self._fabric.send(station.node, wire.Retire(station.job.key))

    def save_every(self, seconds: float) -> None:
        """Have all workers save their states so often."""
        for rank in (HEAD, *self._heard):
            self._fabric.send(rank, wire.SaveEvery(seconds))

    def host(self, station: Station) -> str:
        """Name the machine on which a worker is."""
        return self._machine(station.node).host

    def located(self, station: Station, label: LabelDone) -> LabelDone:
        """Return a label that says on which machine it was made."""
        return label if label.host else replace(label, host=self.host(station))

    @property
    def restarts(self) -> int:
        """How often workers have been started again."""
        return sum(station.restarts for station in self.stations.values())

    def jobs(self) -> list[Job]:
        """Return what the campaign's processes do, without those that were let go."""
        return [station.job for station in self.stations.values() if station.counts]

    @property
    def groups(self) -> Sequence[Group]:
        """The groups of workers, without those that were let go."""
        return self._groups

    @property
    def living(self) -> list[Machine]:
        """The nodes that are not lost."""
        return self._living()

    def forgive(self, station: Station) -> None:
        """Do not hold its deaths so far against a worker."""
        self._fabric.send(station.node, wire.Forgive(station.job.key))

    def of(self, role: str) -> list[Station]:
        """Return the stations of one role."""
        return [station for key, station in self.stations.items() if key[0] == role]

    # News ------------------------------------------------------------------------------------

    def poll(self, timeout: float) -> list[News]:
        """Wait for news, at most so long, and return them."""
        self._node.work(max(0.0, min(timeout, self._fabric.pause)))
        for letter in self._fabric.receive():
            if isinstance(letter, Lost):
                self._lose(letter.rank, letter.reason)
            elif letter.source != HEAD and letter.source not in self._heard:
                continue  # it was told to end, and what it says comes too late
            else:
                self._hear(letter.source, letter.message)
        self._keep_touch()
        news, self._news = self._news, []
        return news

    def _hear(self, rank: int, message: Any) -> None:
        if rank != HEAD:
            self._heard[rank] = time.monotonic()
        hearer = self._hearers.get(type(message))
        if hearer is None:
            self._node.obey(rank, message)
        else:
            hearer(rank, message)

    def _on_told(self, news: WorkerNews) -> None:
        station = self.stations.get(news.key)
        if station is None:
            return
        if isinstance(news, Died):
            station.ready, station.given_up = False, news.given_up
            station.restarts += not news.given_up
        elif isinstance(news, Left):
            station.ready = False
            if station.retired:
                station.leaving = False
                self._settle(station)
        elif isinstance(news, Said) and isinstance(news.message, Ready):
            station.ready = not station.retired
        self._news.append(news)

    def _settle(self, station: Station) -> None:
        """Keep what a retired worker has counted, apart from one that gets its number."""
        last = self._readings.pop((station.node, station.job.key), None)
        before = self._readings.get((_PAST, station.job.key), {})
        if last is not None:
            sums = {name: value + before.get(name, 0.0) for name, value in last.items()}
            self._readings[_PAST, station.job.key] = sums

    def _note(self, rank: int, readings: Mapping[Key, Mapping[str, float]]) -> None:
        for key, reading in readings.items():
            self._readings[rank, key] = reading

    def _on_closed(self, rank: int, message: wire.Closed) -> None:
        self._note(rank, message.readings)
        self._closed.add(rank)

    def _on_broken(self, rank: int, message: wire.Broken) -> None:
        self._lose(rank, message.reason, message.traceback)

    def readings(self) -> dict[Key, dict[str, float]]:
        """Return what every worker has counted, over all nodes on which it was."""
        if not self._node.closed:
            self._note(HEAD, self._node.agent.read())
        totals: dict[Key, dict[str, float]] = {}
        for (_, key), reading in self._readings.items():
            sums = totals.setdefault(key, dict.fromkeys(reading, 0.0))
            for name, value in reading.items():
                sums[name] = sums.get(name, 0.0) + value
        return totals

    # Signs of life ---------------------------------------------------------------------------

    def _keep_touch(self) -> None:
        """Give a sign of life, and see who has given none."""
        now = time.monotonic()
        if now - self._looked > self._silence / 2:
            # This process stood still itself, and cannot judge others by its clock.
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        if now < self._pulse_at:
            return
        self._pulse_at = now + PULSE
        for rank, heard in list(self._heard.items()):
            if now - heard > self._silence:
                self._lose(rank, f"its agent gave no sign of life for {now - heard:.0f} s")
            else:
                self._fabric.send(rank, wire.Pulse())

    def _lose(self, rank: int, reason: str, traceback: str = "") -> None:
        """Go on without a node: start its workers elsewhere where there is room."""
        if rank not in self._heard:
            return
        del self._heard[rank]
        self._lost.add(rank)
        for other in (HEAD, *self._heard):
            self._fabric.send(other, wire.Lose(rank, f"the campaign goes on without it: {reason}"))
        stations = [s for s in self.stations.values() if s.node == rank and not s.given_up]
        for station in self.stations.values():
            station.leaving &= station.node != rank
        for station in stations:
            station.ready = False
        moved, homeless = relocate(self._groups, self._living(rank), rank)
        self._groups = [group for group in self._groups if group.node != rank]
        left_out = tuple(self.stations[job.key] for job in homeless)
        for station in left_out:
            station.given_up = True
        failure = Failure(
            "agent",
            rank,
            "NodeLost",
            f"the node is lost: {reason}",
            host=self._machine(rank).host,
            traceback=traceback,
        )
        going_on = tuple(s for s in stations if not s.given_up)
        self._news.append(NodeLost(failure, going_on, left_out))
        if not self._closing:
            for group in moved:
                self.start(group)
                for job in group.jobs:
                    if job.process:
                        self.stations[job.key].restarts += 1

    def _living(self, *more: int) -> list[Machine]:
        ranks = {HEAD, *self._heard, *more}
        return [machine for machine in self.machines if machine.rank in ranks]

    def _machine(self, rank: int) -> Machine:
        return next(machine for machine in self.machines if machine.rank == rank)

    def _name(self, rank: int) -> str:
        return f"node {rank} on {self._machine(rank).host}"

    # The end ---------------------------------------------------------------------------------

    def close(self, patience: float) -> list[News]:
        """End all workers on all nodes; kill those that take over `patience` seconds."""
        self._closing = True
        for rank in (HEAD, *self._heard):
            self._fabric.send(rank, wire.Close(patience))
        news: list[News] = []
        deadline = time.monotonic() + patience + _LATE
        while not self._closed >= {HEAD, *self._heard} and time.monotonic() < deadline:
            news += self.poll(1.0)
        return news

    def end(self) -> None:
        """Send all agents home, and hang up."""
        self._node.kill_all()
        farewell(self._fabric, self._heard)
        if self._fabric.undead:
            fabric = self._fabric  # and not the cluster, with all its memory
            at_the_end(lambda code: fabric.close(True, code))
        else:
            self._fabric.close(lost=bool(self._lost))


def farewell(fabric: Fabric, ranks: Iterable[int]) -> None:
    """Tell agents that all is over, and wait a little until they have been told."""
    waiting = set(ranks)
    for rank in waiting:
        fabric.send(rank, wire.Goodbye())
    deadline = time.monotonic() + _LAST_WORD
    while any(fabric.backlog(rank) for rank in waiting) and time.monotonic() < deadline:
        fabric.receive()
        time.sleep(min(fabric.pause, 0.01))
