"""A session: one `pal run` of a campaign. Carries events to the manager and commands from it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pal import __version__
from pal.controller import commands as cmd
from pal.controller import events as ev
from pal.controller.manager import Manager
from pal.errors import Failure, KernelError, LedgerError, WorkerError
from pal.ledger import entries
from pal.ledger.directory import RunDirectory, write_atomically
from pal.ledger.ledger import Ledger
from pal.ledger.restore import Restored, restore
from pal.ledger.writer import LedgerWriter
from pal.monitor.metrics import Snapshot
from pal.records import LabelledSample, Sample
from pal.runtime import messages as msg
from pal.runtime.agent import Agent, Died, Left, News, Said, Worker
from pal.runtime.gauges import Gauges
from pal.runtime.orders import Job
from pal.runtime.placement import Placement, place, specs
from pal.runtime.releases import Releases
from pal.runtime.roads import Roads
from pal.runtime.rules import restored_of, rules_of
from pal.runtime.worker import clear
from pal.settings import Settings, dump
from pal.transport.doorbell import create_doorbell

TICK = 1.0


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line on the screen."""

    text: str
    level: str = "info"


Happening: TypeAlias = Snapshot | Failure | Note
"""What a campaign tells while it runs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended."""

    reason: str
    failed: bool = False
    error: BaseException | None = None


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
        with contextlib.ExitStack() as undo:
            self._ledger = undo.enter_context(Ledger.open(directory.path))
            self._begin(undo)
            undo.pop_all()

    def _begin(self, undo: contextlib.ExitStack) -> None:
        """Build all parts; should one fail, `undo` closes those before it."""
        settings, directory = self.settings, self.directory
        self.past: Restored = restore(self._ledger)
        self._initial_before = sum(row.candidate.walker < 0 for row in self._ledger.states())
        self.kernels = specs(settings, self.paths)
        self.placement: Placement = place(settings, directory.path, self.kernels, self.home)
        self.roads = Roads(self.placement.jobs, settings.exchange.slot_size)
        undo.callback(self.roads.close)
        self.agent = Agent(self.roads, settings.restart.budget, settings.restart.delay)
        self.releases = Releases(self.agent, directory.models, settings.model.members)
        self.releases.restore(settings.model.weights)
        self._gauges = Gauges(self.placement.jobs, self.roads, self._past_snapshot())
        self._durable_bell = create_doorbell()
        self._durable: deque[tuple[int, ...]] = deque()
        self._disk_error: LedgerError | None = None
        self._reader = Ledger.open_readonly(directory.path)
        self._writer = LedgerWriter(self._ledger, self._on_durable, self._on_disk_error)
        self._manager: Manager | None = None
        self._held: list[News] = []
        self._samples: dict[int, Sample] = {}
        self._answers: dict[int, tuple[msg.LabelDone, int]] = {}
        self._working: dict[int, int] = {}
        self._lost: set[int] = set()
        self._identities = itertools.count(self.past.next_sample)
        self._total = self.past.proposed
        self._received = 0
        self._received_before = 0
        self._exploring = False
        self._taught: dict[int, int] = {}
        self._losses: dict[int, float] = {}
        self._told: list[Happening] = []
        self._interrupts = 0
        self._finish: cmd.Finish | None = None
        self._start = time.monotonic()
        self._tick_at = 0.0
        self._metric_at = 0.0
        self._hearers: dict[type, Callable[[Worker, Any], None]] = {
            msg.Ready: lambda worker, _: self._welcome(worker),
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
        self._carriers: dict[type, Callable[[Any], None]] = {
            cmd.Move: self._move,
            cmd.StartLabel: self._start_label,
            cmd.CommitLabel: self._commit_label,
            cmd.KillOracle: lambda c: self.agent.kill(
                self._worker("oracle", c.oracle), "deadline", c.reason
            ),
            cmd.Teach: self._teach,
            cmd.FinishTraining: lambda c: self.agent.send(
                self._worker("trainer", c.trainer), msg.EndRound()
            ),
            cmd.Explore: self._explore,
            cmd.GrantCandidates: self._grant,
            cmd.RankQueue: self._rank,
            cmd.Finish: self._note_finish,
        }

    def _past_snapshot(self) -> Snapshot:
        last = self._ledger.last_metric()
        return Snapshot(**last.values) if last else Snapshot(time=0.0)

    @property
    def clock(self) -> float:
        """Campaign time in seconds: that of all sessions, without the pauses between them."""
        return self.past.elapsed + time.monotonic() - self._start

    # The loop ------------------------------------------------------------------------------

    def run(self) -> Iterator[Happening]:
        """Run until the campaign ends, and yield what happens."""
        with self._signals():
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
        self._record(
            entries.SessionStarted(
                self.clock, time.time(), socket.gethostname(), os.getpid(), __version__, settings
            )
        )
        clear(self.directory.scratch)  # what a killed session left
        self.agent.open()
        self.agent.watch(self._durable_bell.fds[0], self._take_durable)
        self.agent.watch(self._wakeup, self._take_signal)
        for job in self.placement.jobs:
            self.agent.start(job)
        initial = "initial" in self.kernels and not self.past.next_sample
        if initial and self.settings.oracle.enabled:
            where, seed = self.directory.path, self.settings.seed
            self.agent.start(Job("sampler", 0, self.kernels, where, seed, self.home))
        else:
            self._direct(())

    def _loop(self) -> Iterator[Happening]:
        while self._finish is None and self.outcome is None:
            wait = self._tick_at - time.monotonic()
            for news in self.agent.poll(max(0.0, wait)):
                self._hear(news)
            self._tick()
            yield from self._tell()
        if self._finish is not None:
            self.outcome = Outcome(self._finish.reason, self._finish.failed)

    def _tell(self) -> Iterator[Happening]:
        told, self._told = self._told, []
        yield from told

    def _tick(self) -> None:
        """Once a second: time, exploration, requests of the operator, a snapshot."""
        if self._disk_error is not None:
            self._end(Outcome(str(self._disk_error), True, self._disk_error))
            return
        if time.monotonic() < self._tick_at:
            return
        self._tick_at = time.monotonic() + TICK
        self._read_requests()
        if self._manager is None:
            return
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
            self._record(entries.Metric(snapshot.time, snapshot.as_dict()))
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

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self.outcome or outcome

    def _say(self, text: str, level: str = "info") -> None:
        self._told.append(Note(text, level))

    # Events --------------------------------------------------------------------------------

    def _direct(self, initial: tuple[Sample, ...]) -> None:
        """Begin to be directed by a manager, once the initial samples are known."""
        count = len(initial) or self._initial_before
        self._manager = Manager(
            rules_of(self.settings, self.placement, count), restored_of(self.past)
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
            self._carriers[type(command)](command)

    def _hear(self, news: News) -> None:
        worker = news.worker
        if worker.job.role == "sampler":
            self._hear_sampler(news)
        elif self._manager is None:
            self._held.append(news)
        elif isinstance(news, Said):
            self._hear_message(worker, news.message)
        elif isinstance(news, Died):
            self._hear_death(news)

    def _hear_sampler(self, news: News) -> None:
        if isinstance(news, Said) and isinstance(news.message, msg.Proposal):
            self._direct(tuple(news.message.samples))
        elif isinstance(news, Died):
            self._report(news.failure)
            error = WorkerError(f"the initial samples could not be made: {news.failure.message}")
            self._end(Outcome(str(error), True, error))
        elif isinstance(news, Left) and self._manager is None:
            self._direct(())

    def _hear_message(self, worker: Worker, message: Any) -> None:
        self._hearers[type(message)](worker, message)

    def _on_proposal(self, _: Worker, message: msg.Proposal) -> None:
        self._received += len(message.samples)
        self._propose(message)

    def _on_label(self, worker: Worker, message: msg.LabelDone) -> None:
        index = worker.job.index
        self._answers[message.identity] = (message, index)
        self._feed(ev.LabelReturned(self.clock, index, message.identity))
        self._answers.pop(message.identity, None)

    def _on_refusal(self, worker: Worker, message: msg.LabelRefused) -> None:
        index = worker.job.index
        self._working.pop(index, None)
        self._report(message.failure)
        self._feed(ev.LabelFailed(self.clock, index, message.identity, message.failure))

    def _on_epoch(self, worker: Worker, message: msg.Epoch) -> None:
        self._losses[worker.job.index] = _mean_loss(message)
        self._feed(ev.EpochDone(self.clock, worker.job.index))

    def _on_weights(self, worker: Worker, message: msg.NewWeights) -> None:
        self.releases.release(message.members, self._taught.get(worker.job.index, 0))

    def _on_round_done(self, worker: Worker, message: msg.RoundDone) -> None:
        self.releases.store()
        version = self.releases.version
        self._feed(ev.TrainingDone(self.clock, worker.job.index, message.round, version))

    def _on_installed(self, worker: Worker, message: msg.Installed) -> None:
        self.releases.announce(self._worker("exchange", 0), worker)
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

    def _welcome(self, worker: Worker) -> None:
        """Bring a worker that has just come up, first or again, to where the campaign is."""
        now, index = self.clock, worker.job.index
        self._lost.difference_update(worker.job.walkers)
        if worker.job.role == "oracle":
            self._feed(ev.OracleReady(now, index))
        elif worker.job.role == "trainer":
            self._taught[index] = 0
            self._feed(ev.TrainerReady(now, index))
        elif worker.job.role == "predictor":
            self.releases.install(worker)
        elif worker.job.role == "exchange":
            self._received_before = self._received
            self._send_grant()
            self.releases.install(worker)
            self.agent.send(worker, msg.SetExploring(self._exploring))

    def _hear_death(self, news: Died) -> None:
        worker, failure = news.worker, news.failure
        index = worker.job.index
        if worker.job.role == "oracle":
            sample = self._working.pop(index, None)
            failure = replace(failure, sample=sample)
            if sample is not None:
                worker.budget.forgive()
                for scratch in self.directory.scratch.glob(f"{sample}-*"):
                    clear(scratch)
            self._feed(ev.OracleLost(self.clock, index, failure))
        elif worker.job.role == "trainer":
            self._feed(ev.TrainerLost(self.clock, index, failure))
        self._report(failure)
        if news.given_up:
            self._given_up(worker, failure)
        elif failure.kind in ("KernelImportError", "ContractError") and not worker.was_ready:
            error = KernelError(f"{worker.job.name} cannot start: {failure.message}")
            self._end(Outcome(str(error), True, error))

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
        if role in ("generator", "oracle") and others:
            self._say(f"{text}; {len(others)} others go on", "warning")
            return
        error = WorkerError(f"{text}. Last failure: {failure}")
        self._end(Outcome(f"{text}: {failure.kind}: {failure.message}", True, error))

    def _report(self, failure: Failure) -> None:
        self._told.append(failure)
        self._record(entries.FailureEntry(self.clock, failure))

    def _propose(self, proposal: msg.Proposal) -> None:
        """Number proposed samples, write them down and offer them to the manager."""
        candidates = []
        for sample, walker, uncertainty in zip(
            proposal.samples, proposal.walkers, proposal.uncertainty, strict=True
        ):
            identity = next(self._identities)
            candidate = ev.Candidate(identity, walker, proposal.version, uncertainty)
            self._samples[identity] = sample
            self._record(entries.NewSample(self.clock, candidate, sample))
            candidates.append(candidate)
        self._feed(ev.CandidatesProposed(self.clock, tuple(candidates)))

    # Commands ------------------------------------------------------------------------------

    def _worker(self, role: str, index: int) -> Worker:
        return self.agent.workers[role, index]

    def _move(self, move: cmd.Move) -> None:
        if move.state not in (cmd.State.RUNNING, cmd.State.LABELLED):
            self._record(entries.StateChange(self.clock, move.sample, move.state, move.detail))
        if move.state in (
            cmd.State.LABELLED,
            cmd.State.FAILED,
            cmd.State.QUARANTINED,
            cmd.State.DROPPED,
        ):
            self._samples.pop(move.sample, None)

    def _start_label(self, order: cmd.StartLabel) -> None:
        sample = self._samples.get(order.sample)
        if sample is None:
            sample = self._samples[order.sample] = self._reader.sample(order.sample)
        self._working[order.oracle] = order.sample
        self._record(
            entries.StateChange(
                self.clock,
                order.sample,
                cmd.State.RUNNING,
                f"oracle {order.oracle}, attempt {order.attempt}",
                order.attempt,
            )
        )
        task = msg.LabelTask(order.sample, sample, order.attempt)
        self.agent.send(self._worker("oracle", order.oracle), task)

    def _commit_label(self, order: cmd.CommitLabel) -> None:
        answer, oracle = self._answers.pop(order.sample)
        if self._working.get(oracle) == order.sample:
            del self._working[oracle]
        self._record(
            entries.NewLabel(
                self.clock,
                order.sample,
                answer.label,
                oracle,
                socket.gethostname(),
                answer.seconds,
            )
        )

    def _teach(self, lesson: cmd.Teach) -> None:
        self.releases.store()
        add: list[LabelledSample] = list(self._reader.labelled(lesson.add)) if lesson.add else []
        self._taught[lesson.trainer] = self._taught.get(lesson.trainer, 0) + len(add)
        self.agent.send(
            self._worker("trainer", lesson.trainer),
            msg.Lesson(lesson.round, add, lesson.remove, lesson.fresh),
        )

    def _explore(self, order: cmd.Explore) -> None:
        self._exploring = order.on
        self.agent.send(self._worker("exchange", 0), msg.SetExploring(order.on))

    def _grant(self, order: cmd.GrantCandidates) -> None:
        self._total = order.total
        self._send_grant()

    def _send_grant(self) -> None:
        """Tell the exchange what it may propose, counted from its own start."""
        grant = self._total - self.past.proposed - self._received_before
        self.agent.send(self._worker("exchange", 0), msg.Grant(grant))

    def _rank(self, order: cmd.RankQueue) -> None:
        samples = [self._samples.get(i, None) for i in order.samples]
        full = [
            self._reader.sample(i) if s is None else s
            for i, s in zip(order.samples, samples, strict=True)
        ]
        self.agent.send(self._worker("exchange", 0), msg.RankSamples(order.samples, full))

    def _note_finish(self, order: cmd.Finish) -> None:
        self._finish = order

    # The ledger ----------------------------------------------------------------------------

    def _record(self, entry: entries.Entry) -> None:
        self._writer.put(entry)

    def _on_durable(self, committed: list[entries.Entry]) -> None:
        """Called by the writer's thread: what it has just put on the disk."""
        labels = tuple(e.sample for e in committed if isinstance(e, entries.NewLabel))
        if labels:
            self._durable.append(labels)
            self._durable_bell.ring()

    def _on_disk_error(self, error: LedgerError) -> None:
        self._disk_error = error
        self._durable_bell.ring()

    def _take_durable(self) -> None:
        self._durable_bell.wait()
        while self._durable:
            self._feed(ev.LabelsDurable(self.clock, self._durable.popleft()))

    # Signals and the end -------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as wishes to stop, while the session runs."""
        self._wakeup, writer = os.pipe()
        for fd in (self._wakeup, writer):
            os.set_blocking(fd, False)
        before: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread: somebody else has the signals
            for number in (signal.SIGINT, signal.SIGTERM):
                before[int(number)] = signal.signal(number, lambda *_: None)
            previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            if before:
                signal.set_wakeup_fd(previous)
            for restored, handler in before.items():
                signal.signal(restored, handler)
            os.close(self._wakeup)
            os.close(writer)

    def _take_signal(self) -> None:
        for number in os.read(self._wakeup, 64):
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            self._interrupts += 1
            name = signal.Signals(number).name
            if self._interrupts > 1:
                reason = f"{name} twice: stopped at once"
                self._end(Outcome(reason, error=KeyboardInterrupt(reason)))
            else:
                self.request_stop(f"{name} received")
                self._say("finishing labels and training; press Ctrl-C again to stop at once")

    def _close(self) -> None:
        """End all workers; put on the disk all that is known."""
        try:
            if self._manager is not None and self._disk_error is None:
                self._take_snapshot(final=True)
        except LedgerError as error:
            self._disk_error, self.outcome = error, Outcome(str(error), True, error)
        hurried = self._interrupts > 1 or self._disk_error is not None
        for oracle in self._working:  # their time is up: what they work on is queued again
            self.agent.kill(self._worker("oracle", oracle), "ended", "its label took too long")
        for news in self.agent.close(patience=1.0 if hurried else 20.0):
            self._keep(news)
        outcome = self.outcome or Outcome("interrupted by an error", True)
        try:
            if self._disk_error is None:
                self.releases.store()
                self._record(entries.SessionEnded(self.clock, outcome.reason))
            self._writer.close()
        except LedgerError as error:
            self.outcome = Outcome(str(error), True, error)
        finally:
            self._reader.close()
            self._ledger.close()
            self._durable_bell.close()
            self.roads.close()

    def _keep(self, news: News) -> None:
        """Of what workers still said while they ended, keep labels and weights."""
        if not isinstance(news, Said):
            return
        if isinstance(news.message, msg.LabelDone):
            done = news.message
            with contextlib.suppress(LedgerError):
                self._record(
                    entries.NewLabel(
                        self.clock,
                        done.identity,
                        done.label,
                        news.worker.job.index,
                        socket.gethostname(),
                        done.seconds,
                    )
                )
        elif isinstance(news.message, msg.NewWeights):
            index = news.worker.job.index
            self.releases.release(news.message.members, self._taught.get(index, 0))


def _mean_loss(message: msg.Epoch) -> float:
    losses = [float(metrics.get("loss", float("nan"))) for metrics in message.metrics]
    return sum(losses) / len(losses)
