"""Oracles: they take virtual time, and now and then do not what they should."""

from __future__ import annotations

from functools import partial
from typing import Final

from pal.controller import commands as co
from pal.controller import events as ev
from pal.errors import Failure
from pal.simulate.agenda import Happening
from pal.simulate.faults import Fault
from pal.simulate.nodes import Worker
from pal.simulate.scene import Scene

POISON: Final = 7
"""Of the samples, where there are poisoned ones, each one of so many is."""


class Oracles:
    """Every oracle of a session."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._poisoned = scene.faults.strikes(Fault.POISON)
        begin, rng = scene.agenda.time + 10 * scene.rng.random(), scene.rng
        span = 25 * rng.random() if scene.faults.strikes(Fault.OUTAGE) else 0.0
        self._outage = (begin, begin + span)
        self._workers = [scene.nodes.add("oracle", k) for k in range(scene.rules.n_oracles)]

    def start(self, order: co.StartLabel) -> None:
        """Work on a sample, unless this oracle has died and nobody knows yet."""
        scene, worker = self._scene, self._workers[order.oracle]
        rules, strikes, nodes = scene.rules, scene.faults.strikes, scene.nodes
        outside = order.oracle in rules.outside
        takes = 0.3 + 2.5 * scene.rng.random()
        if outside:
            takes += 6 * scene.rng.random()  # it waits for a batch system
        poison = self._poisoned and order.sample % POISON == 3 and not scene.faults.calm
        if poison or strikes(Fault.CRASH):
            nodes.crash(worker, takes)
        elif outside and strikes(Fault.BLOCK_ENDS):
            nodes.crash(worker, takes, "lost")
        elif rules.oracle_deadline is not None and strikes(Fault.HANG):
            if outside:
                nodes.crash(worker, rules.oracle_deadline, "deadline")
        else:
            answer = self._answer(order)
            nodes.later(worker, takes, partial(self._reply, worker, order, answer))

    def _answer(self, order: co.StartLabel) -> Happening:
        strikes, oracle, sample = self._scene.faults.strikes, order.oracle, order.sample
        begin, end = self._outage
        if strikes(Fault.REFUSAL) or begin <= self._scene.agenda.time < end:
            failure = Failure("oracle", oracle, "LabelFailure", "not converged", sample=sample)
        elif strikes(Fault.NAN):
            failure = Failure("oracle", oracle, "NotFiniteError", "NaN in forces", sample=sample)
        else:
            return lambda: ev.LabelReturned(self._scene.now(), oracle, sample)
        return lambda: ev.LabelFailed(self._scene.now(), oracle, sample, failure)

    def _reply(self, worker: Worker, order: co.StartLabel, answer: Happening) -> None:
        send, strikes = self._scene.nodes.send, self._scene.faults.strikes
        if strikes(Fault.WRONG):
            other = self._scene.rng.randrange(order.sample + 3)
            wrong = order.sample + 1 if other == order.sample else other
            send(worker, lambda: ev.LabelReturned(self._scene.now(), order.oracle, wrong))
        if strikes(Fault.LATE):
            # Its last word is on its way when it dies, and is heard after that.
            send(worker, answer, late=True)
            self._scene.nodes.crash(worker, 0.0)
            return
        send(worker, answer)
        if strikes(Fault.TWICE):
            send(worker, answer, late=True)

    def kill(self, order: co.KillOracle) -> None:
        """Kill an oracle; it starts again."""
        self._scene.nodes.crash(self._workers[order.oracle], 0.05, "deadline")

    def add(self) -> None:
        """Start one more."""
        self._workers.append(self._scene.nodes.add("oracle", len(self._workers)))

    def retire(self, order: co.RetireOracle) -> None:
        """End an oracle for good."""
        self._scene.nodes.remove(self._workers[order.oracle])

    @property
    def staying(self) -> list[int]:
        """Those that have not been retired."""
        return [worker.index for worker in self._workers if not worker.retired]
