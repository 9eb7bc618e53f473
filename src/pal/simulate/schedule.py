"""A schedule: one seed, one campaign with its rules, its site, its faults and its sessions."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from pal.controller.manager import PATIENCE
from pal.controller.rules import Rules
from pal.simulate.broken import Broken
from pal.simulate.disk import Disk
from pal.simulate.faults import Fault, Faults, Strike
from pal.simulate.history import History
from pal.simulate.mirror import Mirror
from pal.simulate.operator import FINAL_TRAINING, GRACE
from pal.simulate.scene import Site
from pal.simulate.world import Plant, World

CALM: Final = 60.0
"""Seconds of a session after which nothing goes wrong any more, where a goal must be reached."""

PATIENCE_FOR_GOAL: Final = CALM + 240.0
"""Seconds in which a goal must be reached."""

MOST_SESSIONS: Final = 4
NEVER: Final = 1 << 40
"""More events than a session has."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that is drawn before a campaign begins.

    `goal`: nothing but the wanted number of labels ends it, so it must come to that.
    """

    seed: int
    rules: Rules
    site: Site
    trouble: float
    kinds: frozenset[Fault]
    goal: bool


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a schedule."""

    schedule: Schedule
    events: int
    struck: tuple[Strike, ...]
    history: History
    broken: Broken | None


def draw(seed: int) -> Schedule:
    """Draw a schedule. A random half of the fault kinds is switched on, so that pairs show."""
    rng = random.Random(seed)
    goal = rng.random() < 0.4
    rules = _rules(rng, goal)
    site = Site(
        nodes=rng.choice((1, 1, 2, 3)),
        shards=rng.choice((1, 1, 2)),
        initial=rng.choice((0, 0, 3, 6)),
        tick=rng.choice((1.0, 2.0)),
    )
    return Schedule(
        seed=seed,
        rules=replace(rules, nodes=tuple(k % site.nodes for k in range(rules.n_oracles))),
        site=site,
        trouble=rng.choice((0.0, 0.5, 1.0, 1.0)),
        kinds=frozenset(kind for kind in Fault if rng.random() < 0.6),
        goal=goal,
    )


def _rules(rng: random.Random, goal: bool) -> Rules:
    serial, long = rng.random() < 0.3, rng.random() < 0.03
    oracles = rng.randint(1, 8 if long else 4)
    return Rules(
        n_oracles=oracles,
        outside=tuple(range(oracles - 1, oracles)) if rng.random() < 0.2 else (),
        trainers=tuple((member,) for member in range(rng.randint(1, 2))),
        oracle_deadline=rng.choice((None, 4.0, 6.0)),
        oracle_retries=rng.randint(0, 2),
        backoff=rng.choice((0.0, 0.0, 1.0, 3.0)),
        pause_after=rng.choice((None, 2, 4)),
        probe_after=rng.choice((2.0, 5.0)),
        grace=rng.choice(GRACE),
        queue_capacity=30 if long else rng.choice((1, 3, 10)),
        when_full=rng.choice(("drop_new", "drop_certain", "drop_old")),
        retrain_size=rng.choice((1, 3, 6)),
        window=rng.choice((None, None, 3, 8)),
        reinitialise_every=rng.choice((0, 2)),
        serial=serial,
        labelling=goal or serial or rng.random() < 0.9,
        training=serial or rng.random() < 0.85,
        rerank=rng.random() < 0.5,
        initial_labels=rng.choice((0, 2, 6)),
        after=None if goal else (5 + 25 * rng.random()) * (4 if long else 1),
        labels=rng.randint(4, 12) * (3 if long else 1) if goal else rng.choice((None, 10)),
        samples=None if goal else rng.choice((None, 400)),
        quiet=None if goal else rng.choice((None, 5.0)),
        failures=None if goal else rng.choice((None, 4)),
        final_training=rng.choice(FINAL_TRAINING),
    )


def play(
    schedule: Schedule,
    plant: Plant | None = None,
    only: frozenset[Strike] | None = None,
    mirror: Mirror | None = None,
) -> Played:
    """Play all sessions of a schedule, until one comes to its end or an invariant breaks."""
    faults = Faults(schedule.seed + 1, schedule.trouble, schedule.kinds, only)
    campaign = _Campaign(schedule, faults, Disk(mirror), plant)
    broken = None
    try:
        campaign.play()
    except Broken as error:
        broken = error
    return Played(schedule, campaign.events, tuple(faults.struck), campaign.history, broken)


class _Campaign:
    """The sessions of a schedule, one after the other on the same disk."""

    def __init__(
        self, schedule: Schedule, faults: Faults, disk: Disk, plant: Plant | None
    ) -> None:
        self._schedule = schedule
        self._faults = faults
        self._disk = disk
        self._plant = plant
        self._rng = random.Random(schedule.seed + 2)
        self._acknowledged: set[int] = set()
        self.history = History()
        self.events = 0

    def play(self) -> None:
        while not self._session():
            pass

    def _session(self) -> bool:
        """Play one session; return whether it was the last."""
        schedule, faults, rng, history = self._schedule, self._faults, self._rng, self.history
        history.sessions += 1
        last = history.sessions >= MOST_SESSIONS
        world = World(schedule.rules, schedule.site, self._disk, faults, rng, history, self._plant)
        self._nothing_lost(world)
        kill = not last and faults.strikes(Fault.KILL)
        in_commit = not (last or kill) and faults.strikes(Fault.CUT)
        cut = rng.randint(1, 120) if kill or in_commit else NEVER
        faults.calm = False
        world.agenda.at(CALM, world.calm)
        if not last and cut == NEVER:
            self._plan_stops(world)
        try:
            world.run(cut, self._latest(world.agenda.time), in_commit)
        finally:
            self.events += world.events
            self._acknowledged |= world.witness.samples.acknowledged
        if world.finish is None:
            world.kill()
            return False
        world.close()
        return world.finish.reason != "asked"

    def _latest(self, begin: float) -> float:
        """By when a session must have come to its end."""
        rules = self._schedule.rules
        goes_on = PATIENCE_FOR_GOAL if rules.after is None else max(0.0, rules.after - begin)
        return begin + goes_on + GRACE[-1] + FINAL_TRAINING[-1] + 2 * PATIENCE + 5.0

    def _plan_stops(self, world: World) -> None:
        rng = self._rng
        for kind in (Fault.STOP, Fault.STOP, Fault.STOP_ASKED):
            if self._faults.strikes(kind):
                patient = kind is Fault.STOP_ASKED
                continued = not patient and rng.random() < 0.5
                world.stop(25 * rng.random(), patient, continued)

    def _nothing_lost(self, world: World) -> None:
        """Every label that was acted upon is still there after a restart."""
        lost = tuple(sorted(self._acknowledged - world.disk.labels.keys()))
        if lost:
            raise Broken("no label lost", f"labels of {lost} were in use, and are gone", lost)
