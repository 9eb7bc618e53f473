"""Plays a campaign against the manager by hand, one event at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pal.controller import events as ev
from pal.controller.commands import Command, Move, State
from pal.controller.invariants import validate
from pal.controller.manager import Manager
from pal.controller.rules import INITIAL, Restored, Rules
from pal.errors import Failure

BY = "anna@login1"


def candidate(sample: int, uncertainty: float = 1.0, walker: int = 0) -> ev.Candidate:
    return ev.Candidate(sample, walker, 0, uncertainty)


def failure(kind: str = "RuntimeError", oracle: int = 0) -> Failure:
    return Failure("oracle", oracle, kind, "not converged")


class Play:
    """A manager, a clock and short words for the events; every event is validated."""

    def __init__(self, restored: Restored | None = None, **rules: Any) -> None:
        self.manager = Manager(Rules(**{"n_oracles": 4, **rules}), restored)
        self.time = 0.0
        self.orders: list[Command] = []

    def send(self, event: ev.Event) -> list[Command]:
        orders = self.manager.handle(event)
        validate(self.manager)
        self.orders += orders
        return orders

    def tick(self, seconds: float = 0.0) -> list[Command]:
        self.time += seconds
        return self.send(ev.Tick(self.time))

    def propose(self, *samples: int, walker: int = 0) -> list[Command]:
        offered = tuple(candidate(sample, walker=walker) for sample in samples)
        return self.send(ev.CandidatesProposed(self.time, offered))

    def initial(self, *samples: int) -> list[Command]:
        return self.propose(*samples, walker=INITIAL)

    def oracle(self, *oracles: int) -> list[Command]:
        return [o for k in oracles for o in self.send(ev.OracleReady(self.time, k))]

    def lose_oracle(self, oracle: int) -> list[Command]:
        return self.send(ev.OracleLost(self.time, oracle, failure("crash", oracle)))

    def returns(self, oracle: int, sample: int) -> list[Command]:
        return self.send(ev.LabelReturned(self.time, oracle, sample))

    def fails(self, oracle: int, sample: int) -> list[Command]:
        return self.send(ev.LabelFailed(self.time, oracle, sample, failure(oracle=oracle)))

    def durable(self, *samples: int) -> list[Command]:
        return self.send(ev.LabelsDurable(self.time, samples))

    def label(self, oracle: int, *samples: int) -> list[Command]:
        """One oracle labels these samples, each until it is on disk."""
        return [
            order
            for sample in samples
            for order in (*self.returns(oracle, sample), *self.durable(sample))
        ]

    def trainer(self, trainer: int = 0) -> list[Command]:
        return self.send(ev.TrainerReady(self.time, trainer))

    def lose_trainer(self, trainer: int = 0) -> list[Command]:
        return self.send(ev.TrainerLost(self.time, trainer, failure("crash")))

    def trained(self, trainer: int = 0, version: int | None = None) -> list[Command]:
        number = self.manager.training.round
        return self.send(ev.TrainingDone(self.time, trainer, number, version))

    def epoch(self, trainer: int = 0) -> list[Command]:
        return self.send(ev.EpochDone(self.time, trainer))

    def weights(self, version: int = 1, trained: bool = True) -> list[Command]:
        return self.send(ev.WeightsInstalled(self.time, version, trained))

    def explored(self, samples: int, uncertain: int = 0) -> list[Command]:
        return self.send(ev.Explored(self.time, samples, uncertain))

    def stop(self, reason: str = "a walker asked") -> list[Command]:
        return self.send(ev.StopRequested(self.time, reason))

    def drop(self, sample: int) -> list[Command]:
        return self.send(ev.SampleDropped(self.time, sample, BY))

    def requeue(self, sample: int, ended: State | None = None, walker: int = 0) -> list[Command]:
        wanted = candidate(sample, walker=walker)
        return self.send(ev.SampleRequeued(self.time, wanted, BY, ended))

    def give(self, sample: int, ended: State | None = None) -> list[Command]:
        return self.send(ev.LabelGiven(self.time, candidate(sample), BY, ended))

    def pause(self, kernel: Any, on: bool = True) -> list[Command]:
        return self.send(ev.KernelPaused(self.time, kernel, on, BY))

    def retire(self, oracle: int) -> list[Command]:
        return self.send(ev.OracleRetired(self.time, oracle))

    def change(self, **rules: Any) -> list[Command]:
        return self.send(ev.RulesChanged(self.time, replace(self.manager.rules, **rules)))

    def state(self, sample: int) -> State | None:
        return self.manager.state_of(sample)


def of(kind: type, orders: list[Command]) -> list[Any]:
    """The commands of one kind."""
    return [order for order in orders if isinstance(order, kind)]


def moves(orders: list[Command]) -> list[tuple[int, str]]:
    return [(move.sample, str(move.state)) for move in of(Move, orders)]
