"""Exchange overhead on this machine: PAL's round against the same kernels in one plain loop."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import PalError
from pal.monitor.metrics import Snapshot
from pal.records import Batch, Feedback, Prediction
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.runtime.machines import available_cores
from pal.testing.noop import Constant, Content, Sleeper, Still


@dataclass(frozen=True, slots=True)
class Case:
    """A number of walkers and members, and the doubles that travel out and back."""

    walkers: int
    members: int
    out: int
    back: int

    def __str__(self) -> str:
        return f"{self.walkers} walkers x {self.members} members"


CASES = (Case(20, 2, 114, 345), Case(89, 4, 115, 805))
PLACES: Mapping[str, Mapping[str, Any]] = {
    "a process per walker": {"hosts": "each"},
    "pooled in two hosts": {"hosts": 2},
    "tight coupling": {"placement": "committee"},
}


def floor(case: Case, seconds: float) -> float:
    """Median seconds of a round in one loop of one process, with plain numpy."""

    def context(index: int) -> Context:
        return Context("floor", index, 1, index, Path())

    walkers = [Still(context(index), case.out) for index in range(case.walkers)]
    members = [Constant(context(index), case.back) for index in range(case.members)]
    selector = Content()
    feedback: Sequence[Feedback | None] = [None] * case.walkers
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        samples = np.stack([w.step(f) for w, f in zip(walkers, feedback, strict=True)])
        batch = Batch.stacked(samples)
        labels = np.stack([member.predict(batch) for member in members])
        mean, deviation = labels.mean(axis=0), labels.std(axis=0, ddof=1)
        prediction = Prediction([], Batch.stacked(mean), Batch.stacked(deviation))
        chosen = selector.select(batch, prediction)
        feedback = [
            Feedback(m, d, float(u), bool(t), 0)
            for m, d, u, t in zip(mean, deviation, chosen.uncertainty, chosen.trusted, strict=True)
        ]
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def snapshots(seconds: float, directory: str, **settings: Any) -> list[Snapshot]:
    """Run a campaign of kernels that do nothing; return its snapshots after the first second."""
    merged: dict[str, Any] = {
        "oracle": {"kernel": Sleeper, "enabled": False},
        "selector": Content,
        "exchange": {"batching": "all"},
        **settings,
    }
    stop = {"after": seconds, "final_training": 0}
    campaign = Campaign(directory=directory, fresh=True, stop=stop, **merged)
    seen = [news for news in campaign if isinstance(news, Snapshot)]
    moving = [s for s in seen if s.phase in ("running", "exploring") and s.rounds]
    return moving[1:]


def campaign(case: Case, place: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Return the settings of a campaign without labels and training."""
    return {
        "generator": {
            "kernel": Still,
            "walkers": case.walkers,
            "options": {"size": case.out},
            **place,
        },
        "model": {
            "kernel": Constant,
            "members": case.members,
            "options": {"size": case.back, **options},
            "train": False,
        },
    }


def round_time(case: Case, place: Mapping[str, Any], seconds: float) -> float:
    """Mean seconds of a round with kernels that do nothing."""
    return mean_round(campaign(case, place), case.walkers, seconds)


def mean_round(settings: Mapping[str, Any], walkers: int, seconds: float) -> float:
    """Mean seconds of a round in a running campaign, between its first and last snapshot."""
    with tempfile.TemporaryDirectory() as folder:
        start_up = 2.0 + 0.05 * walkers
        seen = snapshots(seconds + start_up, f"{folder}/run", **settings)
    if len(seen) < 2 or seen[-1].rounds == seen[0].rounds:
        raise PalError(
            f"{walkers} walkers came to no rounds that could be timed within {seconds:g} s: the "
            "machine is too busy; try again, or give more --seconds"
        )
    first, last = seen[0], seen[-1]
    return (last.time - first.time) / (last.rounds - first.rounds)


def machine() -> str:
    """Describe this machine in a line."""
    load = os.getloadavg()[0]
    return (
        f"{len(available_cores())} cores, {platform.machine()}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, numpy {np.__version__}, load {load:.1f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the time of a round for every case and placement, beside the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each campaign")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median counts")
    given = parser.parse_args(argv)
    print(f"Machine: {machine()}\n")
    print("| case | placement | ms a round | times the floor |\n|---|---|---|---|")
    for case in CASES:
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in PLACES}
        for _ in range(given.repeats):
            for name, place in PLACES.items():
                bare = floor(case, 1.0)
                rows[name].append((round_time(case, place, given.seconds), bare))
        bares = [bare for row in rows.values() for _, bare in row]
        print(f"| {case} | one loop, one process | {1e3 * statistics.median(bares):.3f} | 1.00 |")
        for name, row in rows.items():
            median = statistics.median(t for t, _ in row)
            ratio = statistics.median(t / bare for t, bare in row)
            print(f"| {case} | {name} | {1e3 * median:.3f} | {ratio:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
