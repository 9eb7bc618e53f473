"""Whom the exchange predicts for together, and how long it waits for more."""

from __future__ import annotations

import numpy as np
import pytest
from exchange_fakes import Bench, Walkers
from hypothesis import given
from hypothesis import strategies as st

from pal.exchange.batching import All, Batching, Ready


@pytest.mark.parametrize(
    ("policy", "ready", "living", "waited", "patience"),
    [
        (All(), 0, 4, 9.0, None),
        (All(), 3, 4, 9.0, None),
        (All(), 4, 4, 0.0, 0.0),
        (All(), 4, 3, 0.0, 0.0),
        (All(), 0, 0, 0.0, None),
        (All(limit=2), 2, 4, 9.0, None),
        (Ready(), 0, 4, 0.0, None),
        (Ready(), 1, 4, 0.0, 0.0),
        (Ready(size=3, wait=0.5), 2, 4, 0.2, 0.3),
        (Ready(size=3, wait=0.5), 2, 4, 0.6, 0.0),
        (Ready(size=3, wait=0.5), 3, 4, 0.0, 0.0),
        (Ready(size=3, wait=0.5), 2, 2, 0.0, 0.0),
        (Ready(size=9, wait=0.0), 1, 9, 0.0, 0.0),
    ],
)
def test_patience(
    policy: Batching, ready: int, living: int, waited: float, patience: float | None
) -> None:
    assert policy.patience(ready, living, waited) == (
        patience if patience is None else pytest.approx(patience)
    )


@given(
    st.one_of(
        st.builds(All, st.none() | st.integers(1, 5)),
        st.builds(Ready, st.integers(1, 9), st.floats(0, 1), st.none() | st.integers(1, 5)),
    ),
    st.integers(0, 9),
    st.integers(0, 9),
    st.floats(0, 100),
)
def test_no_policy_sleeps_for_ever_while_all_that_live_are_ready(
    policy: Batching, ready: int, living: int, waited: float
) -> None:
    patience = policy.patience(ready, living, waited)
    if ready and ready >= living:
        assert patience == 0.0
    if patience is None:
        assert ready < policy.quorum(living), "whoever sleeps is woken by the next one ready"
    else:
        assert patience >= 0.0


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 30))
def test_a_limited_batch_takes_turns(walkers: int, limit: int, rounds: int) -> None:
    bench = Bench(Walkers([np.zeros(1)] * walkers), batching=All(limit))
    served = [0] * walkers
    for _ in range(rounds):
        who, _ = bench.exchange.patience()
        assert len(who) == len(set(who.tolist())) == min(limit, walkers)
        bench.exchange.round(who)
        for walker in who:
            served[walker] += 1
    assert max(served) - min(served) <= 1


def test_an_unlimited_batch_is_in_the_order_of_the_walkers() -> None:
    bench = Bench(Walkers([np.zeros(1)] * 5))
    for _ in range(3):
        who, _ = bench.exchange.patience()
        assert who.tolist() == [0, 1, 2, 3, 4]
        bench.exchange.round(who)


def test_the_clock_starts_with_the_first_walker_that_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [50.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bench = Bench(Walkers([np.zeros(1)] * 5, waiting=set()), batching=Ready(size=3, wait=1.0))
    assert bench.exchange.patience()[1] is None
    bench.walkers.waiting = {2}
    assert bench.exchange.patience()[1] == pytest.approx(1.0)
    clock[0] += 0.75
    bench.walkers.waiting = {2, 3}
    assert bench.exchange.patience()[1] == pytest.approx(0.25)
    clock[0] += 0.25
    who, seconds = bench.exchange.patience()
    assert (who.tolist(), seconds) == ([2, 3], 0.0)
    bench.exchange.round(who)
    bench.walkers.waiting = {1}
    assert bench.exchange.patience()[1] == pytest.approx(1.0), "it starts anew after a round"
