"""Gauges: from the numbers on the board and the manager's counts to a snapshot a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pal.controller.manager import Manager
from pal.monitor.metrics import Snapshot
from pal.runtime.orders import Job, Key
from pal.runtime.worker import KERNEL_OF

EXCHANGE_COLUMNS = ("rounds", "samples", "uncertain", "uncertainty", "skipped", "rejected")


@dataclass(slots=True)
class Gauges:
    """Reads what workers count; remembers what it read last, to tell rates.

    Counts survive the worker, so totals are right over restarts. `past` are the totals of
    earlier sessions, from their last snapshot.
    """

    jobs: Sequence[Job]
    readings: Callable[[], Mapping[Key, Mapping[str, float]]]
    past: Snapshot
    _last: dict[str, float] = field(default_factory=dict)
    _last_busy: dict[str, float] = field(default_factory=dict)
    _read_at: float = field(default_factory=time.monotonic)
    _explored: tuple[int, int] = (0, 0)

    def exchange(self) -> dict[str, float]:
        """What the exchanges of this session did."""
        return self._sums(self.readings())

    def _sums(self, readings: Mapping[Key, Mapping[str, float]]) -> dict[str, float]:
        exchanges = [reading for (role, _), reading in readings.items() if role == "exchange"]
        return {name: sum(reading[name] for reading in exchanges) for name in EXCHANGE_COLUMNS}

    def explored(self) -> tuple[int, int]:
        """Samples and uncertain samples since the last call."""
        now = self.exchange()
        samples, uncertain = int(now["samples"]), int(now["uncertain"])
        before, self._explored = self._explored, (samples, uncertain)
        return samples - before[0], uncertain - before[1]

    def _of(self, role: str) -> list[Job]:
        return [job for job in self.jobs if job.role == role]

    def _busy(self, readings: Mapping[Key, Mapping[str, float]]) -> dict[str, float]:
        """Busy seconds of each kernel in this session, summed over its processes."""
        totals: dict[str, float] = {}
        for job in self.jobs:
            kernel = KERNEL_OF.get(job.role, "prediction")
            busy = readings.get(job.key, {}).get("busy", 0.0)
            totals[kernel] = totals.get(kernel, 0.0) + busy
        return totals

    def _processes(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        remote = bool(self._of("predictor"))
        for job in self.jobs:
            # An exchange whose members live elsewhere only waits for the predictors.
            if not (remote and job.role == "exchange"):
                kernel = KERNEL_OF.get(job.role, "prediction")
                counts[kernel] = counts.get(kernel, 0) + max(1, len(job.oracles))
        return counts

    def read(
        self, manager: Manager, clock: float, loss: float | None, version: int, restarts: int
    ) -> Snapshot:
        """Take a snapshot."""
        now = time.monotonic()
        span = max(1e-9, now - self._read_at)
        readings = self.readings()
        seen, busy, past = self._sums(readings), self._busy(readings), self.past
        new = {name: value - self._last.get(name, 0.0) for name, value in seen.items()}
        processes = self._processes()
        utilisation = {
            kernel: min(1.0, (busy[kernel] - self._last_busy.get(kernel, 0.0)) / span / count)
            for kernel, count in processes.items()
        }
        self._last, self._last_busy, self._read_at = seen, busy, now
        counts = manager.counts
        samples = new["samples"]
        return Snapshot(
            time=clock,
            phase=manager.phase,
            rounds=past.rounds + int(seen["rounds"]),
            samples=past.samples + int(seen["samples"]),
            rate=samples / span,
            uncertain=past.uncertain + int(seen["uncertain"]),
            uncertain_fraction=new["uncertain"] / samples if samples else 0.0,
            uncertainty=new["uncertainty"] / samples if samples else 0.0,
            skipped=past.skipped + int(seen["skipped"]),
            rejected=past.rejected + int(seen["rejected"]),
            queued=counts.queued,
            running=counts.running,
            labelled=counts.labelled,
            failed=counts.failed + counts.quarantined,
            quarantined=counts.quarantined,
            dropped=counts.dropped,
            epochs=counts.epochs,
            loss=loss,
            version=version,
            restarts=past.restarts + restarts,
            utilisation=utilisation,
            totals={
                kernel: past.totals.get(kernel, 0.0) + busy.get(kernel, 0.0)
                for kernel in processes
            },
        )
