"""Planted defects: each breaks the controller in one place, and the simulation must find it.

A simulation that has never failed proves nothing. Each defect is the kind of slip that a change
may bring; `find` tells by which invariant it shows, and after how many schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from pal.controller import events as ev
from pal.controller.commands import Command, Move, State
from pal.controller.grants import Grants
from pal.controller.queue import Entry
from pal.controller.training import Trainer
from pal.errors import Failure
from pal.ledger import entries
from pal.simulate.schedule import Played, draw, play
from pal.simulate.world import Plant, World


@dataclass(frozen=True, slots=True)
class Defect:
    """A slip in one part of the controller, and the invariants by which it may show."""

    part: str
    text: str
    plant: Plant
    shows: frozenset[str]


DEFECTS: Final[dict[str, Defect]] = {}


def _defect(part: str, *shows: str) -> Callable[[Plant], Plant]:
    def keep(plant: Plant) -> Plant:
        text = (plant.__doc__ or "").strip()
        name = plant.__name__.removeprefix("_")
        DEFECTS[name] = Defect(part, text, plant, frozenset(shows))
        return plant

    return keep


def find(defect: Defect, seeds: range) -> Played | None:
    """Play schedules with a defect until an invariant breaks; None if none did."""
    for seed in seeds:
        played = play(draw(seed), defect.plant)
        if played.broken is not None:
            return played
    return None


# The ledger and labelling ------------------------------------------------------------------


@_defect("ledger", "durable before use")
def _acknowledged_before_the_commit(world: World) -> None:
    """A label is told to be on the disk when the disk has only been asked to write it."""
    put = world.writer.put

    def hasty(entry: entries.Entry) -> None:
        put(entry)
        if isinstance(entry, entries.NewLabel):
            world.on_durable((entry.sample,))

    world.writer.put = hasty  # type: ignore[method-assign]


@_defect("labelling", "durable before use")
def _counted_when_returned(world: World) -> None:
    """A label counts, and is taught, as soon as an oracle has returned it."""
    labelling, training = world.manager.labelling, world.manager.training
    returned = labelling.label_returned

    def hasty(oracle: int, sample: int) -> list[Command]:
        orders = returned(oracle, sample)
        moves = labelling.labels_durable([sample])
        training.grow(move.sample for move in moves)
        return [*orders, *moves]

    labelling.label_returned = hasty  # type: ignore[method-assign]


@_defect("labelling", "controller", "bounded")
def _lost_requeue(world: World) -> None:
    """A sample whose oracle died is said to be queued again, and is not."""
    world.manager.labelling.queue.defer = lambda entry, until: None  # type: ignore[method-assign]


@_defect("labelling", "controller", "labels end")
def _forgotten_loss(world: World) -> None:
    """The death of an oracle is noted, that of its label is not."""
    oracles = world.manager.labelling.oracles

    def lose(oracle: int, failure: Failure, now: float) -> list[Command]:
        oracles.lost(oracle)
        return []

    world.manager.labelling.oracle_lost = lose  # type: ignore[method-assign]


@_defect("labelling", "one state")
def _counted_twice(world: World) -> None:
    """A label that is told twice to be on the disk is counted and taught twice."""
    labelling = world.manager.labelling
    durable = labelling.labels_durable

    def again(samples: Iterable[int]) -> list[Move]:
        told = tuple(samples)
        return durable(told) or [Move(sample, State.LABELLED) for sample in told]

    labelling.labels_durable = again  # type: ignore[method-assign]


@_defect("labelling", "labels end")
def _running_labels_are_left(world: World) -> None:
    """The end comes while labels are being made, and does not queue them again."""
    world.manager.labelling.recall = list  # type: ignore[method-assign]


@_defect("labelling", "poison ends in quarantine", "progress")
def _poison_is_tried_for_ever(world: World) -> None:
    """A crash is never held against the sample that caused it."""
    labelling = world.manager.labelling
    fail = labelling._fail

    def excuse(entry: Entry, oracle: int, failure: Failure, now: float) -> list[Command]:
        entry.excused = entry.attempts
        return fail(entry, oracle, failure, now)

    labelling._fail = excuse  # type: ignore[method-assign]


# The queue and the pool of oracles -----------------------------------------------------------


@_defect("queue", "controller", "bounded")
def _unbounded_queue(world: World) -> None:
    """The queue takes what comes."""
    queue = world.manager.labelling.queue

    def take_all(entry: Entry) -> None:
        queue.restore(entry)

    queue.add = take_all  # type: ignore[method-assign]


@_defect("queue", "controller", "bounded")
def _ranked_out_in_silence(world: World) -> None:
    """What the selector leaves out of the queue is gone, and nobody says so."""
    queue = world.manager.labelling.queue
    rank = queue.rank

    def silent(*answer: object) -> list[Entry]:
        rank(*answer)  # type: ignore[arg-type]
        return []

    queue.rank = silent  # type: ignore[method-assign,assignment]


@_defect("queue", "controller", "progress")
def _second_tries_are_passed_over(world: World) -> None:
    """Samples to be tried again never get their turn."""
    world.manager.labelling.queue.mature = lambda now: None  # type: ignore[method-assign]


@_defect("pool", "one label at a time", "controller")
def _double_delivery(world: World) -> None:
    """An oracle that works counts as free."""
    pool = world.manager.labelling.oracles
    start = pool.start

    def start_and_keep(oracle: int, entry: Entry, now: float) -> None:
        start(oracle, entry, now)
        pool.free[oracle] = None

    pool.start = start_and_keep  # type: ignore[method-assign]


@_defect("pool", "one label at a time")
def _given_to_the_dead(world: World) -> None:
    """An oracle that has died stays in the list of those that are free."""
    pool = world.manager.labelling.oracles
    lost = pool.lost

    def lose(oracle: int) -> Entry | None:
        entry = lost(oracle)
        pool.free[oracle] = None
        return entry

    pool.lost = lose  # type: ignore[method-assign]


@_defect("pool", "labels end", "progress")
def _no_deadline(world: World) -> None:
    """Nobody looks at the clock of an oracle."""
    world.manager.labelling.oracles.overdue = lambda now: []  # type: ignore[method-assign]


# Training ----------------------------------------------------------------------------------


@_defect("training", "once in the dataset", "bounded")
def _taught_twice(world: World) -> None:
    """A trainer is given all labels at each round, also those it has."""
    training = world.manager.training
    teach = training._teach

    def teach_all(index: int) -> object:
        return replace(teach(index), add=tuple(training.dataset))

    training._teach = teach_all  # type: ignore[method-assign,assignment]


@_defect("training", "no label lost", "once in the dataset", "progress")
def _a_new_trainer_is_thought_to_know(world: World) -> None:
    """A trainer that started again is taught only what has come since."""
    training = world.manager.training

    def ready(trainer: int) -> None:
        pupil = training.trainers[trainer]
        training.trainers[trainer] = Trainer(True, False, pupil.round, pupil.first, pupil.last)

    training.trainer_ready = ready  # type: ignore[method-assign]
    training.trainer_lost = lambda trainer: None  # type: ignore[method-assign]


@_defect("training", "progress")
def _latecomers_wait(world: World) -> None:
    """A trainer that starts in the middle of a round is not taught."""
    world.manager.training.catch_up = list  # type: ignore[method-assign]


@_defect("training", "progress")
def _no_new_round(world: World) -> None:
    """The labels that came since the last round are not counted."""
    world.manager.training.due = lambda first: False  # type: ignore[method-assign]


# The manager -------------------------------------------------------------------------------


@_defect("manager", "walkers", "progress")
def _forgotten_walkers(world: World) -> None:
    """Walkers that were paused are not let go again."""
    manager = world.manager
    wanted = manager._exploration_wanted
    was_paused = False

    def forgets() -> bool:
        nonlocal was_paused
        was_paused |= "generator" in manager.paused
        return wanted() and not was_paused

    manager._exploration_wanted = forgets  # type: ignore[method-assign]


@_defect("manager", "orderly end")
def _stop_is_not_heard(world: World) -> None:
    """A stop that is asked for in a batch job, to go on in the next, is passed over."""
    manager = world.manager
    handle = manager._handlers[ev.StopRequested]

    def deaf(event: ev.StopRequested) -> list[Command]:
        return [] if event.continued else handle(event)

    manager._handlers[ev.StopRequested] = deaf


@_defect("manager", "progress")
def _weights_are_not_noticed(world: World) -> None:
    """In the serial loop, the committee's new weights are waited for and never seen."""
    world.manager._handlers[ev.WeightsInstalled] = lambda event: []


