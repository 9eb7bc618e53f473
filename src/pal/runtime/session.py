"""A session: one `pal run` of a campaign. Carries events to the manager and commands from it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
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
from pal.runtime.agent import Died, Left, Said
from pal.runtime.books import Books
from pal.runtime.carrier import Carrier
from pal.runtime.cluster import Cluster, News, NodeLost, Signalled, Station
from pal.runtime.ending import outcome_of
from pal.runtime.gauges import Gauges
from pal.runtime.happenings import Happening, Note, Outcome
from pal.runtime.interrupts import WALLTIME, Interrupts
from pal.runtime.labels import clear
from pal.runtime.orders import Job
from pal.runtime.placement import Placement, place, specs
from pal.runtime.releases import Releases
from pal.runtime.rules import restored_of, rules_of
from pal.runtime.seats import Group
from pal.runtime.walltime import Walltime
from pal.runtime.worker import KERNEL_OF
from pal.settings import Settings, dump

TICK = 1.0
HASTE = 10.0
"""Seconds after which trainers are not waited for when a batch system ends the job."""

_LABELLING = ("oracle", "broker")


class Session:
    """Runs a campaign in a claimed directory until it ends.

    Iterate over `run()`; it yields what happens, about once a second, and sets `outcome`.
    """

    def __init__(
        self,
        settings: Settings,
        directory: RunDirectory,
        paths: tuple[str, ...],
        home: Path | None,
        cluster: Cluster,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.paths = paths
        self.home = home
        self.outcome: Outcome | None = None
        self.kernels = specs(settings, paths)
        self.cluster = cluster
        self.placement: Placement = place(
            settings, directory.path, self.kernels, home, cluster.machines
        )
        self.releases = Releases(cluster, directory.models, settings.model.members)
        self.releases.restore(settings.model.weights)
        self._books = Books(directory.path)
        self._carrier = Carrier(cluster, self._books, self.releases, lambda: self.clock)
        self._gauges = Gauges(self.placement.jobs, cluster.readings, self._books.last)
        self._interrupts = Interrupts()
        self._walltime = Walltime(settings.oracle.grace + settings.stop.before_end)
        self._hurry_at = float("inf")
        self._draining = False
        self._manager: Manager | None = None
        self._held: list[News] = []
        self._lost: set[int] = set()
        self._identities = itertools.count(self._books.past.next_sample)
        self._losses: dict[int, float] = {}
        self._told: list[Happening] = []
        self._start = time.monotonic()
        self._tick_at = 0.0
        self._metric_at = 0.0
        self._hearers: dict[type, Callable[[Station, Any], None]] = {
            msg.Ready: self._welcome,
            msg.Proposal: self._on_proposal,
            msg.LabelDone: self._on_label,
            msg.LabelRefused: self._on_refusal,
            msg.OracleFree: lambda _, m: self._feed(ev.OracleReady(self.clock, m.oracle)),
            msg.OracleDown: lambda _, m: self._report(self._lose_oracle(m.oracle, m.failure)),
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
        self.cluster.open()
        self.cluster.watch(self._books.fd, self._take_durable)
        self.cluster.watch(self._interrupts.fd, self._take_signals)
        self._present_nodes()
        for group in self.placement.groups:
            self.cluster.start(group)
        initial = "initial" in self.kernels and not self._books.past.next_sample
        if initial and self.settings.oracle.enabled:
            where, seed = self.directory.path, self.settings.seed
            sampler = Job("sampler", 0, self.kernels, where, seed, self.home)
            self.cluster.start(Group(0, (sampler,)))
        else:
            self._direct(())

    def _present_nodes(self) -> None:
        """Say what is where, if there are several nodes."""
        if len(self.cluster.machines) > 1:
            self._say(f"{len(self.cluster.machines)} nodes over {self.cluster.description}:")
            for line in self.placement.summary():
                self._say(line)
        for remark in self.cluster.remarks:
            self._say(remark, "warning")

    def _loop(self) -> Iterator[Happening]:
        while self._carrier.finish is None and self.outcome is None:
            wait = self._tick_at - time.monotonic()
            for news in self.cluster.poll(max(0.0, wait)):
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
        self._carrier.level()
        self._take_snapshot()

    def _take_snapshot(self, final: bool = False) -> None:
        assert self._manager is not None
        loss = sum(self._losses.values()) / len(self._losses) if self._losses else None
        restarts = sum(station.restarts for station in self.cluster.stations.values())
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
        if self._draining:
            return
        self._draining = True
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
        if isinstance(news, Signalled):
            self._take_distant_signal(news)
        elif isinstance(news, NodeLost):
            self._hear_loss(news)
        else:
            self._hear_worker(self.cluster.stations[news.key], news)

    def _hear_worker(self, station: Station, news: Said | Died | Left) -> None:
        if station.job.role == "sampler":
            self._hear_sampler(news)
        elif isinstance(news, Died) and _cannot_start(news):
            self._report(news.failure)
            error = KernelError(f"{station.job.name} cannot start: {news.failure.message}")
            self._end(Outcome(str(error), True, error))
        elif self._manager is None:
            self._held.append(news)
        elif isinstance(news, Said):
            self._hearers[type(news.message)](station, news.message)
        elif isinstance(news, Died):
            self._hear_death(station, news)

    def _hear_sampler(self, news: Said | Died | Left) -> None:
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

    def _on_proposal(self, exchange: Station, message: msg.Proposal) -> None:
        self._carrier.received(exchange.job.index, len(message.samples))
        self._propose(message)

    def _on_label(self, _: Station, message: msg.LabelDone) -> None:
        self._carrier.answered(message.oracle, message)
        self._feed(ev.LabelReturned(self.clock, message.oracle, message.identity))
        self._carrier.unwanted(message.identity)

    def _on_refusal(self, _: Station, message: msg.LabelRefused) -> None:
        self._carrier.idle(message.oracle)
        self._report(message.failure)
        failure = message.failure
        self._feed(ev.LabelFailed(self.clock, message.oracle, message.identity, failure))

    def _lose_oracle(self, oracle: int, failure: Failure) -> Failure:
        """Tell the manager of an oracle that is gone; return its failure with its sample."""
        failure = self._carrier.with_sample(oracle, failure)
        if failure.sample is not None:
            for scratch in self.directory.scratch.glob(f"{failure.sample}-*"):
                clear(scratch)
        self._feed(ev.OracleLost(self.clock, oracle, failure))
        return failure

    def _on_epoch(self, station: Station, message: msg.Epoch) -> None:
        self._losses[station.job.index] = _mean_loss(message)
        self._feed(ev.EpochDone(self.clock, station.job.index))

    def _on_weights(self, station: Station, message: msg.NewWeights) -> None:
        self.releases.release(message.members, self._carrier.taught(station.job.index))

    def _on_round_done(self, station: Station, message: msg.RoundDone) -> None:
        self.releases.store()
        version = self.releases.version
        self._feed(ev.TrainingDone(self.clock, station.job.index, message.round, version))

    def _on_installed(self, station: Station, message: msg.Installed) -> None:
        if station.job.role == "predictor":
            # The exchange it works for has no members of its own, but must know their version.
            exchange = self._carrier.station("exchange", station.job.shard)
            self.cluster.send(exchange, msg.NewWeights({}, message.version))
        self.releases.installed(station, message.version)
        self._tell_version()

    def _on_ranked(self, _: Station, message: msg.Ranked) -> None:
        ranked, order = tuple(message.identities), tuple(message.order)
        self._feed(ev.QueueRanked(self.clock, ranked, order, dict(message.uncertainty)))

    def _on_failed(self, _: Station, message: msg.Failed) -> None:
        self._report(message.failure)
        if message.failure.kind == "GivenUp":
            self._lose((message.failure.index,), message.failure)

    def _lose(self, walkers: Iterable[int], failure: Failure) -> None:
        """Note walkers that were given up; end the campaign when none is left to explore."""
        self._lost.update(walkers)
        if len(self._lost) == self.settings.generator.walkers:
            error = WorkerError(f"every walker was given up; the last one: {failure}")
            self._end(Outcome(str(error), True, error))

    def _welcome(self, station: Station, message: msg.Ready) -> None:
        """Bring a worker that has just come up, first or again, to where the campaign is."""
        if not station.ready:
            return  # it has died again since
        now, index = self.clock, station.job.index
        self._lost.difference_update(station.job.walkers)
        if station.job.role == "oracle":
            self._feed(ev.OracleReady(now, index))
        elif station.job.role == "trainer":
            self._carrier.welcome_trainer(index)
            self._feed(ev.TrainerReady(now, index))
        elif station.job.role == "predictor":
            self.releases.welcome(station)
        elif station.job.role == "exchange":
            self._carrier.welcome_exchange(station, message.hears_labels)

    def _hear_death(self, station: Station, news: Died) -> None:
        failure = self._miss(station, news.failure)
        self._report(failure)
        if news.given_up:
            self._given_up(station, failure)

    def _miss(self, station: Station, failure: Failure) -> Failure:
        """Note that a worker is gone; return the failure with the sample it was at."""
        role, index = station.job.role, station.job.index
        if role == "oracle":
            failure = self._lose_oracle(index, failure)
            if failure.sample is not None:
                self.cluster.forgive(station)
        elif role == "broker":
            # Its oracles had no part in its death.
            for oracle in station.job.oracles:
                self._lose_oracle(oracle, replace(failure, index=oracle, kind="lost"))
        elif role == "trainer":
            self._feed(ev.TrainerLost(self.clock, index, failure))
        elif role in ("exchange", "predictor"):
            self._carrier.lost_predictor(station)
            if self.releases.everywhere:  # it may be the one that the others waited for
                self._tell_version()
        return failure

    def _tell_version(self) -> None:
        complete = self.releases.complete
        self._feed(ev.WeightsInstalled(self.clock, self.releases.everywhere, complete))

    def _hear_loss(self, news: NodeLost) -> None:
        """Go on without a node: its labels are queued again, its walkers go on elsewhere."""
        self._report(news.failure)
        if news.moved:
            names = ", ".join(station.job.name for station in news.moved)
            self._say(f"started elsewhere: {names}", "warning")
        for station in (*news.moved, *news.homeless):
            role, index = station.job.role, station.job.index
            failure = replace(news.failure, role=KERNEL_OF.get(role, "prediction"), index=index)
            if self._manager is not None:
                self._miss(station, replace(failure, kind="lost", traceback=""))
        for station in news.homeless:
            self._given_up(station, news.failure)

    def _given_up(self, station: Station, failure: Failure) -> None:
        """End the campaign unless others of the same role can go on without this worker."""
        role = station.job.role
        if role in ("generator", "exchange"):
            self._lose(station.job.walkers or station.job.rows, failure)
        others = [
            other
            for other in self.cluster.stations.values()
            if _alike(other.job.role) == _alike(role) and not other.given_up
        ]
        text = f"{station.job.name} died {station.restarts + 1} times and is given up"
        if failure.kind == "NodeLost":
            text = f"there is no room elsewhere for {station.job.name}"
        # Hosts that died in the same moment, of which nobody has told yet, are not alive either.
        exploring = role == "generator" and len(self._lost) < self.settings.generator.walkers
        if exploring or (role in (*_LABELLING, "exchange") and others):
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

    def _take_distant_signal(self, signal: Signalled) -> None:
        """Obey a signal to another node's agent; launchers give one signal to all of them."""
        if signal.name == WALLTIME:
            self._drain(f"{signal}: the time of the batch job is nearly up")
        elif signal.name == "SIGTERM" and self._walltime.job is not None:
            self._obey_scheduler(signal.name)
        else:
            self.request_stop(str(signal), patient=True)

    def _obey_scheduler(self, name: str) -> None:
        """End within the half a minute that batch systems give: running labels are requeued."""
        if self._hurried:
            return
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
        hurried = self._interrupts.count > 1 or books.error is not None
        patience = HASTE if self._hurried else 20.0
        self._carrier.kill_working()
        for news in self.cluster.close(patience=1.0 if hurried else patience):
            self._keep(news)
        try:
            if self._manager is not None and books.error is None:
                self._take_snapshot(final=True)
            if books.error is None:
                self.releases.store()
                self.releases.settle()
        except LedgerError as error:
            books.error, self.outcome = error, Outcome(str(error), True, error)
        outcome = self.outcome or Outcome("interrupted by an error", True)
        try:
            if books.error is None:
                books.record(entries.SessionEnded(self.clock, outcome.reason))
            books.close()
        except LedgerError as error:
            self.outcome = Outcome(str(error), True, error)

    def _keep(self, news: News) -> None:
        """Of what workers still said while they ended, keep labels and weights."""
        if not isinstance(news, Said):
            return
        message, (_, index) = news.message, news.key
        if isinstance(message, msg.LabelDone):
            with contextlib.suppress(LedgerError):
                self._books.label(self.clock, message, message.oracle)
        elif isinstance(message, msg.NewWeights):
            self.releases.release(message.members, self._carrier.taught(index))


def _alike(role: str) -> str:
    """Name the same for roles of which one can go on for the other."""
    return "oracle" if role in _LABELLING else role


def _mean_loss(message: msg.Epoch) -> float:
    losses = [float(metrics.get("loss", float("nan"))) for metrics in message.metrics]
    return sum(losses) / len(losses)


def _cannot_start(news: Died) -> bool:
    """Whether the kernel itself says that no restart would help."""
    wrong = news.failure.kind in ("KernelImportError", "ContractError")
    return wrong and not news.was_ready
