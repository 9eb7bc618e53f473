"""One session of a campaign in virtual time: the real manager, and a world that obeys it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.manager import Manager
from pal.controller.rules import INITIAL, Rules
from pal.errors import Failure
from pal.ledger import entries
from pal.simulate.agenda import Agenda
from pal.simulate.broken import Broken
from pal.simulate.disk import ARRAY, Disk, Writer
from pal.simulate.faults import Fault, Faults
from pal.simulate.history import History
from pal.simulate.nodes import Nodes, Worker
from pal.simulate.operator import Operator
from pal.simulate.oracles import Oracles
from pal.simulate.scene import Scene, Site
from pal.simulate.shards import Shards
from pal.simulate.trainers import Trainers
from pal.simulate.witness import Witness

DOUBLED: Final = (
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

Plant: TypeAlias = "Callable[[World], None]"
"""Puts a defect into a session, before it begins."""


class World:
    """Plays one session against a manager until it finishes or is cut off."""

    def __init__(
        self,
        rules: Rules,
        site: Site,
        disk: Disk,
        faults: Faults,
        rng: random.Random,
        history: History,
        plant: Plant | None = None,
    ) -> None:
        past = disk.restore()
        # As for the runtime: of initial samples count those that were made and kept.
        made = disk.initial if disk.next_sample else site.initial * rules.labelling
        rules = replace(rules, initial_labels=min(rules.initial_labels, made))
        self.manager = Manager(rules, past)
        self.disk, self.history = disk, history
        self.agenda = Agenda(past.elapsed)
        self.finish: co.Finish | None = None
        self.events = 0
        nodes = Nodes(self.agenda, faults, rng, site.nodes, self._up, self._lost)
        self._scene = Scene(rules, self.agenda, rng, faults, nodes)
        self._faults, self._rng = faults, rng
        self.witness = Witness(rules, disk, past, history.sessions, site.initial)
        self.writer = Writer(disk, self.agenda, faults, rng, self.on_durable)
        self._next = disk.next_sample
        self.candidates = dict(disk.candidates)
        self._oracles = Oracles(self._scene)
        self.trainers = Trainers(self._scene, self._release)
        self.shards = Shards(self._scene, site.shards, past.proposed, self._offer, self._trained)
        self.shards.version = disk.version
        self._orders = self._carriers()
        if plant is not None:
            plant(self)
        Operator(self._scene, self._oracles, self.witness, self.candidates)
        self._tick_every = site.tick
        self._open(made if not disk.next_sample else 0)

    def _carriers(self) -> dict[type, Callable[[Any], None]]:
        """Who carries out which order."""
        return {
            co.Move: self._move,
            co.StartLabel: self._start_label,
            co.CommitLabel: self._commit_label,
            co.KillOracle: self._oracles.kill,
            co.RetireOracle: self._oracles.retire,
            co.Teach: self.trainers.teach,
            co.FinishTraining: self.trainers.finish,
            co.Explore: self.shards.explore,
            co.GrantCandidates: self.shards.grant,
            co.RankQueue: self.shards.rank,
            co.Tell: lambda order: None,
            co.Finish: self._finish,
        }

    def _open(self, initial: int) -> None:
        self.agenda.at(0.0, lambda: ev.Tick(self.agenda.time))
        if initial:
            self.agenda.at(0.0, lambda: self._offer([INITIAL] * initial))
        self.agenda.at(self._tick_every, self._tick)
        self.agenda.at(self._tick_every, self._report)

    # Time ----------------------------------------------------------------------------------

    def run(self, cut: int, until: float, in_commit: bool = False) -> None:
        """Play on until the end, or until `cut` events have passed.

        `in_commit`: go on from there until the ledger writes.

        Raises:
            Broken: an invariant does not hold, or no end has come `until` that time.
        """
        while self.finish is None:
            if self.events >= cut and not (in_commit and not self.writer.writes):
                return
            event = self.agenda.step()
            if event is not None:
                self._deliver(event)
                if type(event) in DOUBLED and self._faults.strikes(Fault.TWICE):
                    self._deliver(event)
            if self.agenda.time > until:
                state = f"{self.manager.phase}, {self.manager.counts}"
                raise Broken("progress", f"the campaign does not come to its end: {state}")

    def calm(self) -> None:
        """Let nothing go wrong any more."""
        self._faults.calm = True

    def stop(self, after: float, patient: bool, continued: bool) -> None:
        """Ask for the end after some time."""
        self.agenda.at(
            after, lambda: ev.StopRequested(self._scene.now(), "asked", patient, continued)
        )

    def _deliver(self, event: ev.Event) -> None:
        if self.finish is not None:
            return
        self.events += 1
        self.history.add(self.agenda.time, event)
        self.witness.hear(event)
        try:
            orders = self.manager.handle(event)
        except Exception as error:
            raise Broken("no exception", f"{type(error).__name__}: {error}") from error
        for order in orders:
            self.history.add(self.agenda.time, order)
            self.witness.see(order)
            self._orders[type(order)](order)
        self.witness.settle(self.manager, orders)

    def _tick(self) -> ev.Event:
        self.agenda.at(self._tick_every, self._tick)
        self.shards.level()
        self.shards.judge()
        return ev.Tick(self._scene.now())

    def _report(self) -> ev.Event:
        self.agenda.at(self._tick_every, self._report)
        shards, manager = self.shards, self.manager
        samples, uncertain = shards.samples, shards.uncertain
        shards.samples = shards.uncertain = 0
        values = {
            "samples": manager.samples + samples,
            "uncertain": manager.uncertain + uncertain,
            "epochs": manager.epochs,
        }
        self.writer.put(entries.Metric(self.agenda.time, values))
        return ev.Explored(self._scene.now(), samples, uncertain)

    # Orders --------------------------------------------------------------------------------

    def _move(self, move: co.Move) -> None:
        # These two are written with the attempt and with the label.
        if move.state not in (State.RUNNING, State.LABELLED):
            time = self.agenda.time
            self.writer.put(entries.StateChange(time, move.sample, move.state, move.detail))

    def _start_label(self, order: co.StartLabel) -> None:
        self.writer.put(
            entries.StateChange(self.agenda.time, order.sample, State.RUNNING, "", order.attempt)
        )
        self._oracles.start(order)

    def _commit_label(self, order: co.CommitLabel) -> None:
        self.writer.put(entries.NewLabel(self.agenda.time, order.sample, ARRAY, 0))

    def _finish(self, order: co.Finish) -> None:
        self.finish = order

    # What happens --------------------------------------------------------------------------

    def _up(self, worker: Worker) -> ev.Event | None:
        now = self._scene.now()
        if worker.role == "oracle":
            return ev.OracleReady(now, worker.index)
        if worker.role == "trainer":
            return ev.TrainerReady(now, worker.index)
        self.shards.welcome(worker)
        return None

    def _lost(self, worker: Worker, kind: str) -> ev.Event | None:
        now = self._scene.now()
        failure = Failure(worker.role, worker.index, kind, "gone")
        if worker.role == "oracle":
            return ev.OracleLost(now, worker.index, failure)
        if worker.role == "trainer":
            self.trainers.died(worker.index)
            return ev.TrainerLost(now, worker.index, failure)
        return self.shards.lost(worker)

    def _offer(self, walkers: Sequence[int]) -> ev.Event:
        time, version, random_ = self.agenda.time, self.shards.version, self._rng.random
        offered = tuple(
            ev.Candidate(self._next + place, walker, version, random_())
            for place, walker in enumerate(walkers)
        )
        self._next += len(walkers)
        for candidate in offered:
            self.candidates[candidate.sample] = candidate
            self.writer.put(entries.NewSample(time, candidate, ARRAY))
        return ev.CandidatesProposed(self._scene.now(), offered)

    def _trained(self) -> bool:
        return len(self.disk.trained) == len(self._scene.rules.trainers)

    def _release(self, trainer: int) -> int:
        self.disk.version += 1
        self.disk.trained.add(trainer)
        self.shards.release(self.disk.version)
        return self.disk.version

    def on_durable(self, samples: tuple[int, ...]) -> None:
        """Tell the manager what has reached the disk."""
        self.agenda.at(0.01, lambda: ev.LabelsDurable(self._scene.now(), samples))

    # The end -------------------------------------------------------------------------------

    def close(self) -> None:
        """End in good order: all that is known is written, and labels that still come."""
        self.writer.flush()
        self.witness.close(self.manager)
        for sample in self.witness.samples.recalled:
            if self._faults.strikes(Fault.LAST_WORD):
                self.writer.put(entries.NewLabel(self.agenda.time, sample, ARRAY, 0))
        self.writer.flush()

    def kill(self) -> None:
        """End by `kill -9`: what is not on the disk is lost."""
        self.writer.die()
