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
from dataclasses import dataclass
from typing import Any

from pal.errors import Failure, KernelImportError
from pal.roles import Context
from pal.runtime.messages import (
    DropLabel,
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
        )
        self._out: dict[int, Out] = {}
        self._done: deque[Out] = deque()
        self._bell = create_doorbell()
        self._worked = False
        self._ending = False
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
            channel.send(OracleFree(oracle))
        poller = select.poll()
        poller.register(self._bell.fds[0], select.POLLIN)
        while True:
            while (message := channel.receive()) is not None:
                if isinstance(message, Shutdown):
                    return self._end()
                self._obey(message)
            poller.register(channel, select.POLLIN | (select.POLLOUT if channel.backlog else 0))
            rung = self._bell.fds[0] in dict(poller.poll())
            channel.push()
            if rung:
                self._bell.wait()
            self._settle()

    def _obey(self, message: Any) -> None:
        if isinstance(message, LabelTask):
            self._start(message)
        elif isinstance(message, DropLabel) and (out := self._out.get(message.oracle)):
            out.dropped = True
            if out.future is not None:
                cancel(out.future)

    def _start(self, task: LabelTask) -> None:
        errand = Errand(self._terms, task.oracle, task.identity, task.sample, task.attempt)
        out = self._out[task.oracle] = Out(errand, self._executor)
        try:
            out.future = self._executor.submit(remote.label, errand)
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
        known = isinstance(error, losses(out.executor))
        if not known and not self._worked:
            raise KernelImportError(
                f"oracle.executor {self._desk.job.kernels['executor'].target} cannot run PAL's "
                f"function there: {type(error).__name__}: {error}; PAL and the oracle must be "
                "installed where it runs",
                foreseen=False,
            ) from error
        self._renew(out, error)
        text = f"its executor lost it: {type(error).__name__}: {error}"
        self._down(out, _lost(out.errand, text, socket.gethostname()))

    def _renew(self, out: Out, error: Exception) -> None:
        """Replace an executor that is broken as a whole; its other labels are lost as well."""
        broken = isinstance(error, breakages(out.executor))
        if broken and out.executor is self._executor and not self._ending:
            old, self._executor = self._executor, self._make()
            old.shutdown(wait=False)

    def _down(self, out: Out, failure: Failure | None) -> None:
        if failure is not None and not out.dropped:
            self._desk.channel.send(OracleDown(out.errand.oracle, failure))
        self._free(out, OracleFree(out.errand.oracle))

    def _free(self, out: Out, message: Any) -> None:
        """Have the place free again before anyone can hear of it."""
        self._out.pop(out.errand.oracle)
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
