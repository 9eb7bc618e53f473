"""An oracle worker: one label after the other, each in a fresh scratch folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import ContractError, NotFiniteError
from pal.records import Label, named
from pal.roles import Oracle
from pal.runtime.messages import LabelDone, LabelRefused, LabelTask, Shutdown
from pal.runtime.worker import Desktop, clear


def check_label(label: Any) -> Label:
    """Return a label if it is arrays of finite numbers.

    Raises:
        ContractError, NotFiniteError: says what came.
    """
    if not isinstance(label, np.ndarray | Mapping) or not len(label):
        raise ContractError(
            f"label returned {type(label).__name__}; expected a numpy array or a mapping of "
            "names to arrays, not empty"
        )
    for name, array in named(label).items():
        if array.dtype.kind not in "biufcSU":
            raise ContractError(f"label returned {name or 'an array'} of dtype {array.dtype}")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            count = int(np.count_nonzero(~np.isfinite(array)))
            raise NotFiniteError(
                f"label returned {name or 'an array'} of shape {array.shape} with {count} "
                "entries that are NaN or infinite"
            )
    return label if isinstance(label, np.ndarray) else named(label)


class OracleDesk:
    """Labels samples as they come."""

    def __init__(self, desk: Desktop) -> None:
        self._desk = desk
        job = desk.job
        context = desk.context("oracle", job.index, job.extra["count"])
        self._oracle: Oracle = job.kernels["oracle"].build(context)
        state = desk.run.load_state("oracle", job.index)
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
                return

    def _save(self) -> None:
        """Save what the oracle remembers from label to label, if it says so."""
        if hasattr(self._oracle, "get_state"):
            desk = self._desk
            desk.run.save_state("oracle", desk.job.index, self._oracle.get_state())
        self._save_at = time.monotonic() + self._desk.job.save_interval

    def _label(self, task: LabelTask) -> None:
        desk = self._desk
        scratch = desk.job.directory / "scratch" / f"{task.identity}-{task.attempt}"
        started = desk.meter.begin()
        home = _enter(scratch)
        try:
            label = check_label(self._oracle.label(task.sample))
        except Exception as error:
            failure = desk.failure("oracle", desk.job.index, error, sample=task.identity)
            desk.channel.send(LabelRefused(task.identity, failure))
        else:
            desk.channel.send(LabelDone(task.identity, label, time.monotonic() - started))
        finally:
            os.chdir(home)
            clear(scratch)
            desk.meter.end()
            desk.meter.add("rounds")


def _enter(scratch: Path) -> Path:
    """Make a fresh scratch folder the working directory; return the previous one."""
    home = Path.cwd()
    clear(scratch)
    scratch.mkdir(parents=True)
    os.chdir(scratch)
    return home


def run(desk: Desktop) -> None:
    """Run an oracle worker."""
    OracleDesk(desk).run()
