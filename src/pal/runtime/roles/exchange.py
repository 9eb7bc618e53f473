"""The exchange's process: the hot loop, and between two rounds whatever the agent sent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from pal.building import build_committee, close
from pal.errors import Failure, foreseen
from pal.exchange.loop import Exchange, Predicts
from pal.exchange.screening import Screen, Screening
from pal.exchange.walkers import LocalWalkers, Outbox, SharedWalkers, Walkers
from pal.records import Array, Batch, Feedback, Refusal, Sample, Weights
from pal.roles import LearningSelector, Selector
from pal.runtime.messages import (
    Distrusted,
    Failed,
    Grant,
    Installed,
    NewLabels,
    NewWeights,
    Proposal,
    Ranked,
    RankSamples,
    SelectorSet,
    SetExploring,
    SetSelector,
    Shutdown,
)
from pal.runtime.pool import Pool
from pal.runtime.reserve import Reserve
from pal.runtime.roles.generator import WalkerSource
from pal.runtime.roles.predictor import EndedError, RemoteCommittee
from pal.runtime.worker import Desktop
from pal.transport.board import STEP, Meter
from pal.transport.slots import ExchangeSlots

_NOBODY = (np.empty(0, np.intp), None)
_PUSH_AGAIN = 1e-3
"""Seconds between two tries to pass on what the agent could not take at once."""


class ManagerDesk:
    """The exchange's side of the road to the manager."""

    def __init__(self, desk: Desktop) -> None:
        self._channel = desk.channel
        self._proposed = 0
        self.granted = 0

    def free(self) -> int:
        """Places granted and not yet used."""
        return max(0, self.granted - self._proposed)

    def propose(
        self, samples: Sequence[Sample], walkers: Array, uncertainty: Array, version: int
    ) -> None:
        """Send candidates to the manager."""
        self._proposed += len(samples)
        self._channel.send(Proposal(samples, walkers.tolist(), uncertainty.tolist(), version))

    def report(self, failure: Failure) -> None:
        """Send a failure to the agent."""
        self._channel.send(Failed(failure))

    def distrust(self, member: int, version: int, good: Weights | None = None) -> None:
        """Tell the agent of weights that give nothing but NaN, and of better ones."""
        self._channel.send(Distrusted(member, version, good))


class Timed:
    """A pool whose steps show on the board: the watch tells them from predictions."""

    def __init__(self, pool: Pool, meter: Meter) -> None:
        self._pool = pool
        self._meter = meter

    def step(self, rows: Sequence[int], feedback: Sequence[Feedback] | None, out: Outbox) -> None:
        """Move walkers."""
        with self._meter.calling(STEP):
            self._pool.step(rows, feedback, out)

    def recover(self, rows: Sequence[int], out: Outbox, why: Refusal) -> None:
        """Take walkers back."""
        with self._meter.calling(STEP):
            self._pool.recover(rows, out, why)


