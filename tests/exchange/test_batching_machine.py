"""Batching with walkers that come, wait and die: none that waits is forgotten."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from exchange_fakes import Bench, Walkers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from pal.exchange.batching import All, Batching, Ready
from pal.records import Feedbacks

COUNT = 5
LIMITS = st.none() | st.integers(1, 3)
WALKERS = st.integers(0, COUNT - 1)


@dataclass
class Crowd(Walkers):
    """Walkers of which some have died; who is answered goes on and waits no more."""

    dead: set[int] = field(default_factory=set)

    def living(self) -> int:
        return COUNT - len(self.dead)

    def reply(self, who: NDArray[np.intp], feedback: Feedbacks) -> None:
        assert self.waiting is not None
        assert self.waiting.issuperset(who.tolist())
        self.waiting.difference_update(who.tolist())


class BatchingMachine(RuleBasedStateMachine):
    """An exchange that sleeps as its policy says, and is rung as it asked to be."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.until, self.quorum = 100.0, None, 1
        self.since: dict[int, float] = {}
        self.monotonic, time.monotonic = time.monotonic, lambda: self.now  # type: ignore[assignment]

    def teardown(self) -> None:
        time.monotonic = self.monotonic  # type: ignore[assignment]

    @initialize(
        policy=st.one_of(
            st.builds(All, LIMITS),
            st.builds(Ready, st.integers(1, 6), st.sampled_from([0.0, 1.0]), LIMITS),
        )
    )
    def begin(self, policy: Batching) -> None:
        self.policy = policy
        self.walkers = Crowd([np.zeros(1)] * COUNT, waiting=set())
        self.exchange = Bench(self.walkers, batching=policy).exchange
        self.look()

    @property
    def waiting(self) -> set[int]:
        assert self.walkers.waiting is not None
        return self.walkers.waiting

    def look(self) -> None:
        """What an exchange does when it is awake: rounds, until there is to be waited."""
        for _ in range(2 * COUNT):
            who, seconds = self.exchange.patience()
            if seconds != 0.0:
                break
            assert len(who), "a round is for somebody"
            self.exchange.round(who)
        else:
            raise AssertionError("the exchange spins")
        self.until = None if seconds is None else self.now + seconds
        self.quorum = self.policy.quorum(self.walkers.living())
        self.since = {walker: self.since.get(walker, self.now) for walker in self.waiting}

    @rule(walker=WALKERS)
    def a_walker_is_ready(self, walker: int) -> None:
        if walker not in self.walkers.dead:
            self.waiting.add(walker)
            self.since.setdefault(walker, self.now)
            if len(self.waiting) >= self.quorum:
                self.look()

    @rule(walker=WALKERS)
    def a_walker_dies(self, walker: int) -> None:
        self.walkers.dead.add(walker)
        self.waiting.discard(walker)
        self.since.pop(walker, None)
        self.look()  # whoever ends rings

    @precondition(lambda self: self.walkers.dead)
    @rule()
    def a_walker_returns(self) -> None:
        self.walkers.dead.pop()

    @rule(seconds=st.sampled_from([0.1, 0.5, 8.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.until is not None and self.until <= end:
            self.now = max(self.now, self.until)
            self.look()
        self.now = end

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if not hasattr(self, "walkers"):
            return
        everyone = len(self.waiting) >= self.walkers.living()
        assert not (self.waiting and everyone), "all that live wait, and the exchange sleeps"
        if isinstance(self.policy, Ready):
            longest = max((self.now - since for since in self.since.values()), default=0.0)
            batches = 1 if self.policy.limit is None else COUNT
            assert longest <= batches * self.policy.wait + 1e-9


TestBatching = BatchingMachine.TestCase
# The same examples each time, and none has a deadline: others want the processor, too.
TestBatching.settings = settings(
    max_examples=100, stateful_step_count=30, derandomize=True, deadline=None, database=None
)
