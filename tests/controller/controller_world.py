"""A small world for the manager: durations, crashes, late, double and lost answers, one seed.

The world obeys the contract of events and commands and nothing else. Its ledger is what
survives: a session may be cut off at any event and another goes on from the ledger alone.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.invariants import validate
from pal.controller.manager import Manager
from pal.controller.rules import INITIAL, Restored, Rules
from pal.errors import Failure

NEXT: dict[State | None, set[State]] = {
    None: {State.QUEUED, State.DROPPED},
    State.QUEUED: {State.RUNNING, State.DROPPED},
    State.RUNNING: {State.RETURNED, State.QUEUED, State.FAILED, State.QUARANTINED},
    State.RETURNED: {State.LABELLED},
    State.LABELLED: set(),
    State.FAILED: set(),
    State.QUARANTINED: set(),
    State.DROPPED: set(),
}
"""The ways a sample may go."""

DOUBLED = (
    ev.CandidatesProposed,
    ev.OracleLost,
    ev.LabelReturned,
    ev.LabelFailed,
    ev.LabelsDurable,
    ev.TrainerLost,
    ev.TrainingDone,
    ev.WeightsInstalled,
    ev.QueueRanked,
)
"""What may arrive twice. A worker that is ready twice has started twice; reports are sums."""


class Ledger:
    """What is on disk, and what must never happen to it."""

    def __init__(self) -> None:
        self.candidates: dict[int, ev.Candidate] = {}
        self.states: dict[int, State] = {}
        self.attempts: dict[int, int] = {}
        self.labels: list[int] = []
        self.samples = self.uncertain = self.epochs = 0
        self.elapsed = 0.0

    def move(self, move: co.Move) -> None:
        before = self.states.get(move.sample)
        assert move.state in NEXT[before], f"sample {move.sample}: {before} to {move.state}"
        self.states[move.sample] = move.state

    def commit(self, sample: int) -> None:
        assert sample not in self.labels, f"sample {sample} is labelled twice"
        self.labels.append(sample)

    def of(self, state: State) -> list[int]:
        return [sample for sample, where in self.states.items() if where is state]

    def restore(self) -> Restored:
        for sample in self.of(State.RUNNING) + self.of(State.RETURNED):
            done = sample in self.labels
            self.states[sample] = State.LABELLED if done else State.QUEUED
        return Restored(
            queued=tuple(
                (self.candidates[s], self.attempts.get(s, 0)) for s in self.of(State.QUEUED)
            ),
            labelled=tuple(self.labels),
            samples=self.samples,
            uncertain=self.uncertain,
            epochs=self.epochs,
            elapsed=self.elapsed,
            failed=len(self.of(State.FAILED)),
            quarantined=len(self.of(State.QUARANTINED)),
            dropped=len(self.of(State.DROPPED)),
            proposed=sum(self.candidates[s].walker != INITIAL for s in self.states),
        )


class World:
    """Plays one session against a manager until it finishes, or `cut` events have passed."""

    def __init__(self, rules: Rules, ledger: Ledger, seed: int, trouble: float) -> None:
        self.rules, self.ledger, self.trouble = rules, ledger, trouble
        self.rng = random.Random(seed)
        restored = ledger.restore()
        self.manager = Manager(rules, restored)
        self.proposed = self.granted = restored.proposed
        self.agenda: list[tuple[float, int, Callable[[], ev.Event | None]]] = []
        self.time = 0.0
        self.serial = self.events = 0
        self.exploring = False
        self.finish: co.Finish | None = None
        # Who is alive is told by a number that changes with every life of a worker.
        self.lives: dict[tuple[str, int], int] = {}
        self.held: dict[int, set[int]] = {}
        self.lessons: dict[int, int] = {}
        self.version = 0
        for oracle in range(rules.n_oracles):
            self._boot("oracle", oracle, self.rng.uniform(0, 3))
        for trainer in range(len(rules.trainers)):
            self._boot("trainer", trainer, self.rng.uniform(0, 3))
        self._at(0.0, lambda: ev.Tick(self.time))
        fresh = rules.initial_labels and not ledger.states
        if fresh:
            self._at(0.5, lambda: self._offer([INITIAL] * rules.initial_labels))
        if restored.labelled:
            self._install(1.0, 0)
        self._repeat(1.0, lambda: ev.Tick(self.time))
        self._repeat(0.7, self._explore)

    def run(self, cut: int) -> bool:
        """Return whether the session came to its end before it was cut off."""
        while self.finish is None and self.events < cut:
            self.time, _, happen = heapq.heappop(self.agenda)
            event = happen()
            if event is not None:
                self._deliver(event)
                if isinstance(event, DOUBLED) and self._unlucky():
                    self._deliver(event)
        self.ledger.elapsed += self.time
        return self.finish is not None

    def stop(self, after: float) -> None:
        """Ask for the end at some time."""
        continued = self.rng.random() < 0.5
        self._at(after, lambda: ev.StopRequested(self.time, "asked", continued=continued))

    def _deliver(self, event: ev.Event) -> None:
        if self.finish is not None:
            return
        self.events += 1
        for order in self.manager.handle(event):
            self._obey(order)
        validate(self.manager)
        for sample, state in self.ledger.states.items():
            told = self.manager.state_of(sample)
            assert told in (state, None), f"sample {sample}: {told} in memory, {state} on disk"

    def _obey(self, order: co.Command) -> None:
        getattr(self, "_do_" + type(order).__name__)(order)

    # Orders ------------------------------------------------------------------------------

    def _do_Move(self, order: co.Move) -> None:  # noqa: N802 - named by the command
        self.ledger.move(order)

    def _do_StartLabel(self, order: co.StartLabel) -> None:  # noqa: N802
        oracle, sample = order.oracle, order.sample
        assert self.finish is None
        self.ledger.attempts[sample] = order.attempt
        life = self.lives["oracle", oracle]
        took = self.rng.uniform(0.5, 6)
        dice = self.rng.random()
        reply: Callable[[], ev.Event]
        if dice < self.trouble:
            self._crash("oracle", oracle, took)
            return
        if dice < 1.5 * self.trouble and self.rules.oracle_deadline is not None:
            return  # it hangs; only the deadline ends this
        if dice < 3 * self.trouble or (self.trouble and sample % 17 == 5):
            failure = Failure("oracle", oracle, "LabelFailure", "no", sample=sample)
            reply = lambda: ev.LabelFailed(self.time, oracle, sample, failure)  # noqa: E731
        else:
            reply = lambda: ev.LabelReturned(self.time, oracle, sample)  # noqa: E731
        # An answer sent in its last moment may arrive after the death of its oracle.
        late = self._unlucky()
        self._at(took, lambda: reply() if late or self._lives("oracle", oracle, life) else None)

    def _do_CommitLabel(self, order: co.CommitLabel) -> None:  # noqa: N802
        def commit() -> ev.Event:
            self.ledger.commit(order.sample)
            return ev.LabelsDurable(self.time, (order.sample,))

        self._at(self.rng.uniform(0, 0.5), commit)

    def _do_KillOracle(self, order: co.KillOracle) -> None:  # noqa: N802
        self._crash("oracle", order.oracle, 0.1)

    def _do_Teach(self, order: co.Teach) -> None:  # noqa: N802
        held = self.held[order.trainer]
        assert held.isdisjoint(order.add), "taught what it holds"
        assert held.issuperset(order.remove), "told to forget what it does not hold"
        assert set(order.add) <= set(self.ledger.labels), "taught what is not on disk"
        held.difference_update(order.remove)
        held.update(order.add)
        window = self.rules.window
        newest = self.ledger.labels if window is None else self.ledger.labels[-window:]
        untold = set(newest) - held
        assert all(self.ledger.states[s] is State.RETURNED for s in untold), "not all taught"
        assert window is None or len(held) <= window
        self.lessons[order.trainer] = order.round
        self._epochs(order.trainer, order.round, self.lives["trainer", order.trainer])
        if self._unlucky():
            self._crash("trainer", order.trainer, self.rng.uniform(0, 5))

    def _do_FinishTraining(self, order: co.FinishTraining) -> None:  # noqa: N802
        if not self._unlucky():
            self._trained(order.trainer, self.lessons[order.trainer], 1.0)

    def _do_Explore(self, order: co.Explore) -> None:  # noqa: N802
        assert order.on != self.exploring
        self.exploring = order.on

    def _do_GrantCandidates(self, order: co.GrantCandidates) -> None:  # noqa: N802
        assert order.total > self.granted, "a grant must grow"
        self.granted = order.total

    def _do_RankQueue(self, order: co.RankQueue) -> None:  # noqa: N802
        kept = [sample for sample in order.samples if self.rng.random() < 0.9]
        self.rng.shuffle(kept)
        doubts = {sample: self.rng.random() for sample in kept}
        self._at(
            self.rng.uniform(0, 4),
            lambda: ev.QueueRanked(self.time, order.samples, tuple(kept), doubts),
        )

    def _do_Finish(self, order: co.Finish) -> None:  # noqa: N802
        self.finish = order

    # What happens by itself ----------------------------------------------------------------

    def _at(self, delay: float, happen: Callable[[], Any]) -> None:
        self.serial += 1
        heapq.heappush(self.agenda, (self.time + delay, self.serial, happen))

    def _repeat(self, every: float, happen: Callable[[], Any]) -> None:
        def again() -> Any:
            self._at(every, again)
            return happen()

        self._at(every, again)

    def _unlucky(self) -> bool:
        return self.rng.random() < self.trouble / 2

    def _lives(self, role: str, index: int, life: int) -> bool:
        return self.lives.get((role, index)) == life

    def _boot(self, role: str, index: int, delay: float) -> None:
        def ready() -> ev.Event:
            self.lives[role, index] = self.serial
            if role == "oracle":
                return ev.OracleReady(self.time, index)
            self.held[index] = set()
            return ev.TrainerReady(self.time, index)

        self._at(delay, ready)

    def _crash(self, role: str, index: int, delay: float) -> None:
        life = self.lives.get((role, index))

        def die() -> ev.Event | None:
            if life is None or not self._lives(role, index, life):
                return None
            del self.lives[role, index]
            self._boot(role, index, self.rng.uniform(0.1, 2))
            failure = Failure(role, index, "crash", "killed by signal 11")
            lost = ev.OracleLost if role == "oracle" else ev.TrainerLost
            return lost(self.time, index, failure)

        self._at(delay, die)

    def _offer(self, walkers: list[int]) -> ev.Event:
        first = len(self.ledger.candidates)
        offered = tuple(
            ev.Candidate(first + k, walker, self.version, self.rng.random())
            for k, walker in enumerate(walkers)
        )
        for candidate in offered:
            self.ledger.candidates[candidate.sample] = candidate
            self.proposed += candidate.walker != INITIAL
        return ev.CandidatesProposed(self.time, offered)

    def _explore(self) -> ev.Event | None:
        if not self.exploring:
            return None
        uncertain = self.rng.randrange(4)
        self._at(0.0, lambda: self._report(uncertain))
        count = min(uncertain, max(0, self.granted - self.proposed))
        return self._offer([self.rng.randrange(5)] * count) if count else None

    def _report(self, uncertain: int) -> ev.Event:
        self.ledger.samples += 10
        self.ledger.uncertain += uncertain
        return ev.Explored(self.time, 10, uncertain)

    def _epochs(self, trainer: int, round_: int, life: int) -> None:
        def epoch(number: int) -> ev.Event | None:
            if not self._lives("trainer", trainer, life) or self.lessons[trainer] != round_:
                return None
            if number == 3:
                self._trained(trainer, round_, 0.0)
            else:
                self._at(1.0, lambda: epoch(number + 1))
            self.ledger.epochs += trainer == 0
            return ev.EpochDone(self.time, trainer)

        self._at(1.0, lambda: epoch(1))

    def _trained(self, trainer: int, round_: int, delay: float) -> None:
        life = self.lives.get(("trainer", trainer), -1)

        def done() -> ev.Event | None:
            if not self._lives("trainer", trainer, life):
                return None
            self.version += 1
            # Either message may overtake the other: they come from two processes.
            self._install(self.rng.uniform(0, 0.5), self.version)
            finished = ev.TrainingDone(self.time, trainer, round_, self.version)
            self._at(self.rng.uniform(0, 0.5), lambda: finished)
            return None

        self._at(delay, done)

    def _install(self, delay: float, version: int) -> None:
        self._at(delay, lambda: ev.WeightsInstalled(self.time, version, True))
