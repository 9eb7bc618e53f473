"""What must hold after every event, whatever happened before."""

from __future__ import annotations

from collections import Counter

from pal.controller.commands import State
from pal.controller.manager import Manager
from pal.controller.queue import Entry
from pal.controller.rules import INITIAL


class InvariantError(AssertionError):
    """The controller contradicts itself; this is a defect in it."""


def validate(manager: Manager) -> None:
    """Check every invariant of the controller, in time proportional to all its samples.

    Raises:
        InvariantError: naming what broke.
    """
    waiting = list(manager.labelling.queue)
    running = [entry for _, entry in manager.labelling.oracles]
    _one_place_each(manager, waiting, running)
    _queue_is_bounded(manager, waiting, running)
    _oracles_are_consistent(manager, running)
    _nothing_waits_in_vain(manager)
    _dataset_holds_labels_once(manager)
    _trainers_hold_ranges(manager)
    _walkers_and_grants(manager)


# Everything below runs after each event of thousands of simulated campaigns: what went wrong is
# put into words only where it did.


def _one_place_each(manager: Manager, waiting: list[Entry], running: list[Entry]) -> None:
    labelling = manager.labelling
    if len(labelling.queue) != len(waiting):
        raise InvariantError(f"the queue counts {len(labelling.queue)}, holds {len(waiting)}")
    if len(labelling.oracles) != len(running):
        raise InvariantError(f"{len(labelling.oracles)} counted as running, {len(running)} are")
    queued = [entry.candidate.sample for entry in waiting]
    with_oracles = [entry.candidate.sample for entry in running]
    held = [*queued, *with_oracles, *labelling.returned]
    if len(set(held)) < len(held):
        twice = [sample for sample, times in Counter(held).items() if times > 1]
        raise InvariantError(f"samples in more than one place: {twice}")
    states, told = labelling.states, list(labelling.states.values())
    places = (
        (State.QUEUED, queued),
        (State.RUNNING, with_oracles),
        (State.RETURNED, list(labelling.returned)),
    )
    for place, samples in places:
        wrong = [sample for sample in samples if states.get(sample) is not place]
        if wrong or told.count(place) != len(samples):
            said = {sample for sample, state in states.items() if state is place}
            wrong = sorted(said.symmetric_difference(samples))
            raise InvariantError(f"samples said to be {place} and not there, or not said: {wrong}")


def _queue_is_bounded(manager: Manager, waiting: list[Entry], running: list[Entry]) -> None:
    queue = manager.labelling.queue
    counted = len([entry for entry in waiting if entry.candidate.walker != INITIAL])
    if queue.counted != counted:
        raise InvariantError(f"{queue.counted} count against the capacity, {counted} should")
    # A running sample left a free place behind; it may come back to find it taken.
    held = counted + len([entry for entry in running if entry.candidate.walker != INITIAL])
    before = len(manager.restored.queued)
    limit = max(queue.widest, before) + manager.most_oracles + manager.labelling.insisted
    if held > limit:
        raise InvariantError(f"{held} samples wait or run, the queue allows {limit}")


def _oracles_are_consistent(manager: Manager, working: list[Entry]) -> None:
    pool = manager.labelling.oracles
    free, running, killed = pool.free.keys(), pool.running.keys(), pool.killed.keys()
    several = (free & running) | (free & killed) | (running & killed)
    if several:
        raise InvariantError(f"oracles with more than one state: {several}")
    untried = [entry.sample for entry in working if entry.attempts < 1]
    if untried:
        raise InvariantError(f"samples that run without an attempt: {untried}")
    starts = [label.started for label in pool.running.values()]
    if starts != sorted(starts):
        raise InvariantError("running labels are not in the order of their start")


def _nothing_waits_in_vain(manager: Manager) -> None:
    labelling = manager.labelling
    if manager.ending is not None or not manager.labelling_on or not labelling.oracles.free:
        return
    if not labelling.breaker.allows(manager.now, len(labelling.oracles)):
        return
    limit = manager.rules.labels
    under_way = len(labelling.oracles) + len(labelling.returned)
    if limit is not None and labelling.labelled + under_way >= limit:
        return
    choose = labelling.oracles.choose
    later = {entry.sample for entry in labelling.queue.deferred}
    idle = [
        (entry.sample, oracle)
        for entry in labelling.queue
        if entry.sample not in later and (oracle := choose(entry.avoid)) is not None
    ]
    if idle:
        raise InvariantError(
            f"a sample waits while an oracle is free: (sample, oracle) {idle[:3]}"
        )


def _dataset_holds_labels_once(manager: Manager) -> None:
    dataset, labelling = manager.training.dataset, manager.labelling
    if len(set(dataset)) != len(dataset):
        raise InvariantError("a label is in the dataset twice")
    states, labelled = labelling.states, State.LABELLED
    wrong = [sample for sample in dataset if states.get(sample) is not labelled]
    if wrong or list(states.values()).count(labelled) != len(dataset):
        raise InvariantError(f"the dataset differs from the labelled samples: {wrong}")
    if labelling.labelled != len(dataset):
        raise InvariantError("the count of labels differs from the dataset")


def _trainers_hold_ranges(manager: Manager) -> None:
    training = manager.training
    size = len(training.dataset)
    if not 0 <= training.taught <= size:
        raise InvariantError(f"{training.taught} labels taught of {size}")
    for index, trainer in enumerate(training.trainers):
        if not (0 <= trainer.first <= trainer.last <= size and trainer.round <= training.round):
            raise InvariantError(f"trainer {index} holds what is not there: {trainer}")
        if trainer.busy and not trainer.ready:
            raise InvariantError(f"trainer {index} is gone and busy")
        window, held = trainer.window, trainer.last - trainer.first
        if window is not None and held > window:
            raise InvariantError(f"trainer {index} holds {held} of {window}")


def _walkers_and_grants(manager: Manager) -> None:
    if manager.ending is not None and manager.exploring:
        raise InvariantError("walkers explore while the campaign ends")
    if manager.finished and manager.ending is None:
        raise InvariantError("finished without a reason")
