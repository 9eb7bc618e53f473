"""Walkers live the same lives wherever they live: in the exchange's process or in hosts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from exchange_fakes import Committee, Desk, meter
from numpy.typing import NDArray

from pal.exchange.batching import All, Ready
from pal.exchange.loop import Exchange
from pal.exchange.walkers import LocalWalkers, Outbox, SharedWalkers, Walkers
from pal.records import Batch, Feedback, Prediction, Ranking, Refusal, Sample, Selection, named
from pal.transport.doorbell import Doorbell, create_doorbell
from pal.transport.slots import ALIVE, ExchangeSlots, HostSlots, Slots

WALKERS, STEPS = 7, 60


class Lives:
    """Walkers whose every step depends on all they heard before; keeps what they heard."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.places = [np.array([0.1 * walker, 1.0]) for walker in range(WALKERS)]
        self.steps = [0] * WALKERS
        self.history: list[list[bytes]] = [[] for _ in range(WALKERS)]

    def step(self, rows: Sequence[int], feedback: Sequence[Feedback] | None, out: Outbox) -> None:
        heard = [None] * len(rows) if feedback is None else feedback
        for walker, each in zip(rows, heard, strict=True):
            self.put(walker, self.move(walker, each), out)

    def recover(self, rows: Sequence[int], out: Outbox, why: Refusal) -> None:
        assert why is Refusal.BROKEN
        for walker in rows:
            self.history[walker].append(b"rejected")
            self.put(walker, self.move(walker, None), out)

    def put(self, walker: int, sample: Sample | None, out: Outbox) -> None:
        if sample is None:
            out.end(walker)
        else:
            out.send(walker, sample)

    def move(self, walker: int, feedback: Feedback | None) -> Sample | None:
        if feedback is not None:
            heard = named(feedback.mean)["" if self.kind == "bare" else "x"]
            spread = named(feedback.deviation)["" if self.kind == "bare" else "x"]
            self.history[walker].append(
                heard.tobytes()
                + spread.tobytes()
                + np.float64(feedback.uncertainty).tobytes()
                + bytes([feedback.trusted, feedback.version])
            )
            push = np.resize(heard, 2)
            self.places[walker] = np.sin(self.places[walker] + 0.3 * push + feedback.trusted)
        if self.steps[walker] >= STEPS:
            return None
        self.steps[walker] += 1
        return self.sample(walker)

    def sample(self, walker: int) -> Any:
        place = self.places[walker]
        if self.kind == "bare":
            return place.copy()
        if self.kind == "mixed":
            return {"x": np.resize(place, 1 + (walker + self.steps[walker]) % 3)}
        if self.kind == "broken" and self.steps[walker] % 10 == walker:
            return {"x": np.array([np.nan, 0.0])}
        return {"x": place.copy()}


class Members(Committee):
    """A committee for all kinds of samples."""

    def predict(self, samples: Batch) -> Any:
        return [
            [{k: f * np.asarray(v) for k, v in s.items()} for s in samples]
            if isinstance(samples[0], dict)
            else np.asarray(samples) * f
            for f in (1.0, 1.1, 0.7)
        ]


class Judge:
    """Trusts what varies little."""

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        doubt = np.array(
            [max(float(v.max()) for v in named(d).values()) for d in prediction.deviation]
        )
        return Selection(np.flatnonzero(doubt > 0.1), doubt, doubt < 0.1)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        raise NotImplementedError


def exchange(walkers: Walkers, batching: Any) -> Exchange:
    return Exchange(
        walkers, Members((1.0, 1.1, 0.7)), 3, Judge(), batching, Desk(), meter(), version=3
    )


def live_locally(kind: str, batching: Any, lives: Lives | None = None) -> list[list[bytes]]:
    lives = lives or Lives(kind)
    hot = exchange(LocalWalkers(lives, WALKERS), batching)
    while True:
        who, seconds = hot.patience()
        if seconds is None:
            return lives.history
        hot.round(who)


@dataclass
class Crew:
    """The outbox of the walkers of one host, known by their numbers."""

    slots: HostSlots
    walkers: range
    left: int

    def send(self, walker: int, sample: Sample) -> None:
        self.slots.send(walker - self.walkers[0], sample)

    def send_all(self, walkers: NDArray[np.intp], samples: Batch) -> None:
        self.slots.send_all(walkers - self.walkers[0], samples)

    def end(self, walker: int) -> None:
        self.slots.end(walker - self.walkers[0])
        self.left -= 1


