"""The operator: drops, requeues and labels samples, pauses kernels, changes oracles and rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.labelling import ENDED
from pal.simulate.agenda import Happening
from pal.simulate.faults import Fault
from pal.simulate.oracles import Oracles
from pal.simulate.scene import Scene
from pal.simulate.witness import Witness

LOOK: Final = 3.0
"""Seconds between two chances for the operator to do something, about."""

BY: Final = "anna@login1"

GRACE: Final = (0.0, 2.0, 10.0)
FINAL_TRAINING: Final = (0.0, 4.0)
"""What settings these may have; the last one is the longest."""


class Operator:
    """Now and then changes something in a running campaign."""

    def __init__(
        self,
        scene: Scene,
        oracles: Oracles,
        witness: Witness,
        candidates: Mapping[int, ev.Candidate],
    ) -> None:
        self._scene = scene
        self._oracles = oracles
        self._witness = witness
        self._candidates = candidates
        self._acts: dict[Fault, Callable[[], None]] = {
            Fault.DROP: self._drop,
            Fault.REQUEUE: self._requeue,
            Fault.BY_HAND: self._label,
            Fault.PAUSE: self._pause,
            Fault.SCALE: self._scale,
            Fault.RULES: self._change_rules,
        }
        self._wait()

    def _wait(self) -> None:
        self._scene.agenda.at(LOOK * (0.5 + self._scene.rng.random()), self._look)

    def _look(self) -> None:
        for kind, act in self._acts.items():
            if self._scene.faults.strikes(kind):
                act()
        self._wait()

    def _say(self, word: Happening, delay: float = 0.0) -> None:
        self._scene.agenda.at(delay, word)

    def _any(self, *states: State) -> int | None:
        found = [sample for sample, state in self._witness.states.items() if state in states]
        return self._scene.rng.choice(found) if found else None

    def _drop(self) -> None:
        sample = self._any(*State)
        if sample is not None:
            self._say(lambda: ev.SampleDropped(self._scene.now(), sample, BY))

    def _told(self, sample: int) -> tuple[ev.Candidate, State | None]:
        """Return the candidate and, where it has ended, how."""
        state = self._witness.states[sample]
        return self._candidates[sample], state if state in ENDED else None

    def _requeue(self) -> None:
        sample = self._any(State.RUNNING, *ENDED)
        if sample is not None:
            candidate, ended = self._told(sample)
            self._say(lambda: ev.SampleRequeued(self._scene.now(), candidate, BY, ended))

    def _label(self) -> None:
        sample = self._any(*State)
        if sample is not None:
            candidate, ended = self._told(sample)
            self._say(lambda: ev.LabelGiven(self._scene.now(), candidate, BY, ended))

    def _pause(self) -> None:
        kinds: tuple[ev.Pausable, ...] = ("generator", "oracle", "training")
        kernel = self._scene.rng.choice(kinds)
        self._say(lambda: ev.KernelPaused(self._scene.now(), kernel, True, BY))
        span = 8 * self._scene.rng.random()
        self._say(lambda: ev.KernelPaused(self._scene.now(), kernel, False, BY), span)

    def _scale(self) -> None:
        staying, rng = self._oracles.staying, self._scene.rng
        count = self._scene.rules.n_oracles
        if count > 1 and rng.random() < 0.5:
            # Some may have been asked to go already; at least one is never asked.
            oracle = staying[-1]
            self._govern(n_oracles=count - 1)
            self._say(lambda: ev.OracleRetired(self._scene.now(), oracle))
        else:
            self._govern(n_oracles=count + 1)
            self._oracles.add()

    def _change_rules(self) -> None:
        rng, deadline = self._scene.rng, self._scene.rules.oracle_deadline
        self._govern(
            # An oracle that hangs has nothing but its deadline.
            oracle_deadline=deadline and rng.choice((3.0, 6.0)),
            oracle_retries=rng.randint(0, 2),
            backoff=rng.choice((0.0, 2.0)),
            pause_after=rng.choice((None, 2, 4)),
            queue_capacity=rng.choice((1, 3, 10)),
            when_full=rng.choice(("drop_new", "drop_certain", "drop_old")),
            retrain_size=rng.choice((1, 3, 6)),
            window=rng.choice((None, 3, 8)),
            rerank=rng.random() < 0.5,
            grace=rng.choice(GRACE),
            final_training=rng.choice(FINAL_TRAINING),
        )

    def _govern(self, **changes: object) -> None:
        self._scene.rules = rules = replace(self._scene.rules, **changes)  # type: ignore[arg-type]
        self._say(lambda: ev.RulesChanged(self._scene.now(), rules))
