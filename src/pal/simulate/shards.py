"""Shards: walkers and their exchange, which propose candidates and take new weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.grants import Grants
from pal.simulate.broken import Broken
from pal.simulate.faults import Fault
from pal.simulate.nodes import Worker
from pal.simulate.scene import Scene

STEP = 0.9
"""Seconds between two looks of a shard at its walkers, about."""

IDLE = 15.0
"""Seconds for which a shard may be without a grant though others have one."""


@dataclass(slots=True, eq=False)
class Shard:
    """What an exchange knows. `granted` and `proposed` count from its own start."""

    worker: Worker
    ready: bool = False
    exploring: bool = False
    granted: int = 0
    proposed: int = 0
    version: int = 0
    idle_since: float | None = None
    """Since when it may propose nothing though places are free."""


class Shards:
    """Every shard of a session, and what the runtime knows of them.

    `offer` numbers samples and makes the event that proposes them.
    """

    def __init__(
        self,
        scene: Scene,
        count: int,
        before: int,
        offer: Callable[[Sequence[int]], ev.Event],
        trained: Callable[[], bool],
    ) -> None:
        """Begin; `before`: candidates proposed in earlier sessions, `trained`: all members are."""
        self._scene = scene
        self._before = before
        self._offer = offer
        self._trained = trained
        self.grants = Grants()
        self.exploring = False
        self.received = 0
        """Proposals that have arrived."""
        self.version = 0
        self.samples = self.uncertain = 0
        """Since the last report."""
        self.shards = [Shard(scene.nodes.add("exchange", k)) for k in range(count)]

    # What the manager orders ---------------------------------------------------------------

    def explore(self, order: co.Explore) -> None:
        """Let the walkers of every shard move, or hold them."""
        self.exploring = order.on
        for shard in self._ready:
            shard.exploring = order.on

    def grant(self, order: co.GrantCandidates) -> None:
        """Divide what may be proposed in all."""
        self.grants.total = order.total - self._before
        self._send_grants()

    def level(self) -> None:
        """Give a shard that may propose no more a part of what the others may."""
        if self.grants.uneven:
            self._send_grants()

    def _send_grants(self) -> None:
        for index, total in self.grants.divide().items():
            self.shards[index].granted = total

    def rank(self, order: co.RankQueue) -> None:
        """Judge waiting samples: some are left out, the others get a new order."""
        rng = self._scene.rng
        if not self._ready or self._scene.faults.strikes(Fault.RANKER_SILENT):
            return
        kept = [sample for sample in order.samples if rng.random() < 0.9]
        rng.shuffle(kept)
        doubts = {sample: rng.random() for sample in kept}
        answer = (order.samples, tuple(kept), doubts)
        worker = self._ready[0].worker

        def judged() -> None:
            self._scene.nodes.send(worker, lambda: ev.QueueRanked(self._scene.now(), *answer))

        self._scene.nodes.later(worker, 2 * rng.random(), judged)

    def judge(self) -> None:
        """Where places in the queue are free, no shard may be left without any for long."""
        time = self._scene.agenda.time
        free = self.grants.total - self.received
        for shard in self._ready:
            left_out = free >= len(self._ready) and shard.granted <= shard.proposed
            if not left_out:
                shard.idle_since = None
            elif shard.idle_since is None:
                shard.idle_since = time
            elif time - shard.idle_since > IDLE:
                found = f"exchange {shard.worker.index} may propose nothing, of {free} in all"
                raise Broken("walkers", found)

    # Weights -------------------------------------------------------------------------------

    @property
    def _ready(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.ready]

    @property
    def everywhere(self) -> int:
        """The oldest version that a committee uses."""
        return min((shard.version for shard in self._ready), default=0)

    def release(self, version: int) -> None:
        """Send new weights to every committee."""
        self.version = version
        for shard in self._ready:
            self._install(shard)

    def _install(self, shard: Shard) -> None:
        version, send = self.version, self._scene.nodes.send

        def installed() -> ev.Event:
            shard.version = max(shard.version, version)
            return self.told_version()

        def take() -> None:
            send(shard.worker, installed)

        self._scene.nodes.later(shard.worker, 0.5 * self._scene.rng.random(), take)

    def told_version(self) -> ev.Event:
        """Return the news of what version is in use everywhere."""
        return ev.WeightsInstalled(self._scene.now(), self.everywhere, self._trained())

    # Lives ---------------------------------------------------------------------------------

    def welcome(self, worker: Worker) -> None:
        """Bring an exchange that has just started to where the campaign is."""
        shard = Shard(worker, ready=True, exploring=self.exploring)
        self.shards[worker.index] = shard
        self.grants.welcome(worker.index)
        self._send_grants()
        if self.version:
            self._install(shard)
        self._walk(shard)

    def lost(self, worker: Worker) -> ev.Event | None:
        """Let the others propose what this one might have, and not wait for its weights."""
        self.shards[worker.index].ready = False
        self.grants.lost(worker.index)
        return self.told_version() if self.everywhere else None

    def _walk(self, shard: Shard) -> None:
        delay = STEP * (0.5 + self._scene.rng.random())
        self._scene.nodes.later(shard.worker, delay, lambda: self._step(shard))

    def _step(self, shard: Shard) -> None:
        self._walk(shard)
        rng, index = self._scene.rng, shard.worker.index
        if self._scene.faults.strikes(Fault.SHARD_CRASH):
            self._scene.nodes.crash(shard.worker, 0.0)
        if not shard.exploring:
            return
        uncertain = rng.randrange(4)
        self.samples += 10
        self.uncertain += uncertain
        count = min(uncertain, shard.granted - shard.proposed)
        if self._scene.faults.strikes(Fault.GREEDY):
            count = uncertain + 5
        if count > 0:
            shard.proposed += count
            walkers = [10 * index + rng.randrange(10) for _ in range(count)]

            def proposal() -> ev.Event:
                self.grants.received(index, count)
                self.received += count
                return self._offer(walkers)

            self._scene.nodes.send(shard.worker, proposal)
