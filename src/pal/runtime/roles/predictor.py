"""Predictor processes: some members each, for one exchange that asks all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pal.building import build_committee
from pal.errors import Failure
from pal.records import Batch, Sample, Weights, named
from pal.runtime.messages import Distrusted, Failed, Installed, NewWeights, Shutdown
from pal.runtime.reserve import Reserve, steady
from pal.runtime.worker import Desktop
from pal.transport.board import PREDICT
from pal.transport.doorbell import Doorbell


def joined(batches: Sequence[Batch]) -> dict[str, Any]:
    """Stack uniform batches of labels into arrays (members, n, ...)."""
    return {
        name: np.stack([batch.columns[name] for batch in batches]) for name in batches[0].columns
    }


class EndedError(Exception):
    """The agent ends this worker while it waits for predictors, which may be gone already."""


class RemoteCommittee:
    """The whole committee, spread over predictor processes, as the exchange sees it."""

    def __init__(
        self, desk: Desktop, seats: Sequence[Sequence[int]], bells: Sequence[Doorbell]
    ) -> None:
        self._desk = desk
        self._own = desk.bells[0]
        self._bells = bells
        self._posts = desk.posts
        self._seats = seats
        self._members = sum(len(seat) for seat in seats)

    def predict(self, samples: Batch) -> list[Any]:
        """Ask every predictor; one request for each shape in the batch."""
        answers: list[list[Any]] = [[None] * len(samples) for _ in range(self._members)]
        for indices, group in samples.groups():
            labels = self._ask(group)
            if len(group) == len(samples):
                return list(labels)
            for member, batch in enumerate(labels):
                for row, index in enumerate(indices):
                    answers[member][index] = batch[row]
        return answers

    def approve(self, members: Iterable[int]) -> None:
        """Predictors see for themselves which weights are good."""

    def mend(self, members: Iterable[int]) -> Mapping[int, str]:
        """Predictors have done what they can."""
        return {}

    def revert(self, members: Iterable[int]) -> None:
        """Predictors have done so."""

    def _ask(self, group: Batch) -> list[Batch]:
        for post, bell in zip(self._posts, self._bells, strict=True):
            post.requests.put(group.columns)
            bell.ring()
        found: dict[int, Batch] = {}
        for post, seat in zip(self._posts, self._seats, strict=True):
            while not post.answered:
                self._own.wait()
                self._desk.meter.beat()
                if self._desk.told_to_end:
                    raise EndedError
            reply = named(post.replies.get())
            for place, member in enumerate(seat):
                found[member] = Batch.stacked({k: v[place] for k, v in reply.items()})
        return [found[member] for member in sorted(found)]


class PredictorDesk:
    """Answers requests, and swaps weights between two of them."""

    def __init__(self, desk: Desktop) -> None:
        job = desk.job
        self._desk = desk
        contexts = [desk.context("model", member, job.member_count) for member in job.members]
        committee = build_committee(job.kernels["model"], contexts, job.training)
        self._reserve = Reserve(committee, job.members, self._distrust)
        self._post = desk.posts[0]

    def run(self) -> None:
        """Serve until told to shut down."""
        desk = self._desk
        desk.ready()
        while True:
            desk.meter.beat()
            if desk.has_mail() and not self._read_mail():
                return
            if self._post.requests.full:
                self._answer(self._post.requests.get())
                desk.bells[1].ring()
            else:
                desk.bells[0].wait()

    def _answer(self, request: Sample) -> None:
        batch = Batch.stacked(named(request))
        job = self._desk.job
        with self._desk.meter.working(PREDICT):
            source = f"the model in predictor {job.index}"
            members = steady(self._reserve, job.members, batch, source, self._report)
        self._desk.meter.add("rounds")
        # The place is freed only when the reply is there: were the predictor to die in between,
        # nobody would answer.
        self._post.replies.put(joined(members), self._post.requests.read)
        self._post.requests.take()

    def _distrust(self, member: int, version: int, good: Weights) -> None:
        self._desk.channel.send(Distrusted(member, version, good))

    def _report(self, failure: Failure) -> None:
        self._desk.channel.send(Failed(replace(failure, host=self._desk.job.where)))

    def _read_mail(self) -> bool:
        channel = self._desk.channel
        while (message := channel.receive()) is not None:
            if isinstance(message, Shutdown):
                return False
            if isinstance(message, NewWeights):
                self._reserve.install(message)
                channel.send(Installed(message.version))
        return True


def run(desk: Desktop) -> None:
    """Run a predictor."""
    PredictorDesk(desk).run()