@_defect("manager", "one state", "bounded")
def _a_queued_sample_is_not_restored(world: World) -> None:
    """The first of the samples that waited when a session ended is forgotten in the next."""
    labelling = world.manager.labelling
    for entry in list(labelling.queue)[:1]:
        labelling.queue.remove(entry.sample)
        del labelling.states[entry.sample]


# Broken oracles, pauses between tries ------------------------------------------------------


@_defect("breaker", "pauses")
def _a_broken_oracle_burns_the_queue(world: World) -> None:
    """Labels are started as if the breaker were closed."""
    world.manager.labelling.breaker.allows = lambda now, running: True  # type: ignore[method-assign]


@_defect("breaker", "progress")
def _the_breaker_never_tries(world: World) -> None:
    """A breaker that has opened waits for a success, and allows no probe."""
    breaker = world.manager.labelling.breaker
    breaker.allows = lambda now, running: not breaker.open  # type: ignore[method-assign]


@_defect("back-off", "pauses")
def _no_pause_between_tries(world: World) -> None:
    """A failed sample is tried again at once."""
    world.manager.labelling._backoff = lambda tries: 0.0  # type: ignore[method-assign]


# Grants ------------------------------------------------------------------------------------


@_defect("grants", "bounded")
def _places_are_granted_twice(world: World) -> None:
    """The places of samples that wait are granted once more."""
    manager = world.manager
    grant = manager._grant

    def generous() -> list[Command]:
        queue = manager.labelling.queue
        counted, queue._counted = queue._counted, 0
        try:
            return grant()
        finally:
            queue._counted = counted

    manager._grant = generous  # type: ignore[method-assign]


