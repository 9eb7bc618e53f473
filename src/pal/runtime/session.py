"""A session: one `pal run` of a campaign. Carries events to the manager and commands from it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pal import __version__
from pal.controller import events as ev
from pal.controller.manager import Manager
from pal.errors import Failure, LedgerDiskError, LedgerError
from pal.ledger import entries
from pal.ledger.directory import RunDirectory, write_atomically
from pal.records import Sample
from pal.runtime import messages as msg
from pal.runtime.agent import Said
from pal.runtime.books import Books
from pal.runtime.carrier import Carrier
from pal.runtime.cluster import Cluster, News, NodeLost, Signalled
from pal.runtime.deeds import Deeds
from pal.runtime.differences import Difference, differences
from pal.runtime.ending import outcome_of
from pal.runtime.gauges import Gauges
from pal.runtime.happenings import Happening, Note, Outcome
from pal.runtime.labels import clear
from pal.runtime.live import Live
from pal.runtime.operator import GLANCE, HASTE, Operator
from pal.runtime.orders import Job
from pal.runtime.placement import Placement, place, specs
from pal.runtime.reception import Reception
from pal.runtime.releases import Releases
from pal.runtime.rules import restored_of, rules_of
from pal.runtime.seats import Group
from pal.settings import Settings, dump

TICK = 1.0
PATIENCE = 20.0
"""Seconds that workers are given to save their states at the end."""


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
        accept_changes: bool = False,
    ) -> None:
        self.live = Live(settings, directory.path)
        settings = self.live.settings
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
        self._books = Books(directory.path, settings.stop.disk, settings.save_interval)
        self._changes = self._compare(accept_changes)
        self._carrier = Carrier(cluster, self._books, self.releases, lambda: self.clock, self.say)
        self._gauges = Gauges(cluster.jobs, cluster.readings, self._books.last)
        self._operator = Operator(
            self, directory, settings.oracle.grace + settings.stop.before_end
        )
        self._reception = Reception(self, cluster, self._carrier, self.releases, directory)
        self.deeds = Deeds(self, self._books, self._carrier, cluster, self._reception.let_go)
        self.initial = self._books.initial
        self._manager: Manager | None = None
        self._identities = itertools.count(self._books.past.next_sample)
        self._told: list[Happening] = []
        self._start = time.monotonic()
        self._tick_at = 0.0
        self._metric_at = 0.0

    @property
    def clock(self) -> float:
        """Campaign time in seconds: that of all sessions, without the pauses between them."""
        return self._books.past.elapsed + time.monotonic() - self._start

    @property
    def settings(self) -> Settings:
        """The settings as they hold: those of the file, and what was changed by hand."""
        return self.live.settings

    @property
    def manager(self) -> Manager:
        """The manager that leads; there is one when `directed`."""
        assert self._manager is not None
        return self._manager

    @property
    def directed(self) -> bool:
        """Whether a manager leads: from when the initial samples are known."""
        return self._manager is not None

    # The loop ------------------------------------------------------------------------------

    def run(self) -> Iterator[Happening]:
        """Run until the campaign ends, and yield what happens."""
        with self._operator.interrupts:
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
        self._operator.open()
        settings = json.dumps(dump(self.live.filed))
        self._books.record(
            entries.SessionStarted(
                self.clock, time.time(), socket.gethostname(), os.getpid(), __version__, settings
            )
        )
        clear(self.directory.scratch)  # what a killed session left
        self.directory.sweep()
        self.cluster.open()
        self.cluster.watch(self._books.fd, self._take_durable)
        self.cluster.watch(self._operator.interrupts.fd, self._operator.take_signals)
        self._present_changes()
        for text, level in self.cluster.introduction(self.placement.summary()):
            self.say(text, level)
        for remark in self.releases.remarks:
            self.say(remark, "warning")
        for group in self.placement.groups:
            self.cluster.start(group)
        initial = "initial" in self.kernels and not self._books.past.next_sample
        if initial and self.settings.oracle.enabled:
            where, seed = self.directory.path, self.settings.seed
            sampler = Job("sampler", 0, self.kernels, where, seed, self.home)
            self.cluster.start(Group(0, (sampler,)))
        else:
            self.direct(())

    def _compare(self, accept: bool) -> list[Difference]:
        books = self._books
        try:
            return differences(self.live.filed, books.sessions, len(books.past.labelled), accept)
        except LedgerError:
            books.close()
            raise

    def _present_changes(self) -> None:
        """Say, and write down, what is not as it was in the session before."""
        if self._changes:
            text = f"settings changed: {', '.join(map(str, self._changes))}"
            theory = any(change.theory for change in self._changes)
            self.say(text, "warning" if theory else "info")
            self._books.record(entries.Note(self.clock, "settings", text))

    def _loop(self) -> Iterator[Happening]:
        while self._carrier.finish is None and self.outcome is None:
            wait = min(GLANCE, self._tick_at - time.monotonic())
            for news in self.cluster.poll(max(0.0, wait)):
                self._hear(news)
            self._tick()
            yield from self._tell()
        if self._carrier.finish is not None:
            self.outcome = outcome_of(self._carrier.finish, self._manager, self._operator.hurried)

    def _tell(self) -> Iterator[Happening]:
        told, self._told = self._told, []
        yield from told

    def _tick(self) -> None:
        """Once a second: time, exploration, requests of the operator, a snapshot."""
        if self._books.error is not None:
            self.end(Outcome(str(self._books.error), True, self._books.error))
            return
        self._operator.glance()
        if time.monotonic() < self._tick_at:
            return
        self._tick_at = time.monotonic() + TICK
        self._operator.look()
        for text in self._books.look():
            self.say(text, "warning")
        if self._manager is None:
            return
        samples, uncertain = self._gauges.explored()
        self.feed(ev.Explored(self.clock, samples, uncertain))
        self.feed(ev.Tick(self.clock))
        self._carrier.level()
        self._take_snapshot()

    def _take_snapshot(self, final: bool = False) -> None:
        loss, version = self._reception.loss, self.releases.version
        restarts = self.cluster.restarts
        snapshot = self._gauges.read(self.manager, self.clock, loss, version, restarts)
        self._told.append(snapshot)
        # A thousandth of the campaign's age between two: a week takes some ten thousand.
        if final or snapshot.time >= self._metric_at:
            self._metric_at = snapshot.time * 1.001 + 0.9 * TICK
            self._books.record(entries.Metric(snapshot.time, snapshot.as_dict()))
        status = {"pid": os.getpid(), "host": socket.gethostname(), **snapshot.as_dict()}
        with contextlib.suppress(LedgerDiskError):  # whoever looks on sees an older one
            write_atomically(self.directory.status, json.dumps(status).encode())

    @property
    def interrupted(self) -> bool:
        """Whether a signal asked for the end."""
        return self._operator.interrupts.count > 0

    def request_stop(self, reason: str, patient: bool = False) -> None:
        """Ask for an orderly end; asking again, unless patient, makes it hurry."""
        if self._manager is None:
            self.end(Outcome(reason))
            return
        if not (patient and self._manager.stop_reason):
            self.say(f"stopping: {reason}")
        self.feed(ev.StopRequested(self.clock, reason, patient))

    def end(self, outcome: Outcome) -> None:
        """End at once; the first outcome counts."""
        self.outcome = self.outcome or outcome

    def say(self, text: str, level: str = "info") -> None:
        """Show a line."""
        self._told.append(Note(text, level))

    # Events --------------------------------------------------------------------------------

    def direct(self, initial: tuple[Sample, ...]) -> None:
        """Begin to be directed by a manager, once the initial samples are known."""
        self.initial = count = len(initial) or self.initial
        self._manager = Manager(
            rules_of(self.settings, self.placement, count), restored_of(self._books.past)
        )
        self.deeds.take_up()
        self.feed(ev.Tick(self.clock))
        if initial:
            self.propose(msg.Proposal(initial, [-1] * count, [float("inf")] * count, 0))
        if self.releases.complete and not self.settings.model.train:
            self.feed(ev.WeightsInstalled(self.clock, self.releases.version, True))
        self._reception.catch_up()

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the manager and carry out what it orders."""
        for command in self.manager.handle(event):
            self._carrier.carry(command)

    def _hear(self, news: News) -> None:
        if isinstance(news, Signalled):
            self._operator.take_distant_signal(news)
        elif isinstance(news, NodeLost):
            self._reception.hear_loss(news)
        else:
            self._reception.hear(self.cluster.stations[news.key], news)

    def report(self, failure: Failure) -> None:
        """Show a failure, and write it down."""
        self._told.append(failure)
        self._books.record(entries.FailureEntry(self.clock, failure))

    def propose(self, proposal: msg.Proposal) -> None:
        """Number proposed samples, write them down and offer them to the manager."""
        candidates = []
        for sample, walker, uncertainty in zip(
            proposal.samples, proposal.walkers, proposal.uncertainty, strict=True
        ):
            identity = next(self._identities)
            candidate = ev.Candidate(identity, walker, proposal.version, uncertainty)
            self._books.candidate(self.clock, candidate, sample)
            candidates.append(candidate)
        self.feed(ev.CandidatesProposed(self.clock, tuple(candidates)))

    # Disk, signals, and the end ----------------------------------------------------------

    def _take_durable(self) -> None:
        for samples in self._books.durable():
            # First to the selector: it judges by models that have not learnt these labels.
            self._carrier.show(samples)
            self.feed(ev.LabelsDurable(self.clock, samples))

    def _close(self) -> None:
        """End all workers; put on the disk all that is known."""
        books = self._books
        hurried = self._operator.insists or books.error is not None
        patience = HASTE if self._operator.hurried else PATIENCE
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
            message = self.cluster.located(self.cluster.stations[news.key], message)
            with contextlib.suppress(LedgerError):
                self._books.label(self.clock, message, message.oracle)
        elif isinstance(message, msg.NewWeights):
            self.releases.release(message.members, self._carrier.taught(index))