class ExchangeDesk:
    """Builds one shard's exchange, runs it and serves the agent between rounds."""

    def __init__(self, desk: Desktop) -> None:
        job = desk.job
        self._desk = desk
        self._bell = desk.bells[0]
        self._exploring = False
        self._manager = ManagerDesk(desk)
        self._local: Reserve | None = None
        self._pool: Pool | None = None
        self._save_at = time.monotonic() + job.save_interval
        selector = self._build_selector(job.kernels["selector"].options)
        state = desk.load("selector", job.index)
        if state is not None and hasattr(selector, "set_state"):
            selector.set_state(state)
        self._selector = selector
        committee = self._build_committee()
        assert job.batching is not None
        self._exchange = Exchange(
            self._build_walkers(),
            committee,
            job.member_count,
            selector,
            job.batching,
            self._manager,
            desk.meter,
            serial=job.serial,
            numbers=np.array(job.rows, np.intp),
            screening=self._build_screening(),
        )

    def _build_selector(self, options: Mapping[str, Any]) -> Selector:
        job = self._desk.job
        context = self._desk.context("selector", job.index, job.shard_count)
        selector: Selector = replace(job.kernels["selector"], options=options).build(context)
        return selector

    def _build_screening(self) -> Screening | None:
        spec = self._desk.job.kernels.get("screen")
        if spec is None:
            return None
        screen: Screen = spec.build(self._desk.context("screen", self._desk.job.index, 1))
        return Screening(screen, self._desk.meter, self._manager.report)

    def _build_committee(self) -> Predicts:
        job = self._desk.job
        if job.seats:
            hosts = 1 + max(job.host_of, default=-1)
            return RemoteCommittee(self._desk, job.seats, self._desk.bells[1 + hosts :])
        contexts = [self._desk.context("model", m, job.member_count) for m in job.members]
        committee = build_committee(job.kernels["model"], contexts, job.training)
        self._local = Reserve(committee, job.members, self._manager.distrust)
        return self._local

    def _build_walkers(self) -> Walkers:
        desk, job = self._desk, self._desk.job
        if job.walkers:
            source = WalkerSource(desk)
            self._pool = Pool(job.walkers, source, source, job.restarts, source.beat)
            watched = Timed(self._pool, desk.meter) if source.beat else self._pool
            return LocalWalkers(watched, len(job.walkers))
        assert desk.slots is not None
        hosts = 1 + max(job.host_of)
        return SharedWalkers(ExchangeSlots(desk.slots), job.host_of, desk.bells[1 : 1 + hosts])

    def run(self) -> None:
        """Serve walkers and agent until told to shut down."""
        self._desk.ready(hears_labels=isinstance(self._selector, LearningSelector))
        with suppress(EndedError):
            self._serve()
        self._save()
        close(part for part in (self._pool, self._local, self._selector) if part is not None)

    def _serve(self) -> None:
        exchange, meter = self._exchange, self._desk.meter
        while True:
            meter.beat()
            if self._desk.has_mail() and not self._read_mail():
                return
            self._push()
            who, seconds = exchange.patience() if self._exploring else _NOBODY
            if seconds == 0.0:
                exchange.round(who)
                if self._pool is not None and time.monotonic() > self._save_at:
                    self._save()
            elif seconds is not None:
                self._bell.wait_for(seconds)
            elif self._desk.channel.backlog:
                self._bell.wait_for(_PUSH_AGAIN)
            elif not self._exploring or exchange.held or exchange.may_sleep():
                self._bell.wait()

    def _push(self) -> None:
        """Pass on what the agent could not take when it was sent."""
        if self._desk.channel.backlog:
            self._desk.channel.push()

    def _save(self) -> None:
        if self._pool is not None:
            self._pool.save()
        if hasattr(self._selector, "get_state"):
            self._desk.save("selector", self._desk.job.index, self._selector.get_state())
        self._save_at = time.monotonic() + self._desk.save_interval

    def _read_mail(self) -> bool:
        """Do what the agent asks; False when it asks for the end."""
        channel = self._desk.channel
        while (message := channel.receive()) is not None:
            if isinstance(message, Shutdown):
                return False
            self._obey(message)
        return True

    def _obey(self, message: Any) -> None:
        if isinstance(message, Grant):
            self._manager.granted = message.total
            self._go_on()
        elif isinstance(message, SetExploring):
            self._exploring = message.on
            self._go_on()
        elif isinstance(message, NewWeights):
            self._install(message)
        elif isinstance(message, RankSamples):
            self._rank(message)
        elif isinstance(message, NewLabels):
            self._learn(message)
        elif isinstance(message, SetSelector):
            self._change_selector(message)

    def _change_selector(self, order: SetSelector) -> None:
        """Go on with a selector of other options that knows what the present one has learnt."""
        try:
            fresh = self._build_selector(order.options)
            if hasattr(self._selector, "get_state") and hasattr(fresh, "set_state"):
                fresh.set_state(self._selector.get_state())
        except Exception as error:  # whatever the kernel raises, the present one goes on
            kind = "" if foreseen(error) else f"{type(error).__name__}: "
            self._desk.channel.send(SelectorSet(order.number, f"{kind}{error}"))
            return
        self._selector = self._exchange.selector = fresh
        self._desk.channel.send(SelectorSet(order.number))

    def _go_on(self) -> None:
        """Answer walkers that were held, once they may move and propose something again.

        The two messages that say so come one after the other: a round in between would hold the
        walkers anew, for a grant that has been there since.
        """
        if self._exploring and self._manager.free():
            self._exchange.go_on()

    def _install(self, new: NewWeights) -> None:
        if self._local is not None:
            self._local.install(new)
            self._exchange.install(new.version, new.members)
        else:  # a predictor has them, and says nothing of members
            self._exchange.install(new.version, range(self._desk.job.member_count))
        self._desk.channel.send(Installed(new.version))

    def _rank(self, message: RankSamples) -> None:
        queue = Batch(list(message.samples))
        prediction, _ = self._exchange.predict(queue)
        ranking = self._selector.rank(queue, prediction)
        identities = np.asarray(message.identities)
        self._desk.channel.send(
            Ranked(
                message.identities,
                identities[np.asarray(ranking.order, np.intp)].tolist(),
                dict(zip(message.identities, map(float, ranking.uncertainty), strict=True)),
            )
        )

    def _learn(self, message: NewLabels) -> None:
        """Let the selector compare labels with what the models say that do not know them."""
        if not (self._exchange.version and isinstance(self._selector, LearningSelector)):
            return
        samples = Batch([item.sample for item in message.items])
        labels = Batch([item.label for item in message.items])
        prediction, finite = self._exchange.predict(samples)
        if finite is not None:
            rows = np.flatnonzero(finite)
            samples, labels, prediction = (
                samples.take(rows),
                labels.take(rows),
                prediction.take(rows),
            )
        if len(samples):
            self._selector.learn(samples, labels, prediction)


def run(desk: Desktop) -> None:
    """Run an exchange."""
    ExchangeDesk(desk).run()
