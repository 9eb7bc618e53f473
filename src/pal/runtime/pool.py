"""A pool of walkers in one process: builds, moves, saves and, after a failure, restores them."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from pal.errors import ContractError, Failure
from pal.records import Feedback, Sample
from pal.roles import STOP, Generator


class Reporter(Protocol):
    """Who hears of failures and of a walker's wish to stop."""

    def report(self, failure: Failure) -> None:
        """Make a failure known."""
        ...

    def stop(self, reason: str) -> None:
        """Ask for the end of the campaign."""
        ...


class Source(Protocol):
    """Makes walkers, and remembers their states across processes."""

    def build(self, walker: int) -> Generator:
        """Return a new instance."""
        ...

    def load(self, walker: int) -> Any | None:
        """Return the state saved last, or None."""
        ...

    def save(self, states: Mapping[int, Any]) -> None:
        """Save the states of several walkers."""
        ...

    def failure(self, walker: int, error: BaseException) -> Failure:
        """Describe an exception."""
        ...


class Pool:
    """Walkers by their numbers.

    A walker whose `step` raises, or that is sent back because of a sample or prediction that is
    not finite, is built anew and takes up its last saved state. One that fails more than
    `restarts` times within an hour is given up.
    """

    def __init__(
        self, walkers: Iterable[int], source: Source, reporter: Reporter, restarts: int
    ) -> None:
        self._source = source
        self._reporter = reporter
        self._restarts = restarts
        self._states: dict[int, bytes] = {}
        self._failures: dict[int, deque[float]] = {}
        self._walkers: dict[int, Generator] = {}
        for walker in walkers:
            state = source.load(walker)
            if state is not None:
                self._states[walker] = pickle.dumps(state)
            self._walkers[walker] = self._build(walker)

    def _build(self, walker: int) -> Generator:
        generator = self._source.build(walker)
        if walker in self._states and hasattr(generator, "set_state"):
            generator.set_state(pickle.loads(self._states[walker]))
        return generator

    def step(self, walker: int, feedback: Feedback | None) -> Sample | None:
        """Move one walker. None when it asked to stop or was given up."""
        try:
            return self._move(walker, feedback)
        except Exception as error:
            self._reporter.report(self._source.failure(walker, error))
        return self.recover(walker)

    def _move(self, walker: int, feedback: Feedback | None) -> Sample | None:
        sample = self._walkers[walker].step(feedback)
        if type(sample) is np.ndarray or type(sample) is dict:
            return sample
        if sample is STOP:
            self._reporter.stop(f"walker {walker} asked to stop")
            return None
        if isinstance(sample, Mapping | np.ndarray):
            return sample
        raise ContractError(
            f"step returned {type(sample).__name__}; expected a numpy array, a mapping of "
            "names to arrays, or STOP"
        )

    def recover(self, walker: int) -> Sample | None:
        """Take a walker back to its last saved state and move it; None when it is given up."""
        while self._may_go_on(walker):
            try:
                self._walkers[walker] = self._build(walker)
                return self._move(walker, None)
            except Exception as error:
                self._reporter.report(self._source.failure(walker, error))
        return None

    def _may_go_on(self, walker: int) -> bool:
        """Count a failure of a walker; False, and told, once there were too many."""
        recent = self._failures.setdefault(walker, deque())
        now = time.monotonic()
        recent.append(now)
        while recent[0] < now - 3600:
            recent.popleft()
        if len(recent) <= self._restarts:
            return True
        self._reporter.report(
            Failure(
                "generator",
                walker,
                "GivenUp",
                f"failed {len(recent)} times within an hour; restart.budget = "
                f"{self._restarts} allows no more",
            )
        )
        return False

    def save(self) -> None:
        """Save the states of all walkers that have one."""
        states: dict[int, Any] = {}
        for walker, generator in self._walkers.items():
            if hasattr(generator, "get_state"):
                states[walker] = generator.get_state()
                self._states[walker] = pickle.dumps(states[walker])
        if states:
            self._source.save(states)
