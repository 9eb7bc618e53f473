"""Nodes, the workers on them, and the roads from both to the manager."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pal.controller.events import Event
from pal.simulate.agenda import Agenda, Happening
from pal.simulate.faults import Fault, Faults

SILENCE: Final = 10.0
"""Seconds after which a node that says nothing is given up."""


class Node:
    """A machine of the campaign. The first one runs the manager: it dies with the session."""

    __slots__ = ("held", "index", "lost")

    def __init__(self, index: int) -> None:
        self.index = index
        self.lost = False
        self.held: list[Happening] | None = None
        """What has been sent from it while it is frozen."""


@dataclass(slots=True, eq=False)
class Worker:
    """One oracle, trainer or exchange. `life` changes with each start; 0 while it is dead."""

    role: str
    index: int
    node: Node
    life: int = 0
    retired: bool = False
    road: float = 0.0
    """When the last of what it has sent arrives; nothing overtakes it."""


class Nodes:
    """Starts workers, lets them die with or without their node, and carries what they say.

    What a worker sends arrives in the order it was sent, and not after the news of its death,
    unless a fault makes it late. `on_ready` and `on_lost` make the events for the manager.
    """

    def __init__(
        self,
        agenda: Agenda,
        faults: Faults,
        rng: random.Random,
        count: int,
        on_ready: Callable[[Worker], Event | None],
        on_lost: Callable[[Worker, str], Event | None],
    ) -> None:
        self._agenda = agenda
        self._faults = faults
        self._rng = rng
        self.nodes = [Node(index) for index in range(count)]
        self.workers: list[Worker] = []
        self._lives = 0
        self._on_ready = on_ready
        self._on_lost = on_lost
        for node in self.nodes[1:]:
            self._plan_trouble(node)

    def add(self, role: str, index: int) -> Worker:
        """Place a worker on a node, and start it."""
        worker = Worker(role, index, self.nodes[len(self.workers) % len(self.nodes)])
        self.workers.append(worker)
        self._boot(worker)
        return worker

    def remove(self, worker: Worker) -> None:
        """End a worker for good."""
        worker.life, worker.retired = 0, True
        self.workers.remove(worker)

    def send(self, worker: Worker, message: Happening, late: bool = False) -> None:
        """Send what a worker says to the manager."""
        delay = 0.05 * self._rng.random()
        if self._faults.strikes(Fault.DELAY):
            delay += 6 * self._rng.random()
        arrival = self._agenda.time + delay
        if late:
            arrival += 5 * self._rng.random()
        else:
            worker.road = arrival = max(worker.road, arrival)
        node = worker.node
        happen = message if late else lambda: self._arrive(node, message)
        self._agenda.when(arrival, happen)

    def _arrive(self, node: Node, message: Happening) -> Event | None:
        if node.held is not None:
            node.held.append(message)
            return None
        return None if node.lost else message()

    def later(self, worker: Worker, delay: float, act: Callable[[], None]) -> None:
        """Let a worker do something after a while, if it then still lives this life."""
        life = worker.life

        def happen() -> None:
            if worker.life == life and life:
                act()

        self._agenda.at(delay, happen)

    def crash(self, worker: Worker, delay: float, kind: str = "crash") -> None:
        """Let a worker die after a while; the news of it follows, and it starts again."""
        self.later(worker, delay, lambda: self._die(worker, kind))

    def _die(self, worker: Worker, kind: str) -> None:
        worker.life = 0

        def lost() -> Event | None:
            self._boot(worker)
            return self._on_lost(worker, kind)

        self.send(worker, lost)

    def _boot(self, worker: Worker) -> None:
        def up() -> None:
            if not (worker.life or worker.retired or worker.node.lost):
                self._lives += 1
                worker.life = life = self._lives
                self.send(worker, lambda: self._ready(worker, life))

        self._agenda.at(0.1 + 1.5 * self._rng.random(), up)

    def _ready(self, worker: Worker, life: int) -> Event | None:
        return self._on_ready(worker) if worker.life == life else None

    # Nodes ---------------------------------------------------------------------------------

    def _plan_trouble(self, node: Node) -> None:
        if self._faults.strikes(Fault.VANISH):
            self._agenda.at(25 * self._rng.random(), lambda: self._vanish(node))
        if self._faults.strikes(Fault.FREEZE):
            span = 1.6 * SILENCE * self._rng.random()
            self._agenda.at(20 * self._rng.random(), lambda: self._freeze(node, span))

    def _vanish(self, node: Node) -> None:
        for worker in self.workers:
            if worker.node is node:
                worker.life = 0
        node.lost, node.held = True, None
        self._agenda.at(0.1 + SILENCE * self._rng.random() ** 2, lambda: self._give_up(node))

    def _freeze(self, node: Node, span: float) -> None:
        if node.lost:
            return
        node.held = []
        if span >= SILENCE:
            self._agenda.at(SILENCE, lambda: self._give_up(node))
        self._agenda.at(span, lambda: self._thaw(node))

    def _thaw(self, node: Node) -> None:
        held, node.held = node.held or [], None
        for message in held:
            self._agenda.at(0.0, lambda message=message: self._arrive(node, message))  # type: ignore[misc]

    def _give_up(self, node: Node) -> None:
        """Tell of every worker of a lost node, and start it elsewhere."""
        node.lost = True
        homes = [other for other in self.nodes if not other.lost]
        for place, worker in enumerate(w for w in self.workers if w.node is node):
            worker.life, worker.node, worker.road = 0, homes[place % len(homes)], 0.0
            self._agenda.at(0.0, lambda worker=worker: self._on_lost(worker, "lost"))  # type: ignore[misc]
            self._boot(worker)
