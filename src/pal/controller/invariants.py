"""What must hold after every event, whatever happened before."""

from __future__ import annotations

from collections import Counter

from pal.controller.commands import State
from pal.controller.manager import Manager


class InvariantError(AssertionError):
    """The controller contradicts itself; this is a defect in it."""


def validate(manager: Manager) -> None:
    """Check every invariant of the controller, in time proportional to all its samples.

    Raises:
        InvariantError: naming what broke.
    """
    _one_place_each(manager)
    _queue_is_bounded(manager)
    _oracles_are_consistent(manager)
    _nothing_waits_in_vain(manager)
    _dataset_holds_labels_once(manager)
    _trainers_hold_ranges(manager)
    _walkers_and_grants(manager)


def _require(holds: bool, broken: str) -> None:
    if not holds:
        raise InvariantError(broken)


def _one_place_each(manager: Manager) -> None:
    labelling = manager.labelling
    places = [(entry.sample, State.QUEUED) for entry in labelling.queue]
    places += [(entry.sample, State.RUNNING) for _, entry in labelling.oracles]
    places += [(sample, State.RETURNED) for sample in labelling.returned]
    held = Counter(sample for sample, _ in places)
    twice = [sample for sample, times in held.items() if times > 1]
    _require(not twice, f"samples in more than one place: {twice}")
    on_the_way = {State.QUEUED, State.RUNNING, State.RETURNED}
    told = {sample: s for sample, s in labelling.states.items() if s in on_the_way}
    wrong = set(told.items()) ^ set(places)
    _require(not wrong, f"samples that are not where their state says: {sorted(wrong)}")
    counts = manager.counts
    sizes = (counts.queued, counts.running, counts.returned)
    real = Counter(told.values())
    expected = (real[State.QUEUED], real[State.RUNNING], real[State.RETURNED])
    _require(sizes == expected, f"queued, running, returned: counted {sizes}, are {expected}")


def _queue_is_bounded(manager: Manager) -> None:
    queue, oracles = manager.labelling.queue, manager.labelling.oracles
    counted = sum(not entry.initial for entry in queue)
    _require(queue.counted == counted, f"the queue counts {queue.counted}, holds {counted}")
    # A running sample left a free place behind; it may come back to find it taken.
    running = sum(not entry.initial for _, entry in oracles)
    before = len(manager.restored.queued)
    limit = max(queue.widest, before) + manager.most_oracles + manager.labelling.insisted
    held = counted + running
    _require(held <= limit, f"{held} samples wait or run, the queue allows {limit}")


def _oracles_are_consistent(manager: Manager) -> None:
    pool = manager.labelling.oracles
    free, running, killed = set(pool.free), set(pool.running), set(pool.killed)
    several = (free & running) | (free & killed) | (running & killed)
    _require(not several, f"oracles with more than one state: {several}")
    untried = [entry.sample for _, entry in pool if entry.attempts < 1]
    _require(not untried, f"samples that run without an attempt: {untried}")
    starts = [running.started for running in pool.running.values()]
    _require(starts == sorted(starts), "running labels are not in the order of their start")


def _nothing_waits_in_vain(manager: Manager) -> None:
    labelling = manager.labelling
    if manager.ending is not None or not manager.labelling_on:
        return
    if not labelling.breaker.allows(manager.now, len(labelling.oracles)):
        return
    limit, counts = manager.rules.labels, manager.counts
    if limit is not None and counts.labelled + counts.running + counts.returned >= limit:
        return
    choose = labelling.oracles.choose
    later = {entry.sample for entry in labelling.queue.deferred}
    idle = [
        (entry.sample, oracle)
        for entry in labelling.queue
        if entry.sample not in later and (oracle := choose(entry.avoid)) is not None
    ]
    _require(not idle, f"a sample waits while an oracle is free: (sample, oracle) {idle[:3]}")


def _dataset_holds_labels_once(manager: Manager) -> None:
    dataset, labelling = manager.training.dataset, manager.labelling
    _require(len(set(dataset)) == len(dataset), "a label is in the dataset twice")
    labelled = {s for s, state in labelling.states.items() if state is State.LABELLED}
    _require(set(dataset) == labelled, "the dataset differs from the labelled samples")
    _require(labelling.labelled == len(dataset), "the count of labels differs from the dataset")


def _trainers_hold_ranges(manager: Manager) -> None:
    training = manager.training
    size = len(training.dataset)
    _require(0 <= training.taught <= size, f"{training.taught} labels taught of {size}")
    for index, trainer in enumerate(training.trainers):
        fits = 0 <= trainer.first <= trainer.last <= size and trainer.round <= training.round
        _require(fits, f"trainer {index} holds what is not there: {trainer}")
        _require(trainer.ready or not trainer.busy, f"trainer {index} is gone and busy")
        window, held = trainer.window, trainer.last - trainer.first
        _require(window is None or held <= window, f"trainer {index} holds {held} of {window}")


def _walkers_and_grants(manager: Manager) -> None:
    stopped = manager.ending is None or not manager.exploring
    _require(stopped, "walkers explore while the campaign ends")
    _require(not manager.finished or manager.ending is not None, "finished without a reason")
