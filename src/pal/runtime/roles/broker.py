"""A broker: many oracles beyond the job, behind one executor.

For the controller each of its places is an oracle like any other. The broker hands samples to the
executor and tells what came of them. It never has more labels out than it has places.
"""

from __future__ import annotations

import select
import socket
import time
import uuid
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pal.errors import Failure, KernelImportError
from pal.roles import Context
from pal.runtime.messages import (
    DropLabel,
    Failed,
    LabelDone,
    LabelRefused,
    LabelTask,
    OracleDown,
    OracleFree,
    Ready,
    Shutdown,
)
from pal.runtime.outside import remote
from pal.runtime.outside.errands import Answer, Errand, Terms
from pal.runtime.outside.executors import (
    Executor,
    breakages,
    cancel,
    folder_of_logs,
    losses,
    make_executor,
)
from pal.runtime.worker import Desktop
from pal.transport.doorbell import create_doorbell

SHORTEST, LONGEST = 0.5, 60.0
"""Seconds before a broken executor is made anew: the first time, and at most."""


@dataclass(slots=True, eq=False)
class Out:
    """A label that is out. `dropped`: nobody waits for it any more."""

    errand: Errand
    executor: Executor
    future: Future[Any] | None = None
    dropped: bool = False


class Broker:
    """Serves its places until told to shut down."""

    def __init__(self, desk: Desktop) -> None:
        self._desk = desk
        job = desk.job
        self._terms = Terms(
            uuid.uuid4().hex,
            job.kernels["oracle"],
            job.directory.resolve(),
            job.home,
            job.seed,
            job.extra["count"],
            job.extra["threads"],
            job.extra["deadline"],
            job.extra["sanity"],
        )
        self._out: dict[int, Out] = {}
        self._free_places: set[int] = set()
        """Those whose last word was that they are free."""
        self._done: deque[Out] = deque()
        self._bell = create_doorbell()
        self._worked = False
        self._ending = False
        self._stranded: list[Out] = []
        self._renew_at: float | None = None
        self._pause = 0.0
        self._executor = self._make()

    def _make(self) -> Executor:
        job = self._desk.job
        folder = folder_of_logs(job.directory.resolve())
        context = Context("executor", 0, len(job.oracles), job.seed, folder)
        return make_executor(job.kernels["executor"], context)

    def run(self) -> None:
        """Take samples and answers as they come."""
        channel = self._desk.channel
        for oracle in self._desk.job.oracles:
            self._say(OracleFree(oracle))
        poller = select.poll()
        poller.register(self._bell.fds[0], select.POLLIN)
        while True:
            while (message := channel.receive()) is not None:
                if isinstance(message, Shutdown):
                    return self._end()
                self._obey(message)
            poller.register(channel, select.POLLIN | (select.POLLOUT if channel.backlog else 0))
            rung = self._bell.fds[0] in dict(poller.poll(self._patience()))
            channel.push()
            if rung:
                self._bell.wait()
            self._settle()
            if self._renew_at is not None and time.monotonic() >= self._renew_at:
                self._start_anew()

    def _patience(self) -> float | None:
        """Milliseconds until an executor that broke is made anew."""
        return self._renew_at and max(0.0, self._renew_at - time.monotonic()) * 1e3

    def _obey(self, message: Any) -> None:
        if isinstance(message, LabelTask):
            self._start(message)
        elif isinstance(message, DropLabel):
            self._drop(message.oracle)

    def _drop(self, oracle: int) -> None:
        """Give a label up. The manager waits for the place to be told free, once, in any case."""
        out = self._out.get(oracle)
        if out is None:  # its answer and this order have crossed
            if oracle not in self._free_places:
                self._say(OracleFree(oracle))
            return
        out.dropped = True
        if out in self._stranded:
            self._stranded.remove(out)
            self._down(out, None)
        elif out.future is not None:
            cancel(out.future)

    def _start(self, task: LabelTask) -> None:
        errand = Errand(self._terms, task.oracle, task.identity, task.sample, task.attempt)
        out = self._out[task.oracle] = Out(errand, self._executor)
        self._submit(out)

    def _submit(self, out: Out) -> None:
        out.executor = self._executor
        try:
            out.future = self._executor.submit(remote.label, out.errand)
        except Exception as error:
            self._lost(out, error)
        else:
            # Called in a thread of the executor, which leaves all else to this one.
            out.future.add_done_callback(lambda _: self._tell(out))

    def _tell(self, out: Out) -> None:
        self._done.append(out)
        self._bell.ring()

    def _settle(self) -> None:
        """Pass on what has been answered."""
        while self._done:
            out = self._done.popleft()
            assert out.future is not None
            try:
                answer: Answer = out.future.result()
            except Exception as error:
                self._lost(out, error)
            else:
                self._answered(out, answer)

    def _answered(self, out: Out, answer: Answer) -> None:
        failure, errand = answer.failure, out.errand
        self._pause = 0.0
        if answer.verdict == "unbuilt" and not self._worked:
            assert failure is not None
            raise KernelImportError(f"on {answer.host}: {failure.message}")
        if not self._worked and answer.verdict != "down":
            self._worked = True
            self._desk.channel.send(Ready(time.monotonic() - self._desk.born))
        self._desk.meter.add("busy", answer.seconds)
        self._desk.meter.add("rounds")
        oracle, identity = errand.oracle, errand.identity
        if answer.label is not None:  # even if nobody waits for it: what is done is kept
            label = answer.label
            done = LabelDone(oracle, identity, label, answer.seconds, answer.host)
            self._free(out, done)
        elif answer.verdict == "unbuilt" and failure is not None:
            self._down(
                out, _lost(errand, f"it cannot be built there: {failure.message}", answer.host)
            )
        elif answer.verdict == "refused" and failure is not None and not out.dropped:
            self._free(out, LabelRefused(oracle, identity, failure))
        else:
            self._down(out, failure)

    def _lost(self, out: Out, error: Exception) -> None:
        """Tell what no oracle has said: the executor lost the label, or cannot work at all.

        Whatever an oracle raises comes back in an answer, so this is the executor's own trouble.
        """
        broken = isinstance(error, getattr(out.executor, "breakages", ()))
        if not self._worked and (broken or not isinstance(error, losses(out.executor))):
            raise KernelImportError(
                f"oracle.executor {self._desk.job.kernels['executor'].target} cannot run PAL's "
                f"function: {type(error).__name__}: {error}; its options must fit the machine, "
                "and PAL and the oracle must be installed where it runs",
                foreseen=False,
            ) from error
        if broken:
            self._strand(out, error)
            return
        self._renew(out, error)
        text = f"its executor lost it: {type(error).__name__}: {error}"
        self._down(out, _lost(out.errand, text, socket.gethostname()))

    def _renew(self, out: Out, error: Exception) -> None:
        """Replace an executor that is broken as a whole; its other labels are lost as well."""
        broken = isinstance(error, breakages(out.executor))
        if broken and out.executor is self._executor and not self._ending:
            old, self._executor = self._executor, self._make()
            old.shutdown(wait=False)

    def _strand(self, out: Out, error: Exception) -> None:
        """Keep a label whose executor broke as a whole for the next one: no sample is to blame.

        A batch system may be down for hours.
        """
        if out.dropped or self._ending:
            self._down(out, None)
            return
        self._stranded.append(out)
        if out.executor is self._executor and self._renew_at is None:
            self._pause = min(LONGEST, 2 * self._pause or SHORTEST)
            self._renew_at = time.monotonic() + self._pause
            text = f"the executor broke, and is made anew in {self._pause:g} s: {error}"
            failure = Failure("oracle", out.errand.oracle, type(error).__name__, text)
            self._desk.channel.send(Failed(failure))

    def _start_anew(self) -> None:
        """Make the executor again, and hand it what the broken one did not do."""
        self._renew_at = None
        with suppress(Exception):
            self._executor.shutdown(wait=False)
        self._executor = self._make()
        stranded, self._stranded = self._stranded, []
        for out in stranded:
            self._submit(out)

    def _down(self, out: Out, failure: Failure | None) -> None:
        if failure is not None and not out.dropped:
            self._desk.channel.send(OracleDown(out.errand.oracle, failure))
        self._free(out, OracleFree(out.errand.oracle))

    def _free(self, out: Out, message: Any) -> None:
        """Have the place free again before anyone can hear of it."""
        self._out.pop(out.errand.oracle)
        self._say(message)
        if out.dropped and not isinstance(message, OracleFree):
            self._say(OracleFree(out.errand.oracle))

    def _say(self, message: LabelDone | LabelRefused | OracleFree) -> None:
        if isinstance(message, OracleFree):
            self._free_places.add(message.oracle)
        else:
            self._free_places.discard(message.oracle)
        self._desk.channel.send(message)

    def _end(self) -> None:
        """Give back what the executor holds; labels that are out are made another time.

        What runs in this process or beside it dies with it, and the nursery sees to that.
        """
        self._ending = True
        self._settle()
        for out in self._out.values():
            if out.future is not None:
                cancel(out.future)
        self._executor.shutdown(wait=False)
        remote.end_helpers()


def _lost(errand: Errand, text: str, host: str) -> Failure:
    return Failure("oracle", errand.oracle, "lost", text, host, errand.identity)


def run(desk: Desktop) -> None:
    """Run a broker."""
    Broker(desk).run()
