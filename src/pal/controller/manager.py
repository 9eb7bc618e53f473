"""The manager: events in, commands out. It composes labelling, training and the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pal.controller import events as ev
from pal.controller.commands import (
    Command,
    Explore,
    Finish,
    FinishTraining,
    GrantCandidates,
    RankQueue,
    State,
)
from pal.controller.labelling import Labelling
from pal.controller.rules import Restored, Rules
from pal.controller.stop import Ending, Progress, Step, Verdict, judge
from pal.controller.training import Training

PATIENCE: Final = 60.0
"""Seconds to wait at the end for a last word: of the disk, of a trainer after its epoch."""

_GRANT_SHARE: Final = 8
"""A new grant is worth a message when it frees this share of the queue, an eighth."""


class Stage(StrEnum):
    """What a campaign does; in parallel all at the same time, in serial one after the other."""

    ALL = "running"
    EXPLORE = "exploring"
    LABEL = "labelling"
    TRAIN = "training"


@dataclass(frozen=True, slots=True)
class Counts:
    """Where the campaign stands; totals over all sessions."""

    samples: int
    uncertain: int
    proposed: int
    queued: int
    running: int
    returned: int
    labelled: int
    failed: int
    quarantined: int
    dropped: int
    epochs: int
    version: int


class Manager:
    """The campaign's decisions, as a state machine without clock and without I/O.

    Each event first changes what is known; then whatever follows from the new state is
    ordered. So no order depends on the way the state was reached, and none is forgotten.
    Time is that of the events and may begin anywhere; the first event begins the session.
    """

    def __init__(self, rules: Rules, restored: Restored | None = None) -> None:
        self.rules = rules
        self.restored = past = restored or Restored()
        self.labelling = Labelling(rules, past)
        resumed = not rules.serial and self.labelling.initial_done
        self.training = Training(rules, past, under_way=resumed)
        self.stage = Stage.LABEL if rules.serial else Stage.ALL
        self.ending: Ending | None = None
        self.finished = False
        self.exploring = False
        self.paused: set[ev.Pausable] = set()
        self.granted = past.proposed
        self.samples = past.samples
        self.uncertain = past.uncertain
        self.version = 0
        self._may_explore = False
        self._version_due = 0
        self._goal = past.proposed
        self._epochs: Counter[int] = Counter()
        self._most_epochs = 0
        self._start: float | None = None
        self.now = 0.0
        """Time of the newest event, in seconds."""
        self.most_oracles = rules.n_oracles
        """The most that the rules have had in this session."""
        self._quiet_since = 0.0
        self._handlers: dict[type, Callable[[Any], list[Command]]] = {
            ev.Tick: lambda event: [],
            ev.CandidatesProposed: self._on_candidates,
            ev.OracleReady: lambda e: self.labelling.oracle_ready(e.oracle, self.now),
            ev.OracleLost: lambda e: self.labelling.oracle_lost(e.oracle, e.failure, self.now),
            ev.OracleRetired: lambda e: self.labelling.retire(e.oracle),
            ev.LabelReturned: lambda e: self.labelling.label_returned(e.oracle, e.sample),
            ev.LabelFailed: lambda e: self.labelling.label_failed(
                e.oracle, e.sample, e.failure, self.now
            ),
            ev.LabelsDurable: self._on_durable,
            ev.TrainerReady: self._on_trainer_ready,
            ev.TrainerLost: self._on_trainer_lost,
            ev.EpochDone: self._on_epoch,
            ev.TrainingDone: self._on_training_done,
            ev.WeightsInstalled: self._on_weights,
            ev.Explored: self._on_explored,
            ev.QueueRanked: self._on_ranked,
            ev.StopRequested: self._on_stop_requested,
            ev.SampleDropped: lambda e: self.labelling.drop(e.sample, e.by),
            ev.SampleRequeued: lambda e: self.labelling.requeue(e.candidate, e.ended, e.by),
            ev.LabelGiven: lambda e: self.labelling.label_given(e.candidate, e.ended, e.by),
            ev.KernelPaused: self._on_paused,
            ev.RulesChanged: self._on_rules,
        }

    def handle(self, event: ev.Event) -> list[Command]:
        """Take one event in and answer with all that is now to be done, in order."""
        if self.finished:
            return []
        if self._start is None:
            self._start = self.now = self._quiet_since = event.time
        # Clocks of several senders may differ by a little; time never runs back.
        self.now = max(self.now, event.time)
        orders = self._handlers[type(event)](event)
        orders += self.labelling.kill_overdue(self.now)
        if self.ending is None:
            self._judge()
        return orders + (self._go_on() if self.ending is None else self._end())

    @property
    def elapsed(self) -> float:
        """Campaign time in seconds, over all sessions."""
        return (
            self.restored.elapsed + self.now - (self.now if self._start is None else self._start)
        )

    @property
    def epochs(self) -> int:
        """Epochs of the busiest trainer, over all sessions."""
        return self.restored.epochs + self._most_epochs

    @property
    def counts(self) -> Counts:
        """Where the campaign stands, in numbers."""
        ended = self.labelling.totals
        return Counts(
            samples=self.samples,
            uncertain=self.uncertain,
            proposed=self.labelling.proposed,
            queued=len(self.labelling.queue),
            running=len(self.labelling.oracles),
            returned=len(self.labelling.returned),
            labelled=ended[State.LABELLED],
            failed=ended[State.FAILED],
            quarantined=ended[State.QUARANTINED],
            dropped=ended[State.DROPPED],
            epochs=self.epochs,
            version=self.version,
        )

    @property
    def phase(self) -> str:
        """What the campaign is at, in a few words."""
        if self.finished:
            return "finished"
        if self.ending is not None:
            return str(self.ending.step)
        if self._start is None:
            return "starting"
        held = sorted(self.paused) + ["labelling"] * self.labelling.breaker.open
        if held:
            return f"{self._activity} ({', '.join(held)} paused)"
        return self._activity

    @property
    def _activity(self) -> str:
        if not self.labelling.initial_done:
            return "labelling initial samples"
        if self.stage is Stage.ALL and not self.exploring and "generator" not in self.paused:
            return "first training"
        return str(self.stage)

    @property
    def stop_reason(self) -> str:
        """Why the campaign ends; empty as long as it does not."""
        return self.ending.verdict.reason if self.ending else ""

    def state_of(self, sample: int) -> State | None:
        """Where a sample stands; None for one this session has not heard of."""
        return self.labelling.states.get(sample)

    # What events change ------------------------------------------------------------------

    def _on_candidates(self, event: ev.CandidatesProposed) -> list[Command]:
        refusal = ""
        if not self.rules.labelling:
            refusal = "labelling is off"
        elif self.ending is not None:
            refusal = "the campaign is ending"
        return self.labelling.propose(event.candidates, refusal)

    def _on_durable(self, event: ev.LabelsDurable) -> list[Command]:
        moves = self.labelling.labels_durable(event.samples)
        self.training.grow(move.sample for move in moves)
        return [*moves]

    def _on_trainer_ready(self, event: ev.TrainerReady) -> list[Command]:
        self.training.trainer_ready(event.trainer)
        return []

    def _on_trainer_lost(self, event: ev.TrainerLost) -> list[Command]:
        self.training.trainer_lost(event.trainer)
        return []

    def _on_epoch(self, event: ev.EpochDone) -> list[Command]:
        self._epochs[event.trainer] += 1
        self._most_epochs = max(self._most_epochs, self._epochs[event.trainer])
        return []

    def _on_training_done(self, event: ev.TrainingDone) -> list[Command]:
        if self.training.done(event.trainer, event.round):
            due = self.version + 1 if event.version is None else event.version
            self._version_due = max(self._version_due, due)
        return []

    def _on_weights(self, event: ev.WeightsInstalled) -> list[Command]:
        self.version = max(self.version, event.version)
        # Weights from before the initial labels do not count: those must be trained on first.
        self._may_explore |= event.trained and self.labelling.initial_done
        waiting = self.labelling.queue.rankable if self.rules.rerank else ()
        return [RankQueue(waiting)] if len(waiting) > 1 and self.ending is None else []

    def _on_explored(self, event: ev.Explored) -> list[Command]:
        self.samples += event.samples
        self.uncertain += event.uncertain
        if event.uncertain:
            self._quiet_since = self.now
        return []

    def _on_ranked(self, event: ev.QueueRanked) -> list[Command]:
        return self.labelling.rank(event) if self.ending is None else []

    def _on_stop_requested(self, event: ev.StopRequested) -> list[Command]:
        ending = self.ending
        if ending is None:
            self._stop(Verdict(event.reason, continued=event.continued))
        elif not event.patient:
            if ending.verdict.continued and not event.continued:
                ending.replace(Verdict(event.reason))
            ending.hurry(self.now)
        elif event.continued and not ending.verdict.continued:
            ending.hurry(self.now)  # a campaign at its end has no time for a final training
        return []

    def _on_paused(self, event: ev.KernelPaused) -> list[Command]:
        kernel = event.kernel
        if event.on:
            self.paused.add(kernel)
        else:
            self.paused.discard(kernel)
        if kernel == "oracle" and not event.on:
            self.labelling.breaker.close()
        if kernel != "training" or self.ending is not None:
            return []
        if event.on:
            return [FinishTraining(trainer) for trainer in self.training.busy]
        return [] if self.rules.serial else self.training.resume()

    def _on_rules(self, event: ev.RulesChanged) -> list[Command]:
        self.most_oracles = max(self.most_oracles, event.rules.n_oracles)
        self.rules = self.training.rules = event.rules
        self.labelling.govern(event.rules)
        return []

    # What follows while the campaign runs -------------------------------------------------

    def _judge(self) -> None:
        idle = self.labelling.idle
        if not (self.exploring and idle):
            self._quiet_since = self.now
        progress = Progress(
            elapsed=self.elapsed,
            labels=self.labelling.labelled,
            epochs=self.epochs,
            samples=self.samples,
            quiet=self.now - self._quiet_since,
            failures=self.labelling.breaker.in_a_row,
            last_failure=self.labelling.last_failure,
            barren=idle and self._initial_labels_missing(),
        )
        verdict = judge(self.rules, progress)
        if verdict is not None:
            self._stop(verdict)

    def _initial_labels_missing(self) -> bool:
        done = self._initial_training and self.labelling.initial_done
        return done and not self.labelling.labelled

    @property
    def _initial_training(self) -> bool:
        """Whether the committee is to learn initial labels before walkers start."""
        return self.rules.labelling and self.rules.training and self.rules.initial_labels > 0

    def _stop(self, verdict: Verdict) -> None:
        self.ending = Ending(verdict, until=self.now + self.rules.grace)

    def _go_on(self) -> list[Command]:
        orders = self._turn() if self.rules.serial else self._teach()
        orders += self._explore(self._exploration_wanted())
        if self.labelling_on:
            orders += self.labelling.start(self.now)
        return orders + self._grant()

    @property
    def labelling_on(self) -> bool:
        """Whether labels may be started, as far as stage and operator decide."""
        return self.stage in (Stage.ALL, Stage.LABEL) and "oracle" not in self.paused

    def _exploration_wanted(self) -> bool:
        if "generator" in self.paused:
            return False
        if self.rules.serial:
            return self.stage is Stage.EXPLORE
        return self.labelling.initial_done and (self._may_explore or not self._initial_training)

    def _explore(self, on: bool) -> list[Command]:
        if on == self.exploring:
            return []
        self.exploring = on
        return [Explore(on)]

    def _teach(self) -> list[Command]:
        if not (self.rules.training and self.labelling.initial_done) or "training" in self.paused:
            return []
        if self.training.due(first=self.rules.initial_labels > 0):
            return self.training.begin_round()
        return self.training.catch_up()

    def _grant(self) -> list[Command]:
        if not self.rules.labelling or self.stage in (Stage.LABEL, Stage.TRAIN):
            return []
        proposed, queue = self.labelling.proposed, self.labelling.queue
        total = self._goal if self.rules.serial else proposed + queue.room
        used_up = self.granted <= proposed
        if total <= self.granted:
            return []
        if not used_up and total - self.granted < max(1, queue.capacity // _GRANT_SHARE):
            return []
        self.granted = total
        return [GrantCandidates(total)]

    # The serial loop: explore, label, train, explore ---------------------------------------

    def _turn(self) -> list[Command]:
        orders: list[Command] = []
        while (stage := self._next_stage()) is not self.stage:
            self.stage = stage
            if stage is Stage.EXPLORE:
                size = min(self.rules.retrain_size, self.rules.queue_capacity)
                self._goal = self.labelling.proposed + size
        if self.stage is Stage.TRAIN and "training" not in self.paused:
            orders += self.training.begin_round() if self.training.untaught else []
            orders += self.training.catch_up()
        return orders

    def _next_stage(self) -> Stage:
        if self.stage is Stage.EXPLORE and self.labelling.proposed >= self._goal:
            return Stage.LABEL
        if self.stage is Stage.LABEL and self.labelling.idle and self.labelling.initial_done:
            return Stage.TRAIN if self.training.untaught else Stage.EXPLORE
        if self.stage is Stage.TRAIN and self._round_learnt():
            return Stage.EXPLORE
        return self.stage

    def _round_learnt(self) -> bool:
        learnt = self.training.round_done and not self.training.untaught
        return learnt and self.version >= self._version_due

    # The end: labels, final training, last weights ----------------------------------------

    def _end(self) -> list[Command]:
        ending = self.ending
        assert ending is not None
        orders = self._explore(False)
        if ending.step is Step.LABELS:
            orders += self._finish_labels(ending)
        if ending.step is Step.TRAINING:
            orders += self._finish_training(ending)
        if ending.step is Step.WEIGHTS and (not self.training.busy or self.now >= ending.until):
            self.finished = True
            verdict = ending.verdict
            orders.append(Finish(verdict.reason, verdict.failed, verdict.continued))
        return orders

    def _finish_labels(self, ending: Ending) -> list[Command]:
        if len(self.labelling.oracles) and self.now < ending.until:
            return []
        orders = self.labelling.recall()
        if self.labelling.returned and self.now < ending.until + PATIENCE:
            return orders
        trains = ending.trains and "training" not in self.paused
        time = self.rules.final_training if trains else 0.0
        ending.enter(Step.TRAINING, self.now + time)
        if time and self.rules.training and self.training.untaught:
            orders += self.training.begin_round()
        return orders

    def _finish_training(self, ending: Ending) -> list[Command]:
        if self.training.busy and self.now < ending.until:
            return []
        ending.enter(Step.WEIGHTS, self.now + PATIENCE)
        return [FinishTraining(trainer) for trainer in self.training.busy]
