"""A session: one `pal run` of a campaign. Carries events to the manager and commands from it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pal import __version__
from pal.controller import events as ev
from pal.controller.commands import Finish
from pal.controller.manager import Manager
from pal.errors import Failure, KernelError, LedgerError, WorkerError
from pal.ledger import entries
from pal.ledger.directory import RunDirectory, write_atomically
from pal.records import Sample
from pal.runtime import messages as msg
from pal.runtime.agent import Agent, Died, Left, News, Said, Worker
from pal.runtime.books import Books
from pal.runtime.carrier import Carrier
from pal.runtime.ending import outcome_of
from pal.runtime.gauges import Gauges
from pal.runtime.happenings import Happening, Note, Outcome
from pal.runtime.interrupts import WALLTIME, Interrupts
from pal.runtime.orders import Job
from pal.runtime.placement import Placement, place, specs
from pal.runtime.releases import Releases
from pal.runtime.roads import Roads
from pal.runtime.rules import restored_of, rules_of
from pal.runtime.walltime import Walltime
from pal.runtime.worker import clear
from pal.settings import Settings, dump

TICK = 1.0
HASTE = 10.0
"""Seconds after which trainers are not waited for when a batch system ends the job."""


class Session:
    """Runs a campaign in a claimed directory until it ends.

    Iterate over `run()`; it yields what happens, about once a second, and sets `outcome`.
    """

    def __init__(
        self,
        settings: Settings,
        directory: RunDirectory,
        paths: tuple[str, ...],
        home: Path | None = None,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.paths = paths
        self.home = home
        self.outcome: Outcome | None = None
        self.kernels = specs(settings, paths)
        self.placement: Placement = place(settings, directory.path, self.kernels, home)
        self.roads = Roads(self.placement.jobs, settings.exchange.slot_size)
        self.agent = Agent(self.roads, settings.restart.budget, settings.restart.delay)
        self.releases = Releases(self.agent, directory.models, settings.model.members)
        try:
            self.releases.restore(settings.model.weights)
            self._books = Books(directory.path)
        except BaseException:
            self.roads.close()
            raise
        self._carrier = Carrier(self.agent, self._books, self.releases, lambda: self.clock)
        self._gauges = Gauges(self.placement.jobs, self.roads, self._books.last)
        self._interrupts = Interrupts()
        self._walltime = Walltime(settings.oracle.grace + settings.stop.before_end)
        self._hurry_at = float("inf")
        self._manager: Manager | None = None
        self._held: list[News] = []
        self._lost: set[int] = set()
        self._identities = itertools.count(self._books.past.next_sample)
        self._losses: dict[int, float] = {}
        self._told: list[Happening] = []
        self._start = time.monotonic()
        self._tick_at = 0.0
        self._metric_at = 0.0
        self._hearers: dict[type, Callable[[Worker, Any], None]] = {
            msg.Ready: self._welcome,
            msg.Proposal: self._on_proposal,
            msg.LabelDone: self._on_label,
            msg.LabelRefused: self._on_refusal,
            msg.Epoch: self._on_epoch,
            msg.NewWeights: self._on_weights,
            msg.RoundDone: self._on_round_done,
            msg.Installed: self._on_installed,
            msg.Ranked: self._on_ranked,
            msg.StopAsked: lambda _, message: self.request_stop(message.reason, patient=True),
            msg.Failed: self._on_failed,
        }

    @property
    def clock(self) -> float:
        """Campaign time in seconds: that of all sessions, without the pauses between them."""
        return self._books.past.elapsed + time.monotonic() - self._start

    # The loop ------------------------------------------------------------------------------

    def run(self) -> Iterator[Happening]:
        """Run until the campaign ends, and yield what happens."""
        with self._interrupts:
            try:
                self._open()
                yield from self._loop()
            except LedgerError as error:
                self.outcome = Outcome(str(error), True, error)
            finally:
                self._close()
            yield from self._tell()

    def _open(self) -> None:
        for folder in (self.directory.logs, self.directory.states, self.directory.requests):
            folder.mkdir(exist_ok=True)
        settings = json.dumps(dump(self.settings))
        self._books.record(
            entries.SessionStarted(
                self.clock, time.time(), socket.gethostname(), os.getpid(), __version__, settings
            )
        )
        clear(self.directory.scratch)  # what a killed session left
        self.agent.open()
        self.agent.watch(self._books.fd, self._take_durable)
        self.agent.watch(self._interrupts.fd, self._take_signals)
        for job in self.placement.jobs:
            self.agent.start(job)
        initial = "initial" in self.kernels and not self._books.past.next_sample
        if initial and self.settings.oracle.enabled:
            where, seed = self.directory.path, self.settings.seed
            self.agent.start(Job("sampler", 0, self.kernels, where, seed, self.home))
        else:
            self._direct(())

    def _loop(self) -> Iterator[Happening]:
        while self._carrier.finish is None and self.outcome is None:
            wait = self._tick_at - time.monotonic()
            for news in self.agent.poll(max(0.0, wait)):
                self._hear(news)
            self._tick()
            yield from self._tell()
        if self._carrier.finish is not None:
            self.outcome = outcome_of(self._carrier.finish, self._manager, self._hurried)

    def _tell(self) -> Iterator[Happening]:
        told, self._told = self._told, []
        yield from told

    def _tick(self) -> None:
        """Once a second: time, exploration, requests of the operator, a snapshot."""
        if self._books.error is not None:
            self._end(Outcome(str(self._books.error), True, self._books.error))
            return
        if time.monotonic() < self._tick_at:
            return
        self._tick_at = time.monotonic() + TICK
        self._read_requests()
        if self._walltime.due(time.time()):
            self._drain(self._walltime.reason)
        if self._manager is None:
            return
        if time.monotonic() >= self._hurry_at:
            self._feed(ev.StopRequested(self.clock, "", continued=True))
        samples, uncertain = self._gauges.explored()
        self._feed(ev.Explored(self.clock, samples, uncertain))
        self._feed(ev.Tick(self.clock))
        self.releases.catch_up()
        # Hosts decide without a lock whether to ring; should two ever miss each other, this helps.
        self.roads.bells["exchange", 0].ring()
        self._take_snapshot()

    def _take_snapshot(self, final: bool = False) -> None:
        assert self._manager is not None
        loss = sum(self._losses.values()) / len(self._losses) if self._losses else None
        restarts = sum(worker.restarts for worker in self.agent.workers.values())
        snapshot = self._gauges.read(
            self._manager, self.clock, loss, self.releases.version, restarts
        )
        self._told.append(snapshot)
        # A thousandth of the campaign's age between two: a week takes some ten thousand.
        if final or snapshot.time >= self._metric_at:
            self._metric_at = snapshot.time * 1.001 + 0.9 * TICK
            self._books.record(entries.Metric(snapshot.time, snapshot.as_dict()))
        status = {"pid": os.getpid(), "host": socket.gethostname(), **snapshot.as_dict()}
        write_atomically(self.directory.status, json.dumps(status).encode())

    def _read_requests(self) -> None:
        for path in sorted(self.directory.requests.glob("*.json")):
            try:
                request = json.loads(path.read_text())
            except ValueError as error:
                request = {}
                self._say(f"request {path.name} cannot be read and is ignored: {error}", "warning")
            path.unlink()
            # One left over from a session that was killed is not meant for this one.
            if "stop" in request and request.get("pid", os.getpid()) == os.getpid():
                self.request_stop(str(request["stop"]))

    def request_stop(self, reason: str, patient: bool = False) -> None:
        """Ask for an orderly end; asking again, unless patient, makes it hurry."""
        if self._manager is None:
            self._end(Outcome(reason))
            return
        if not (patient and self._manager.stop_reason):
            self._say(f"stopping: {reason}")
        self._feed(ev.StopRequested(self.clock, reason, patient))

    def _drain(self, reason: str) -> None:
        """End this session in good order, so that the next batch job can go on."""
        self._say(f"stopping, {reason}")
        if self._manager is None:
            self._end(outcome_of(Finish(reason, continued=True), None, True))
        else:
            self._feed(ev.StopRequested(self.clock, reason, patient=True, continued=True))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self.outcome or outcome

    def _say(self, text: str, level: str = "info") -> None:
        self._told.append(Note(text, level))

    # Events --------------------------------------------------------------------------------

    def _direct(self, initial: tuple[Sample, ...]) -> None:
        """Begin to be directed by a manager, once the initial samples are known."""
        count = len(initial) or self._books.initial
        self._manager = Manager(
            rules_of(self.settings, self.placement, count), restored_of(self._books.past)
        )
        self._feed(ev.Tick(self.clock))
        if initial:
            self._propose(msg.Proposal(initial, [-1] * count, [float("inf")] * count, 0))
        if self.releases.complete and not self.settings.model.train:
            self._feed(ev.WeightsInstalled(self.clock, self.releases.version, True))
        held, self._held = self._held, []
        for news in held:
            self._hear(news)

    def _feed(self, event: ev.Event) -> None:
        """Hand an event to the manager and carry out what it orders."""
        assert self._manager is not None
        for command in self._manager.handle(event):
            self._carrier.carry(command)

    def _hear(self, news: News) -> None:
        worker = news.worker
        if worker.job.role == "sampler":
            self._hear_sampler(news)
        elif isinstance(news, Died) and _cannot_start(news):
            self._report(news.failure)
            error = KernelError(f"{worker.job.name} cannot start: {news.failure.message}")
            self._end(Outcome(str(error), True, error))
        elif self._manager is None:
            self._held.append(news)
        elif isinstance(news, Said):
            self._hear_message(worker, news.message)
        elif isinstance(news, Died):
            self._hear_death(news)

    def _hear_sampler(self, news: News) -> None:
        if self._manager is not None:
            return  # it has done its work, and may have been killed after it
        if isinstance(news, Said) and isinstance(news.message, msg.Proposal):
            self._direct(tuple(news.message.samples))
        elif isinstance(news, Died):
            self._report(news.failure)
            if news.failure.kind == "crash" and not news.given_up:
                return  # it starts again
            error = WorkerError(f"the initial samples could not be made: {news.failure.message}")
            self._end(Outcome(str(error), True, error))
        elif isinstance(news, Left):
            self._direct(())

    def _hear_message(self, worker: Worker, message: Any) -> None:
        self._hearers[type(message)](worker, message)

    def _on_proposal(self, _: Worker, message: msg.Proposal) -> None:
        self._carrier.received(len(message.samples))
        self._propose(message)

    def _on_label(self, worker: Worker, message: msg.LabelDone) -> None:
        index = worker.job.index
        self._carrier.answered(index, message)
        self._feed(ev.LabelReturned(self.clock, index, message.identity))
        self._carrier.unwanted(message.identity)

    def _on_refusal(self, worker: Worker, message: msg.LabelRefused) -> None:
        index = worker.job.index
        self._carrier.idle(index)
        self._report(message.failure)
        self._feed(ev.LabelFailed(self.clock, index, message.identity, message.failure))

    def _on_epoch(self, worker: Worker, message: msg.Epoch) -> None:
        self._losses[worker.job.index] = _mean_loss(message)
        self._feed(ev.EpochDone(self.clock, worker.job.index))

    def _on_weights(self, worker: Worker, message: msg.NewWeights) -> None:
        self.releases.release(message.members, self._carrier.taught(worker.job.index))

    def _on_round_done(self, worker: Worker, message: msg.RoundDone) -> None:
        self.releases.store()
        version = self.releases.version
        self._feed(ev.TrainingDone(self.clock, worker.job.index, message.round, version))

    def _on_installed(self, worker: Worker, message: msg.Installed) -> None:
        self.releases.announce(self._carrier.worker("exchange"), worker)
        complete = self.releases.complete
        self._feed(ev.WeightsInstalled(self.clock, message.version, complete))

    def _on_ranked(self, _: Worker, message: msg.Ranked) -> None:
        ranked, order = tuple(message.identities), tuple(message.order)
        self._feed(ev.QueueRanked(self.clock, ranked, order, dict(message.uncertainty)))

    def _on_failed(self, _: Worker, message: msg.Failed) -> None:
        self._report(message.failure)
        if message.failure.kind == "GivenUp":
            self._lose((message.failure.index,), message.failure)

    def _lose(self, walkers: Iterable[int], failure: Failure) -> None:
        """Note walkers that were given up; end the campaign when none is left to explore."""
        self._lost.update(walkers)
        if len(self._lost) == self.settings.generator.walkers:
            error = WorkerError(f"every walker was given up; the last one: {failure}")
            self._end(Outcome(str(error), True, error))

    def _welcome(self, worker: Worker, message: msg.Ready) -> None:
        """Bring a worker that has just come up, first or again, to where the campaign is."""
        now, index = self.clock, worker.job.index
        self._lost.difference_update(worker.job.walkers)
        if worker.job.role == "oracle":
            self._feed(ev.OracleReady(now, index))
        elif worker.job.role == "trainer":
            self._carrier.welcome_trainer(index)
            self._feed(ev.TrainerReady(now, index))
        elif worker.job.role == "predictor":
            self.releases.install(worker)
        elif worker.job.role == "exchange":
            self._carrier.welcome_exchange(worker, message.hears_labels)

    def _hear_death(self, news: Died) -> None:
        worker, failure = news.worker, news.failure
        index = worker.job.index
        if worker.job.role == "oracle":
            failure = self._carrier.with_sample(index, failure)
            if failure.sample is not None:
                worker.budget.forgive()
                for scratch in self.directory.scratch.glob(f"{failure.sample}-*"):
                    clear(scratch)
            self._feed(ev.OracleLost(self.clock, index, failure))
        elif worker.job.role == "trainer":
            self._feed(ev.TrainerLost(self.clock, index, failure))
        self._report(failure)
        if news.given_up:
            self._given_up(worker, failure)

    def _given_up(self, worker: Worker, failure: Failure) -> None:
        """End the campaign unless others of the same role can go on without this worker."""
        role = worker.job.role
        if role == "generator":
            self._lose(worker.job.walkers, failure)
        others = [
            w
            for w in self.agent.workers.values()
            if w.job.role == role and (w.alive or w.restart_at is not None)
        ]
        text = f"{worker.job.name} died {worker.restarts + 1} times and is given up"
        # Hosts that died in the same moment, of which nobody has told yet, are not alive either.
        exploring = role == "generator" and len(self._lost) < self.settings.generator.walkers
        if exploring or (role == "oracle" and others):
            self._say(f"{text}; {len(others)} others go on", "warning")
            return
        error = WorkerError(f"{text}. Last failure: {failure}")
        self._end(Outcome(f"{text}: {failure.kind}: {failure.message}", True, error))

    def _report(self, failure: Failure) -> None:
        self._told.append(failure)
        self._books.record(entries.FailureEntry(self.clock, failure))

    def _propose(self, proposal: msg.Proposal) -> None:
        """Number proposed samples, write them down and offer them to the manager."""
        candidates = []
        for sample, walker, uncertainty in zip(
            proposal.samples, proposal.walkers, proposal.uncertainty, strict=True
        ):
            identity = next(self._identities)
            candidate = ev.Candidate(identity, walker, proposal.version, uncertainty)
            self._books.candidate(self.clock, candidate, sample)
            candidates.append(candidate)
        self._feed(ev.CandidatesProposed(self.clock, tuple(candidates)))

    # Disk, signals, and the end ----------------------------------------------------------

    def _take_durable(self) -> None:
        for samples in self._books.durable():
            # First to the selector: it judges by models that have not learnt these labels.
            self._carrier.show(samples)
            self._feed(ev.LabelsDurable(self.clock, samples))

    def _take_signals(self) -> None:
        for name in self._interrupts.take():
            if name == WALLTIME:
                self._drain(f"to be continued: {name} says that the batch job ends soon")
            elif self._interrupts.count > 1:
                reason = f"{name} twice: stopped at once"
                self._end(Outcome(reason, error=KeyboardInterrupt(reason)))
            elif name == "SIGTERM" and self._walltime.job is not None:
                self._obey_scheduler(name)
            else:
                self.request_stop(f"{name} received")
                self._say("finishing labels and training; press Ctrl-C again to stop at once")

    def _obey_scheduler(self, name: str) -> None:
        """End within the half a minute that batch systems give: running labels are requeued."""
        reason, over = f"{name} received from the batch system", self._walltime.over(time.time())
        self._say(f"stopping at once: {reason}")
        self._hurry_at = time.monotonic() + HASTE
        if self._manager is None:
            self._end(Outcome(reason, hasty=True))
            return
        for _ in range(2):
            self._feed(ev.StopRequested(self.clock, reason, continued=over))

    @property
    def _hurried(self) -> bool:
        """Whether the batch system is about to kill this job."""
        return self._hurry_at < float("inf")

    def _close(self) -> None:
        """End all workers; put on the disk all that is known."""
        books = self._books
        try:
            if self._manager is not None and books.error is None:
                self._take_snapshot(final=True)
        except LedgerError as error:
            books.error, self.outcome = error, Outcome(str(error), True, error)
        hurried = self._interrupts.count > 1 or books.error is not None
        patience = HASTE if self._hurried else 20.0
        self._carrier.kill_working()
        for news in self.agent.close(patience=1.0 if hurried else patience):
            self._keep(news)
        outcome = self.outcome or Outcome("interrupted by an error", True)
        try:
            if books.error is None:
                self.releases.store()
                books.record(entries.SessionEnded(self.clock, outcome.reason))
            books.close()
        except LedgerError as error:
            self.outcome = Outcome(str(error), True, error)
        finally:
            self.roads.close()

    def _keep(self, news: News) -> None:
        """Of what workers still said while they ended, keep labels and weights."""
        if not isinstance(news, Said):
            return
        message, index = news.message, news.worker.job.index
        if isinstance(message, msg.LabelDone):
            with contextlib.suppress(LedgerError):
                self._books.label(self.clock, message, index)
        elif isinstance(message, msg.NewWeights):
            self.releases.release(message.members, self._carrier.taught(index))


def _mean_loss(message: msg.Epoch) -> float:
    losses = [float(metrics.get("loss", float("nan"))) for metrics in message.metrics]
    return sum(losses) / len(losses)


def _cannot_start(news: Died) -> bool:
    """Whether the kernel itself says that no restart would help."""
    wrong = news.failure.kind in ("KernelImportError", "ContractError")
    return wrong and not news.worker.was_ready
