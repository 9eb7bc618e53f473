"""An oracle worker: one label after the other, each in a fresh scratch folder."""

from __future__ import annotations

import time
from dataclasses import replace

from pal.building import close
from pal.roles import Oracle
from pal.runtime import memory
from pal.runtime.labels import ANY, calculate
from pal.runtime.messages import LabelDone, LabelRefused, LabelTask, Shutdown
from pal.runtime.worker import Desktop


class OracleDesk:
    """Labels samples as they come."""

    def __init__(self, desk: Desktop) -> None:
        self._desk = desk
        job = desk.job
        memory.offer()
        self._limit: int | None = job.extra.get("memory")
        if self._limit is not None:
            memory.limit(self._limit)
        context = desk.context("oracle", job.index, job.extra["count"])
        self._oracle: Oracle = job.kernels["oracle"].build(context)
        state = desk.load("oracle", job.index)
        if state is not None and hasattr(self._oracle, "set_state"):
            self._oracle.set_state(state)
        self._save_at = time.monotonic() + job.save_interval

    def run(self) -> None:
        """Wait for samples until told to shut down."""
        channel = self._desk.channel
        self._desk.ready()
        while True:
            channel.wait()
            message = channel.receive()
            if isinstance(message, LabelTask):
                self._label(message)
                channel.flush()
                if time.monotonic() > self._save_at:
                    self._save()
            elif isinstance(message, Shutdown):
                self._save()
                close([self._oracle])
                return

    def _save(self) -> None:
        """Save what the oracle remembers from label to label, if it says so."""
        if hasattr(self._oracle, "get_state"):
            desk = self._desk
            desk.save("oracle", desk.job.index, self._oracle.get_state())
        self._save_at = time.monotonic() + self._desk.save_interval

    def _label(self, task: LabelTask) -> None:
        desk = self._desk
        scratch = desk.job.directory / "scratch" / f"{task.identity}-{task.attempt}"
        started = desk.meter.begin()
        try:
            label = calculate(
                self._oracle, task.sample, scratch, desk.job.extra.get("sanity", ANY)
            )
        except Exception as error:
            failure = desk.failure("oracle", task.oracle, error, sample=task.identity)
            if isinstance(error, MemoryError) and self._limit is not None:
                failure = replace(failure, message=_too_much(error, self._limit))
            desk.channel.send(LabelRefused(task.oracle, task.identity, failure))
        else:
            seconds = time.monotonic() - started
            desk.channel.send(LabelDone(task.oracle, task.identity, label, seconds))
        finally:
            desk.meter.end()
            desk.meter.add("rounds")


def _too_much(error: MemoryError, limit: int) -> str:
    what = str(error) or "more memory was asked for than there is"
    return f"{what}; oracle.memory = {limit / (1 << 30):.3g} GiB is all that it may have"


def run(desk: Desktop) -> None:
    """Run an oracle worker."""
    OracleDesk(desk).run()
