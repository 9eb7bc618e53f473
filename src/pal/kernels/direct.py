"""Direct style: an algorithm that calls for forces itself, run as a walker.

A generator answers `step` calls; an integrator, an optimiser or a saddle search wants to call a
function instead. `Direct` turns one into the other with a greenlet: the algorithm runs in its
own stack, and each time it asks, the stack is left until the answer comes with the next `step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from greenlet import getcurrent, greenlet

from pal.records import Feedback, Sample
from pal.roles import STOP, Stop

Ask: TypeAlias = Callable[[Sample], Feedback]
"""Sends a sample to the committee and returns what came back."""


class Direct:
    """Walker that runs `run(ask)`; when `run` returns, the walker asks to stop the campaign.

    An exception in `run` leaves `step` with its own traceback. `step(None)` begins anew. All
    steps must come from one thread, as greenlets cannot move between threads.
    """

    def __init__(self, run: Callable[[Ask], object]) -> None:
        self._run: Final = run
        self._inner: Any = None

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Let the algorithm go on until it asks again."""
        if feedback is None:
            self._inner = greenlet(self._main)
            return self._switch()
        return self._switch(feedback)

    def _main(self) -> Stop:
        self._run(self._ask)
        return STOP

    def _ask(self, sample: Sample) -> Feedback:
        feedback: Feedback = self._inner.parent.switch(sample)
        return feedback

    def _switch(self, *feedback: Feedback) -> Sample | Stop:
        if self._inner is None or self._inner.dead:
            return STOP
        self._inner.parent = getcurrent()
        answer: Sample | Stop = self._inner.switch(*feedback)
        return answer
