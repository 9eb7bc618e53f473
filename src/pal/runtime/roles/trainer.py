"""A trainer worker: fits its members to all it was taught, and sends weights as they improve."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from pal.building import build_committee, close
from pal.errors import NotFiniteError
from pal.records import Dataset, LabelledSample, Metrics, Weights
from pal.roles import Committee
from pal.runtime.messages import (
    EndRound,
    Epoch,
    Failed,
    Lesson,
    NewWeights,
    RoundDone,
    Shutdown,
    StopAsked,
)
from pal.runtime.weights import fetch, newest
from pal.runtime.worker import Desktop
from pal.transport.board import TRAIN


def resampled(data: Sequence[LabelledSample], member: int, seed: int) -> Dataset:
    """Return a member's bootstrap: each sample as often as a Poisson(1) number says.

    The number depends on seed, member and sample alone, so it stays when data come or go and
    is the same after a restart. (The online bootstrap of Oza and Russell, 2001.)
    """
    counts = [
        int(np.random.default_rng([seed, member, item.identity]).poisson(1.0)) for item in data
    ]
    chosen = [item for item, count in zip(data, counts, strict=True) for _ in range(count)]
    return chosen or list(data)


class TrainerDesk:
    """Trains between messages, an epoch at a time."""

    def __init__(self, desk: Desktop) -> None:
        self._desk = desk
        self._data: dict[int, LabelledSample] = {}
        self._committee = self._build(generation=0)
        self._round = 0
        self._epochs = 0
        self._sent = -1
        self._training: Iterator[Sequence[Metrics]] | None = None
        self._good: list[Weights] = []
        """The last weights known to be finite; a copy, as training may work in place."""
        self._diverged = False
        """Whether this round has begun anew from them."""
        self._save_at = time.monotonic() + desk.save_interval
        self._restore()

    def _build(self, generation: int) -> Committee:
        job = self._desk.job
        contexts = [
            replace(
                self._desk.context("model", member, job.member_count, generation),
                training=True,
                news=self._desk.channel.pending,
            )
            for member in job.members
        ]
        return build_committee(job.kernels["model"], contexts, training=True)

    def _restore(self) -> None:
        """Take up the saved state; without one, the newest weights, or those to start from."""
        desk = self._desk
        state = desk.load("trainer", desk.job.index)
        if state is None or state["members"] != desk.job.members:
            start = desk.job.extra.get("start")
            weights = newest(desk.run.models).members or ({} if start is None else fetch(start))
            for place, member in enumerate(desk.job.members):
                if member in weights:
                    self._committee.set_weights(place, weights[member])
        else:
            for index, weights in enumerate(state["weights"]):
                self._committee.set_weights(index, weights)
            if state["state"] is not None and hasattr(self._committee, "set_state"):
                self._committee.set_state(state["state"])
            self._epochs = state["epochs"]

    def run(self) -> None:
        """Train and listen until told to shut down."""
        channel = self._desk.channel
        self._desk.ready()
        while True:
            if self._training is None:
                channel.wait()
            while (message := channel.receive()) is not None:
                self._desk.meter.beat()
                if isinstance(message, Shutdown):
                    self._close()
                    with suppress(NotFiniteError):  # the state saved before is a good one
                        self._save()
                    close([self._committee])
                    return
                self._hear(message)
            if self._training is not None:
                self._epoch()

    def _hear(self, message: Any) -> None:
        if isinstance(message, Lesson):
            self._learn(message)
        elif isinstance(message, EndRound):
            self._end_round()
        elif isinstance(message, NewWeights):
            self._take_back(message)

    def _learn(self, lesson: Lesson) -> None:
        """Take new data in and begin a round with them."""
        self._close()
        for item in lesson.add:
            self._data[item.identity] = item
        for identity in lesson.remove:
            self._data.pop(identity, None)
        self._round = lesson.round
        self._diverged = False
        if lesson.fresh:
            self._committee = self._build(generation=lesson.round)
        self._keep(self._weights())
        self._train()

    def _train(self) -> None:
        data = [self._data[identity] for identity in sorted(self._data)]
        job = self._desk.job
        datasets: list[Dataset] = [
            resampled(data, member, job.seed) if job.bootstrap else data for member in job.members
        ]
        self._training = iter(self._committee.train(datasets))

    def _epoch(self) -> None:
        """Train one epoch; pass on metrics and, every so often, weights."""
        assert self._training is not None
        meter = self._desk.meter
        meter.begin(TRAIN)
        try:
            metrics = next(self._training, None)
        finally:
            meter.end()
        if metrics is None:
            self._end_round()
            return
        ill = [place for place, each in enumerate(metrics) if not _sound(each)]
        if ill:
            member, loss = self._desk.job.members[ill[0]], metrics[ill[0]]["loss"]
            self._begin_anew(
                NotFiniteError(f"the loss of member {member} is {loss} after epoch {self._epochs}")
            )
            return
        self._epochs += 1
        meter.add("rounds")
        self._desk.channel.send(Epoch(tuple(metrics)))
        if any(value.get("stop") for value in metrics):
            self._desk.channel.send(StopAsked(f"trainer {self._desk.job.index} asked to stop"))
        try:
            if self._epochs % self._desk.job.weights_every == 0:
                self._send_weights()
            if time.monotonic() > self._save_at:
                self._save()
        except NotFiniteError as error:
            self._begin_anew(error)

    def _end_round(self) -> None:
        self._close()
        try:
            self._send_weights()
        except NotFiniteError as error:
            self._begin_anew(error)
            return
        self._desk.channel.send(RoundDone(self._round))
        self._save()

    def _take_back(self, earlier: NewWeights) -> None:
        """Go back to weights that came before some by which nothing can be predicted."""
        self._keep(self._weights() | dict(earlier.members))
        under_way = self._training is not None
        self._close()
        self._rebuild()
        self._save()  # else a restart would take the bad ones up again
        if under_way:
            self._train()

    def _rebuild(self) -> None:
        """Build the committee anew: what its optimiser remembers is spoilt with its weights."""
        self._committee = self._build(generation=self._round)
        for place, weights in enumerate(self._good):
            self._committee.set_weights(place, weights)

    def _begin_anew(self, error: NotFiniteError) -> None:
        """Go back to the last good weights, and train from them, once in each round.

        If they diverge again, they stay as they were until there are new labels.
        """
        self._close()
        self._rebuild()
        job = self._desk.job
        outcome = "it waits for new labels" if self._diverged else "it trains from them again"
        text = f"{error}; trainer {job.index} goes back to its last good weights, and {outcome}"
        failure = self._desk.failure("training", job.index, NotFiniteError(text))
        self._desk.channel.send(Failed(replace(failure, traceback="")))
        if self._diverged:
            self._end_round()
        else:
            self._diverged = True
            self._train()

    def _close(self) -> None:
        close = getattr(self._training, "close", None)
        if close is not None:
            close()
        self._training = None

    def _keep(self, weights: Mapping[int, Weights]) -> None:
        """Remember weights that are good."""
        self._good = [
            {name: np.array(array) for name, array in weights[member].items()}
            for member in self._desk.job.members
        ]

    def _weights(self) -> dict[int, Weights]:
        weights = self._committee.get_weights()
        for member, arrays in zip(self._desk.job.members, weights, strict=True):
            for name, array in arrays.items():
                if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
                    raise NotFiniteError(
                        f"weights {name!r} of member {member} are not finite after epoch "
                        f"{self._epochs}; lower the learning rate, or look at the newest labels"
                    )
        return dict(zip(self._desk.job.members, weights, strict=True))

    def _send_weights(self) -> None:
        """Send weights, and wait until they are taken: none pile up, and none come late."""
        if self._sent == self._epochs:
            return
        weights = self._weights()
        self._keep(weights)
        self._sent = self._epochs
        self._desk.channel.send(NewWeights(weights, epochs=self._epochs))
        self._desk.channel.flush()

    def _save(self) -> None:
        """Save weights and, where the committee has one, its state."""
        state = self._committee.get_state() if hasattr(self._committee, "get_state") else None
        self._desk.save(
            "trainer",
            self._desk.job.index,
            {
                "members": self._desk.job.members,
                "weights": list(self._weights().values()),
                "state": state,
                "epochs": self._epochs,
            },
        )
        self._save_at = time.monotonic() + self._desk.save_interval


def _sound(metrics: Metrics) -> bool:
    """Whether a member's loss, if it tells one, is finite."""
    return bool(np.isfinite(metrics.get("loss", 0.0)))


def run(desk: Desktop) -> None:
    """Run a trainer worker."""
    TrainerDesk(desk).run()
