"""`pal bench simulate`: play thousands of schedules, or one of them again."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pal.simulate.defects import DEFECTS
from pal.simulate.faults import Fault
from pal.simulate.history import told
from pal.simulate.mirror import Mirror
from pal.simulate.schedule import Played, draw, play
from pal.simulate.shrink import kinds_of, shrink
from pal.simulate.story import report, rules_said
from pal.simulate.world import Plant

MOST_TOLD: Final = 5
"""Broken schedules that are shrunk and told of; more are counted."""

EVERY: Final = 1.0
"""Seconds between two lines of progress on a terminal."""


@dataclass(slots=True)
class Tally:
    """What has come of the schedules so far."""

    schedules: int = 0
    events: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    broken: int = 0
    began: float = field(default_factory=time.perf_counter)

    def count(self, played: Played) -> None:
        """Add a schedule."""
        self.schedules += 1
        self.events += played.events
        self.faults.update(kind for kind, _ in played.struck)
        self.broken += played.broken is not None

    @property
    def rate(self) -> float:
        """Schedules a second."""
        return self.schedules / max(1e-9, time.perf_counter() - self.began)

    def __str__(self) -> str:
        return (
            f"{self.schedules:,} schedules, {self.events:,} events, "
            f"{self.faults.total():,} faults of {len(self.faults)} kinds, "
            f"{self.broken:,} broken, {self.rate:.0f}/s"
        )


def run(
    seeds: Sequence[int], plant: Plant | None = None, ledger: bool = False, quiet: bool = False
) -> Tally:
    """Play the schedules of these seeds, and tell of those that break an invariant."""
    tally, told_at = Tally(), 0.0
    shown = sys.stderr.isatty() and not quiet
    for seed in seeds:
        played = replay(seed, plant, ledger)
        tally.count(played)
        if played.broken is not None and tally.broken <= MOST_TOLD and not quiet:
            print("\n".join(report(played, shrink(played, plant))), flush=True)
        if shown and time.perf_counter() > told_at + EVERY:
            told_at = time.perf_counter()
            print(f"\r{tally} of {len(seeds):,} ", end="", file=sys.stderr, flush=True)
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return tally


def replay(seed: int, plant: Plant | None = None, ledger: bool = False) -> Played:
    """Play the schedule of a seed; with `ledger` on a real ledger, too, in a temporary folder."""
    if not ledger:
        return play(draw(seed), plant)
    with tempfile.TemporaryDirectory(prefix="pal-simulate-") as folder:
        mirror = Mirror(Path(folder))
        try:
            return play(draw(seed), plant, mirror=mirror)
        finally:
            mirror.close()


def tell(played: Played, sample: int | None, trace: bool) -> None:
    """Print one schedule: its history, all of it or that of a sample, and what came of it."""
    schedule, history = played.schedule, played.history
    for line in history.lines if trace else history.of(sample) if sample is not None else ():
        print(told(line))
    print(f"seed {schedule.seed}: {history.sessions} sessions, {played.events} events")
    print(f"rules: {rules_said(schedule.rules)}")
    print(f"site: {schedule.site}")
    print(f"faults: {kinds_of(played)}")
    print(f"digest: {history.digest()}")
    print(f"BROKEN: {played.broken}" if played.broken else "all invariants hold")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if an invariant broke, 0 if none did."""
    given = parser().parse_args(argv)
    plant = DEFECTS[given.defect].plant if given.defect else None
    if given.seed is not None:
        played = replay(given.seed, plant, given.ledger)
        tell(played, given.story, given.trace)
        return int(played.broken is not None)
    tally = run(range(given.first, given.first + given.seeds), plant, given.ledger)
    print(tally)
    return int(tally.broken > 0)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    reader = argparse.ArgumentParser(
        prog="pal bench simulate",
        description="Play campaigns of the real controller in a virtual world of faults, and "
        "check every invariant after every event. One seed gives one history.",
    )
    reader.add_argument("--seeds", type=int, default=2000, metavar="N", help="how many schedules")
    reader.add_argument("--first", type=int, default=0, metavar="S", help="the first seed")
    reader.add_argument("--seed", type=int, metavar="S", help="play only this one, and tell of it")
    reader.add_argument("--story", type=int, metavar="SAMPLE", help="with --seed: of this sample")
    reader.add_argument("--trace", action="store_true", help="with --seed: the whole history")
    reader.add_argument(
        "--ledger", action="store_true", help="keep a real ledger beside the simulated one"
    )
    reader.add_argument(
        "--defect", choices=sorted(DEFECTS), metavar="NAME", help="plant a known defect"
    )
    return reader