def host(lives: Lives, slots: HostSlots, walkers: range, own: Doorbell, bell: Doorbell) -> None:
    """The loop of a generator host."""
    crew = Crew(slots, walkers, len(walkers))
    lives.step(walkers, None, crew)
    bell.ring()
    while crew.left:
        own.wait()
        for rows, feedback in slots.receive():
            who = [walkers[row] for row in rows]
            if isinstance(feedback, Refusal):
                lives.recover(who, crew, feedback)
            else:
                lives.step(who, feedback, crew)
        bell.ring()


def live_in_hosts(
    kind: str, batching: Any, hosts: int, lives: Lives | None = None
) -> list[list[bytes]]:
    """Hosts in threads, with the same slots and doorbells that processes have."""
    lives, slots = lives or Lives(kind), Slots.create(WALKERS, 1 << 13)
    slots.header["state"][:] = ALIVE
    own, bells = create_doorbell(), [create_doorbell() for _ in range(hosts)]
    bounds = [index * WALKERS // hosts for index in range(hosts + 1)]
    crews = [range(a, b) for a, b in itertools.pairwise(bounds)]
    threads = [
        threading.Thread(
            target=host, args=(lives, HostSlots(slots, crew[0], len(crew)), crew, bell, own)
        )
        for crew, bell in zip(crews, bells, strict=True)
    ]
    for thread in threads:
        thread.start()
    host_of = [index for index, crew in enumerate(crews) for _ in crew]
    hot = exchange(SharedWalkers(ExchangeSlots(slots), host_of, bells), batching)
    while hot.walkers.living():
        who, seconds = hot.patience()
        if seconds == 0.0:
            hot.round(who)
        elif seconds is not None or hot.may_sleep():
            own.wait_for(0.5)
    for thread in threads:
        thread.join()
    for bell in (own, *bells):
        bell.close()
    return lives.history


@pytest.mark.parametrize("kind", ["bare", "named", "mixed", "broken"])
def test_a_host_of_many_finds_the_same_answers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for them in another way."""
    local = live_locally(kind, All())
    monkeypatch.setattr("pal.transport.slots._MANY", 1)
    assert live_in_hosts(kind, All(), 3) == local
    assert live_in_hosts(kind, Ready(limit=3), 2) == local


@pytest.mark.parametrize("kind", ["bare", "named", "mixed", "broken"])
@pytest.mark.parametrize("hosts", [1, 3, 7])
def test_histories_are_the_same_to_the_bit(kind: str, hosts: int) -> None:
    local = live_locally(kind, All())
    assert all(len(life) == STEPS for life in local)
    assert len(set(map(tuple, local))) == WALKERS
    assert live_in_hosts(kind, All(), hosts) == local


@pytest.mark.parametrize("batching", [Ready(), Ready(3, 0.0001), Ready(limit=2), All(3)])
def test_walkers_that_share_nothing_do_not_feel_the_batching(batching: Any) -> None:
    """This committee treats each sample by itself, so any batches give the same lives."""
    assert live_in_hosts("named", batching, 3) == live_locally("named", All())


class Joined(Lives):
    """The same lives, sent together where nobody ends."""

    def step(self, rows: Sequence[int], feedback: Sequence[Feedback] | None, out: Outbox) -> None:
        heard = [None] * len(rows) if feedback is None else feedback
        moved = [self.move(walker, each) for walker, each in zip(rows, heard, strict=True)]
        samples = [sample for sample in moved if sample is not None]
        if len(samples) == len(rows):
            together = Batch(samples)
            if together.uniform:
                together = Batch.stacked(together.columns)
            out.send_all(np.array(rows, np.intp), together)
            return
        for walker, sample in zip(rows, moved, strict=True):
            self.put(walker, sample, out)


@pytest.mark.parametrize("kind", ["bare", "named", "mixed", "broken"])
@pytest.mark.parametrize("batching", [All(), All(3), Ready(limit=2)])
def test_walkers_that_move_together_live_the_same_lives(kind: str, batching: Any) -> None:
    alone = live_locally(kind, All())
    assert live_locally(kind, batching, Joined(kind)) == alone
    assert live_in_hosts(kind, batching, 2, Joined(kind)) == alone


def test_samples_sent_together_reach_the_committee_without_a_copy() -> None:
    lives = Joined("bare")
    walkers = LocalWalkers(lives, WALKERS)
    batch = walkers.gather(walkers.ready())
    assert np.asarray(walkers.gather(walkers.ready())) is np.asarray(batch)
    part = walkers.gather(np.array([1, 4]))
    np.testing.assert_array_equal(np.asarray(part), np.asarray(batch)[[1, 4]])
