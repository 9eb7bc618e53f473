"""The exchange: what a round costs, what disturbs it, what waiting costs.

    python benchmarks/exchange.py            # everything, about 12 minutes
    python benchmarks/exchange.py overhead   # one part; see PARTS below

Prints Markdown, for benchmarks/README.md. Times are medians over repeats, ratios are taken within
a repeat.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil
from sketch import sketch

from pal.monitor.metrics import Snapshot
from pal.runtime.campaign import Campaign
from pal.testing.bench import CASES, PLACES, Case, campaign, floor, machine, round_time, snapshots
from pal.testing.noop import Constant, Content, Sleeper, Still

REPEATS = 3
SECONDS = 4.0
PAPER = CASES[1]


def run(seconds: float, **settings: Any) -> list[Snapshot]:
    with tempfile.TemporaryDirectory() as folder:
        return snapshots(seconds, f"{folder}/run", **settings)


def repeated(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(REPEATS))


def overhead() -> None:
    """A round of kernels that do nothing, beside the floor and a bare sketch of the transport."""
    print("| case | placement | ms a round | times the floor | times the sketch |")
    print("|---|---|---|---|---|")
    for case in CASES:
        hosts = {"a process per walker": case.walkers, "pooled in two hosts": 2}
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PLACES}
        for _ in range(REPEATS):
            for name, place in PLACES.items():
                bare = floor(case, 1.0)
                drawn = sketch(case, hosts[name], 2.0) if name in hosts else float("nan")
                found[name].append((round_time(case, place, SECONDS), bare, drawn))
        everything = [row for rows in found.values() for row in rows]
        bare = statistics.median(row[1] for row in everything)
        print(f"| {case} | the floor: one loop in one process | {1e3 * bare:.3f} | 1.00 | |")
        for name, rows in found.items():
            if name in hosts:
                drawn = statistics.median(row[2] for row in rows)
                print(f"| {case} | the sketch, {name} | {1e3 * drawn:.3f} | | 1.00 |")
            ours = statistics.median(row[0] for row in rows)
            to_floor = statistics.median(row[0] / row[1] for row in rows)
            to_sketch = statistics.median(row[0] / row[2] for row in rows)
            last = f"{to_sketch:.2f}" if name in hosts else ""
            print(f"| {case} | {name} | {1e3 * ours:.3f} | {to_floor:.2f} | {last} |", flush=True)


def fraction(seen: list[Snapshot]) -> float:
    """Share of the time that inference takes."""
    first, last = seen[0], seen[-1]
    busy = last.totals["prediction"] - first.totals["prediction"]
    return busy / (last.time - first.time)


def inference() -> None:
    """The share of the wall time that inference takes, 89 walkers and 4 members."""
    wanted = [
        (51.5, "pooled in two hosts", 0.98),
        (51.5, "a process per walker", 0.95),
        (5.0, "pooled in two hosts", 0.88),
        (1.0, "tight coupling", 0.85),
    ]
    print("| inference of a batch | placement | share of the time in inference | goal |")
    print("|---|---|---|---|")
    for milliseconds, name, goal in wanted:
        settings = campaign(PAPER, PLACES[name], inference=milliseconds / 1e3 / PAPER.members)
        share = repeated(lambda settings=settings: fraction(run(10.0, **settings)))
        print(f"| {milliseconds} ms | {name} | {share:.1%} | {goal:.0%} |", flush=True)


def rate(seen: list[Snapshot]) -> float:
    first, last = seen[0], seen[-1]
    return (last.rounds - first.rounds) / (last.time - first.time)


def labelling() -> None:
    """The round with oracles and training switched on, against the round without."""
    settings = campaign(PAPER, PLACES["pooled in two hosts"], inference=5e-3 / PAPER.members)
    settings["model"]["options"] |= {"epochs": 1000, "epoch": 0.1}
    busy = {
        **settings,
        "model": {**settings["model"], "train": True},
        "oracle": {"kernel": Sleeper, "workers": 4, "options": {"seconds": 0.2}},
        "selector": {"kernel": Content, "options": {"wanted": 1}},
    }
    pairs = [(rate(run(8.0, **busy)), rate(run(8.0, **settings))) for _ in range(REPEATS)]
    ratio = statistics.median(with_ / without for with_, without in pairs)
    print("| 5 ms inference, 89 walkers in two hosts | rounds per second |\n|---|---|")
    print(f"| walkers and committee alone | {statistics.median(b for _, b in pairs):.1f} |")
    print(f"| with 4 oracles and training | {statistics.median(a for a, _ in pairs):.1f} |")
    print(f"| ratio | {ratio:.3f} |", flush=True)


def straggler() -> None:
    """One walker 100 times slower than the other 88, under batching `ready`."""

    def others(slow: int) -> float:
        settings = campaign(PAPER, PLACES["a process per walker"])
        settings["generator"]["options"] |= {"delay": 0.02, "slow": slow}
        seen = run(12.0, exchange={"batching": "ready"}, **settings)
        first, last = seen[0], seen[-1]
        samples = (last.samples - first.samples) / (last.time - first.time)
        return samples / (PAPER.walkers - (1 if slow >= 0 else 0))

    pairs = [(others(0), others(-1)) for _ in range(REPEATS)]
    ratio = statistics.median(slow / even for slow, even in pairs)
    print("| 89 walkers that take 20 ms a step | steps per second of the others |\n|---|---|")
    print(f"| all alike | {statistics.median(e for _, e in pairs):.2f} |")
    print(f"| one takes 2 s | {statistics.median(s for s, _ in pairs):.2f} |")
    print(f"| ratio | {ratio:.3f} |", flush=True)


def family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def processor_time() -> float:
    total = 0.0
    for process in family():
        times = process.cpu_times()
        total += times.user + times.system
    return total


def waiting() -> None:
    """What a campaign costs in which walkers, oracles and trainers all wait."""
    with tempfile.TemporaryDirectory() as folder:
        waiting_campaign = Campaign(
            generator={"kernel": Still, "walkers": 8, "options": {"delay": 1000.0}},
            model={"kernel": Constant},
            oracle={"kernel": Sleeper, "workers": 2},
            selector=Content,
            directory=f"{folder}/run",
            stop={"after": 25},
        )
        marks = [
            (time.monotonic(), processor_time())
            for news in waiting_campaign
            if isinstance(news, Snapshot) and news.time > 4 and news.phase == "running"
        ]
    (start, before), (end, after) = marks[0], marks[-1]
    share = (after - before) / (end - start)
    print(
        "| a campaign that waits: agent, exchange, 8 walkers, 2 oracles, 1 trainer | |\n|---|---|"
    )
    print(f"| share of a core, all processes together | {share:.2%} |", flush=True)


def starting() -> None:
    """How soon 100 generator workers are up, and what memory each has for itself."""
    settings = campaign(Case(100, 1, 10, 10), PLACES["a process per walker"])
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        up = float("nan")
        memory: list[float] = []
        started = Campaign(
            directory=f"{folder}/run",
            oracle={"kernel": Sleeper, "enabled": False},
            selector=Content,
            exchange={"batching": "all"},
            stop={"after": 12},
            **settings,
        )
        for news in started:
            if isinstance(news, Snapshot) and news.rounds and not memory:
                up = time.monotonic() - start
                workers = sorted(p.memory_full_info().uss for p in family()[2:])
                memory = [size / 1e6 for size in workers]
    print("| 100 generator workers, one walker each | |\n|---|---|")
    print(f"| first round of all of them after (to the next full second) | {up:.1f} s |")
    print(f"| private memory of a worker, median | {statistics.median(memory):.1f} MB |")
    print(f"| private memory of a worker, largest | {memory[-1]:.1f} MB |", flush=True)


PARTS: Mapping[str, Callable[[], None]] = {
    "overhead": overhead,
    "inference": inference,
    "labelling": labelling,
    "straggler": straggler,
    "waiting": waiting,
    "starting": starting,
}


if __name__ == "__main__":
    print(f"Machine: {machine()}")
    for part in sys.argv[1:] or PARTS:
        print(f"\n### {part}\n\n{PARTS[part].__doc__}\n")
        PARTS[part]()
