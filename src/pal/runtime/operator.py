"""The operator: what people and batch systems ask of a running session, and how it answers."""

from __future__ import annotations

import math
import os
import time
from typing import Protocol

from pal.controller import events as ev
from pal.controller.commands import Finish
from pal.errors import LedgerError
from pal.ledger.directory import RunDirectory
from pal.runtime.cluster import Signalled
from pal.runtime.deeds import Deeds
from pal.runtime.ending import outcome_of
from pal.runtime.happenings import Outcome
from pal.runtime.interrupts import WALLTIME, Interrupts
from pal.runtime.requests import Answer, Request, Requests, Unreadable
from pal.runtime.walltime import Walltime

GLANCE = 0.1
"""Seconds between two looks for requests."""

HASTE = 10.0
"""Seconds after which trainers are not waited for when a batch system ends the job."""


class Stoppable(Protocol):
    """What the operator needs of a session."""

    deeds: Deeds

    @property
    def clock(self) -> float:
        """Campaign time in seconds."""
        ...

    @property
    def directed(self) -> bool:
        """Whether a manager leads already; before that there is nothing to end in order."""
        ...

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the manager."""
        ...

    def say(self, text: str, level: str = "info") -> None:
        """Show a line."""
        ...

    def end(self, outcome: Outcome) -> None:
        """End at once."""
        ...

    def request_stop(self, reason: str, patient: bool = False) -> None:
        """Ask for an orderly end."""
        ...


class Operator:
    """Hears signals to this agent and to others, requests in the run directory, and the clock.

    `interrupts` takes the signals to this agent. `margin`: seconds that the end of a session
    takes.
    """

    def __init__(self, session: Stoppable, directory: RunDirectory, margin: float) -> None:
        self._session = session
        self._requests = Requests(directory.requests)
        self._glance_at = 0.0
        self._under_way: set[str] = set()
        self.interrupts = Interrupts()
        self._walltime = Walltime(margin)
        self._hurry_at = math.inf
        self._draining = False

    @property
    def insists(self) -> bool:
        """Whether the end was asked for more than once: nobody wants to wait."""
        return self.interrupts.count > 1

    @property
    def hurried(self) -> bool:
        """Whether the batch system is about to kill this job."""
        return self._hurry_at < math.inf

    def open(self) -> None:
        """Get ready for requests."""
        self._requests.open()

    def glance(self) -> None:
        """See, some times a second, whether somebody asks for something."""
        now = time.monotonic()
        if now < self._glance_at:
            return
        self._glance_at = now + GLANCE
        if self._requests.stirred():
            self._read_requests()
        for request, answer in self._session.deeds.late():
            self._under_way.discard(request.id)
            self._requests.finish(request, answer)

    def look(self) -> None:
        """See, once a second, what was asked, and whether the time of the job is up."""
        self._read_requests()
        if self._walltime.due(self._walltime.now):
            self._drain(self._walltime.reason)
        if self._session.directed and time.monotonic() >= self._hurry_at:
            self._session.feed(ev.StopRequested(self._session.clock, "", continued=True))

    def _read_requests(self) -> None:
        """Carry out what is asked, in order; but for the end, only a manager can."""
        for item in self._requests.news():
            if isinstance(item, Unreadable):
                text = f"request {item.id} cannot be read and is ignored: {item.reason}"
                self._session.say(text, "warning")
                self._requests.finish(item)
            elif item.deed == "stop":
                self._requests.finish(item)
                # One left over from a session that was killed is not meant for this one.
                if item.pid in (None, os.getpid()):
                    reason = str(item.arguments["reason"])
                    self._session.deeds.note(item, f"asked to stop: {reason}")
                    self._session.request_stop(reason)
            elif self._session.directed and item.id not in self._under_way:
                self._carry_out(item)

    def _carry_out(self, request: Request) -> None:
        try:
            arrays = self._requests.arrays(request)
            answer = self._session.deeds.do(request, arrays)
        except LedgerError:
            return  # the session ends for it, and the next one reads the request again
        except (OSError, ValueError) as error:
            answer = Answer(False, f"the label that came with it cannot be read: {error}", 4)
        if answer is None:
            self._under_way.add(request.id)
        else:
            self._requests.finish(request, answer)

    def _drain(self, reason: str) -> None:
        """End this session in good order, so that the next batch job can go on."""
        if self._draining:
            return
        self._draining = True
        self._session.say(f"stopping, {reason}")
        if not self._session.directed:
            self._session.end(outcome_of(Finish(reason, continued=True), None, True))
        else:
            self._session.feed(
                ev.StopRequested(self._session.clock, reason, patient=True, continued=True)
            )

    def take_signals(self) -> None:
        """Obey what came to this agent."""
        for name in self.interrupts.take():
            if name == WALLTIME:
                self._drain(f"to be continued: {name} says that the batch job ends soon")
            elif self.interrupts.count > 1:
                reason = f"{name} twice: stopped at once"
                self._session.end(Outcome(reason, error=KeyboardInterrupt(reason)))
            elif name == "SIGTERM" and self._walltime.job is not None:
                self._obey_scheduler(name)
            else:
                self._session.request_stop(f"{name} received")
                self._session.say(
                    "finishing labels and training; press Ctrl-C again to stop at once"
                )

    def take_distant_signal(self, signal: Signalled) -> None:
        """Obey a signal to another node's agent; launchers give one signal to all of them."""
        if signal.name == WALLTIME:
            self._drain(f"{signal}: the time of the batch job is nearly up")
        elif signal.name == "SIGTERM" and self._walltime.job is not None:
            self._obey_scheduler(signal.name)
        else:
            self._session.request_stop(str(signal), patient=True)

    def _obey_scheduler(self, name: str) -> None:
        """End within the half a minute that batch systems give: running labels are requeued."""
        if self.hurried:
            return
        reason = f"{name} received from the batch system"
        over = self._walltime.over(self._walltime.now)
        self._session.say(f"stopping at once: {reason}")
        self._hurry_at = time.monotonic() + HASTE
        if not self._session.directed:
            self._session.end(Outcome(reason, hasty=True))
            return
        for _ in range(2):
            self._session.feed(ev.StopRequested(self._session.clock, reason, continued=over))