@_defect("grants", "walkers", "progress")
def _a_returned_shard_gets_nothing(world: World) -> None:
    """An exchange that has started again is not granted any candidates."""

    class Forgetful(Grants):
        def welcome(self, shard: int) -> None:
            if shard not in self._before:
                super().welcome(shard)

    world.shards.grants = Forgetful()


# What the operator changes -----------------------------------------------------------------


@_defect("operator", "one state", "one label at a time", "controller")
def _a_labelled_sample_is_queued_again(world: World) -> None:
    """The operator may have a label made that is there."""
    labelling = world.manager.labelling

    def bring_back(candidate: ev.Candidate, ended: State | None) -> Entry:
        return Entry(candidate)

    labelling._bring_back = bring_back  # type: ignore[method-assign]


@_defect("operator", "pauses")
def _labelling_goes_on_while_it_is_paused(world: World) -> None:
    """The operator's pause of the oracles is noted and not heeded."""
    manager = world.manager
    handle = manager._handlers[ev.KernelPaused]

    def deaf(event: ev.KernelPaused) -> list[Command]:
        return [] if event.kernel == "oracle" else handle(event)

    manager._handlers[ev.KernelPaused] = deaf


@_defect("operator", "labels end", "one label at a time")
def _a_busy_oracle_is_sent_away(world: World) -> None:
    """An oracle that is to go goes with the label it makes."""
    pool = world.manager.labelling.oracles

    def leave(oracle: int) -> bool:
        return oracle in pool._retiring

    pool.leave = leave  # type: ignore[method-assign]


@_defect("operator", "bounded", "no label lost", "progress")
def _old_rules_hold(world: World) -> None:
    """Other limits for queue and dataset are taken note of, and the old ones go on to hold."""
    manager = world.manager
    queue, training = manager.labelling.queue, manager.training
    old = manager.rules
    queue.govern = lambda capacity, when_full: None  # type: ignore[method-assign]
    teach = training._teach

    def by_old_rules(index: int) -> object:
        training.rules = old
        return teach(index)

    training._teach = by_old_rules  # type: ignore[method-assign,assignment]
