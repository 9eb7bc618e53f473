"""Trainers: epochs of virtual time, weights, and what they know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pal.controller import commands as co
from pal.controller import events as ev
from pal.simulate.faults import Fault
from pal.simulate.nodes import Worker
from pal.simulate.scene import Scene


@dataclass(slots=True)
class Lesson:
    """What a trainer is at: its round, and how many epochs are left of it."""

    round: int
    epochs: int
    finish: bool = False


class Trainers:
    """Every trainer of a session. `release` numbers new weights of a trainer's members."""

    def __init__(self, scene: Scene, release: Callable[[int], int]) -> None:
        self._scene = scene
        self._release = release
        self._lessons: dict[int, Lesson] = {}
        self._workers = [scene.nodes.add("trainer", k) for k in range(len(scene.rules.trainers))]
        self.epochs = 0
        """Epochs of the first trainer."""

    def teach(self, order: co.Teach) -> None:
        """Take new data; the round under way ends with its epoch."""
        worker, strikes = self._workers[order.trainer], self._scene.faults.strikes
        learns = order.trainer in self._lessons
        lesson = Lesson(order.round, self._scene.rng.randint(1, 3))
        self._lessons[order.trainer] = lesson
        if strikes(Fault.TRAINER_CRASH):
            self._scene.nodes.crash(worker, 4 * self._scene.rng.random())
        if strikes(Fault.TRAINER_HANG):
            lesson.epochs = -1
            self._scene.nodes.crash(worker, 15.0, "deadline")
        elif not learns:
            self._epoch(worker)

    def finish(self, order: co.FinishTraining) -> None:
        """End the round after its epoch."""
        lesson = self._lessons.get(order.trainer)
        if lesson is not None:
            lesson.finish = True

    def died(self, trainer: int) -> None:
        """Forget what a dead trainer was at."""
        self._lessons.pop(trainer, None)

    def _epoch(self, worker: Worker) -> None:
        takes = 0.5 + self._scene.rng.random()
        self._scene.nodes.later(worker, takes, lambda: self._epoch_done(worker))

    def _epoch_done(self, worker: Worker) -> None:
        index, scene = worker.index, self._scene
        lesson = self._lessons[index]
        if lesson.epochs < 0:
            return  # it hangs
        self.epochs += index == 0
        scene.nodes.send(worker, lambda: ev.EpochDone(scene.now(), index))
        lesson.epochs -= 1
        if lesson.epochs > 0 and not lesson.finish:
            self._epoch(worker)
            return
        del self._lessons[index]
        round_ = lesson.round

        def done() -> ev.Event:
            # The weights come just before, on the same road.
            return ev.TrainingDone(scene.now(), index, round_, self._release(index))

        scene.nodes.send(worker, done)
