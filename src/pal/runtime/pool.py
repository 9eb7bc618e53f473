"""A pool of walkers in one process: builds, moves, saves and, after a failure, restores them."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

import numpy as np

from pal.building import build_ensemble
from pal.errors import ContractError, Failure, ShapeError
from pal.exchange.walkers import Outbox
from pal.records import Batch, Feedback, Feedbacks, Refusal, Sample
from pal.roles import STOP, Ensemble, Generator, Stop

_STEADY = 10
"""Steps after which a walker that was sent back has come away from there."""


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
    """Walkers by their rows; outside they have the numbers `walkers`.

    Each moves by itself, or all that are asked to move do so in one call, where their class
    offers an `ensemble`. A walker whose step raises, or that is sent back because of a sample or
    prediction that is not finite, is built anew and takes up its last saved state; so are all
    walkers of a call to the ensemble that raises. One that fails more than `restarts` times
    within an hour is given up.

    A walker that is sent back from where nothing is physical has not failed. If it is there again
    within its next `_STEADY` steps, it leaves its saved state behind, which led there.
    `beat` is called after each walker's own step.
    """

    def __init__(
        self,
        walkers: Sequence[int],
        source: Source,
        reporter: Reporter,
        restarts: int,
        beat: Callable[[], None] | None = None,
    ) -> None:
        self._numbers = walkers
        self._source = source
        self._reporter = reporter
        self._restarts = restarts
        self._beat = beat
        self._unsteady: dict[int, int] = {}
        """For walkers that were sent back, how many steps are left until they are steady again."""
        self._states: dict[int, bytes] = {}
        self._failures: dict[int, deque[float]] = {}
        for row, walker in enumerate(walkers):
            state = source.load(walker)
            if state is not None:
                self._states[row] = pickle.dumps(state)
        self._walkers = [self._build(row) for row in range(len(walkers))]
        self._ensemble = build_ensemble(self._walkers)
        if self._ensemble is not None:
            self._walkers = []

    def _build(self, row: int) -> Generator:
        generator = self._source.build(self._numbers[row])
        if row in self._states and hasattr(generator, "set_state"):
            generator.set_state(pickle.loads(self._states[row]))
        return generator

    def step(self, rows: Sequence[int], feedback: Sequence[Feedback] | None, out: Outbox) -> None:
        """Move walkers, the first time without feedback.

        Each sends its sample into `out`, or ends there when it asks to stop or is given up. A
        walker that moves by itself sends its sample before the next one moves.
        """
        if self._unsteady:
            self._steady(rows)
        if self._ensemble is not None:
            self._step_together(self._ensemble, rows, feedback, out)
            return
        walkers, send, beat = self._walkers, out.send, self._beat
        for row, heard in zip(rows, repeat(None) if feedback is None else feedback):  # noqa: B905
            try:
                sample = walkers[row].step(heard)
                checked = (
                    sample
                    if type(sample) is np.ndarray or type(sample) is dict
                    else self._checked(row, sample)
                )
            except Exception as error:
                self._report(row, error)
                checked = self._recovered(row)
            if checked is None:
                out.end(row)
            else:
                send(row, checked)
            if beat is not None:
                beat()

    def _step_together(
        self,
        ensemble: Ensemble,
        rows: Sequence[int],
        feedback: Sequence[Feedback] | None,
        out: Outbox,
    ) -> None:
        which = np.array(rows, np.intp)
        try:
            samples = ensemble.step(which, None if feedback is None else Feedbacks.of(feedback))
            _require_one_each(samples, len(rows))
        except Exception as error:
            for row in rows:
                self._report(row, error)
                _put(row, self._recovered(row), out)
            return
        if isinstance(samples, Batch):
            out.send_all(which, samples)
            return
        for row, sample in zip(rows, samples, strict=True):
            try:
                checked = self._checked(row, sample)
            except ContractError as error:
                self._report(row, error)
                checked = self._recovered(row)
            _put(row, checked, out)

    def recover(self, rows: Sequence[int], out: Outbox, why: Refusal) -> None:
        """Take walkers back to their last saved states and move them, each by itself."""
        for row in rows:
            if why is Refusal.UNPHYSICAL:
                if row in self._unsteady:
                    self._states.pop(row, None)
                self._unsteady[row] = _STEADY
            _put(row, self._recovered(row, failed=why is Refusal.BROKEN), out)

    def _steady(self, rows: Iterable[int]) -> None:
        """Count steps of walkers that were sent back."""
        for row in self._unsteady.keys() & set(rows):
            self._unsteady[row] -= 1
            if not self._unsteady[row]:
                del self._unsteady[row]

    def _recovered(self, row: int, failed: bool = True) -> Sample | None:
        """Return the sample a walker goes on with; None when it is given up or wants to stop."""
        while not failed or self._may_go_on(row):
            failed = True
            try:
                return self._checked(row, self._restarted(row))
            except Exception as error:
                self._report(row, error)
        return None

    def _restarted(self, row: int) -> Sample | Stop:
        """Build a walker anew, at its last saved state, and let it make its first step."""
        walker = self._build(row)
        if self._ensemble is None:
            self._walkers[row] = walker
            return walker.step(None)
        self._ensemble.set_state(row, walker.get_state())  # type: ignore[attr-defined]
        samples = self._ensemble.step(np.array([row], np.intp), None)
        _require_one_each(samples, 1)
        return samples[0]

    def _checked(self, row: int, sample: Any) -> Sample | None:
        """Return a sample that is one; None where the walker asks for the end."""
        if sample is STOP:
            self._reporter.stop(f"walker {self._numbers[row]} asked to stop")
            return None
        if isinstance(sample, Mapping | np.ndarray):
            return sample
        raise ContractError(
            f"step returned {type(sample).__name__}; expected a numpy array, a mapping of "
            "names to arrays, or STOP"
        )

    def _report(self, row: int, error: Exception) -> None:
        self._reporter.report(self._source.failure(self._numbers[row], error))

    def _may_go_on(self, row: int) -> bool:
        """Count a failure of a walker; False, and told, once there were too many."""
        recent = self._failures.setdefault(row, deque())
        now = time.monotonic()
        recent.append(now)
        while recent[0] < now - 3600:
            recent.popleft()
        if len(recent) <= self._restarts:
            return True
        self._reporter.report(
            Failure(
                "generator",
                self._numbers[row],
                "GivenUp",
                f"failed {len(recent)} times within an hour; generator.restarts, or else "
                f"restart.budget = {self._restarts}, allows no more",
            )
        )
        return False

    def save(self) -> None:
        """Save the states of all walkers that have one."""
        states: dict[int, Any] = {}
        for row, walker in enumerate(self._numbers):
            if self._ensemble is not None:
                states[walker] = self._ensemble.get_state(row)
            elif hasattr(self._walkers[row], "get_state"):
                states[walker] = self._walkers[row].get_state()  # type: ignore[attr-defined]
            if walker in states:
                self._states[row] = pickle.dumps(states[walker])
        if states:
            self._source.save(states)


def _put(row: int, sample: Sample | None, out: Outbox) -> None:
    if sample is None:
        out.end(row)
    else:
        out.send(row, sample)


def _require_one_each(samples: Any, count: int) -> None:
    if not isinstance(samples, Sequence):
        raise ContractError(
            f"an ensemble's step returned {type(samples).__name__}; expected a pal.Batch, or a "
            "list of samples and STOP"
        )
    if len(samples) != count:
        raise ShapeError(
            f"an ensemble's step returned {len(samples)} samples; expected one for each of the "
            f"{count} walkers it was asked to move"
        )
