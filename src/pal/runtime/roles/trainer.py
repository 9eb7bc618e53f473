"""A trainer worker: fits its members to all it was taught, and sends weights as they improve."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pal.building import build_committee
from pal.errors import NotFiniteError
from pal.records import Dataset, LabelledSample, Metrics, Weights
from pal.roles import Committee
from pal.runtime.messages import (
    EndRound,
    Epoch,
    Lesson,
    NewWeights,
    RoundDone,
    Shutdown,
    StopAsked,
)
from pal.runtime.weights import fetch, newest
from pal.runtime.worker import Desktop


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
        self._save_at = time.monotonic() + desk.job.save_interval
        self._restore()

    def _build(self, generation: int) -> Committee:
        job = self._desk.job
        contexts = [
            self._desk.context("model", member, job.member_count, generation)
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
                if isinstance(message, Shutdown):
                    self._save()
                    return
                self._hear(message)
            if self._training is not None:
                self._epoch()

    def _hear(self, message: Any) -> None:
        if isinstance(message, Lesson):
            self._learn(message)
        elif isinstance(message, EndRound):
            self._end_round()

    def _learn(self, lesson: Lesson) -> None:
        """Take new data in and begin a round with them."""
        self._close()
        for item in lesson.add:
            self._data[item.identity] = item
        for identity in lesson.remove:
            self._data.pop(identity, None)
        self._round = lesson.round
        if lesson.fresh:
            self._committee = self._build(generation=lesson.round)
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
        meter.begin()
        try:
            metrics = next(self._training, None)
        finally:
            meter.end()
        if metrics is None:
            self._end_round()
            return
        self._epochs += 1
        meter.add("rounds")
        self._desk.channel.send(Epoch(tuple(metrics)))
        if any(value.get("stop") for value in metrics):
            self._desk.channel.send(StopAsked(f"trainer {self._desk.job.index} asked to stop"))
        if self._epochs % self._desk.job.weights_every == 0:
            self._send_weights()
        if time.monotonic() > self._save_at:
            self._save()

    def _end_round(self) -> None:
        self._close()
        self._send_weights()
        self._desk.channel.send(RoundDone(self._round))
        self._save()

    def _close(self) -> None:
        close = getattr(self._training, "close", None)
        if close is not None:
            close()
        self._training = None

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
        self._sent = self._epochs
        self._desk.channel.send(NewWeights(self._weights(), epochs=self._epochs))
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
        self._save_at = time.monotonic() + self._desk.job.save_interval


def run(desk: Desktop) -> None:
    """Run a trainer worker."""
    TrainerDesk(desk).run()
