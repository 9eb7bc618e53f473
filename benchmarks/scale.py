"""Campaigns of several agents on one machine: what grows with them, and what each costs.

    python benchmarks/scale.py            # everything, about 5 minutes
    python benchmarks/scale.py agents     # one table; see TABLES below

Prints Markdown, for benchmarks/README.md. The agents are started with `mpiexec`, as on so many
nodes; here all of them share one machine, so kernels sleep or do nothing.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scale_kernels import moments
from scale_world import World, run

from pal.testing.bench import machine

NOOP = "pal.testing.noop:"
REPEATS = 3


def settings(**sections: Any) -> dict[str, Any]:
    """A campaign of kernels that do nothing, without labels, unless a section says otherwise."""
    return {
        "generator": {"kernel": NOOP + "Still"},
        "model": {"kernel": NOOP + "Constant", "members": 2, "train": False},
        "oracle": {"kernel": NOOP + "Sleeper", "enabled": False},
        "selector": {"kernel": NOOP + "Content"},
        **sections,
    }


def walkers(count: int, delay: float, **more: Any) -> dict[str, Any]:
    options = {"delay": delay}
    return {"kernel": NOOP + "Still", "walkers": count, "options": options, **more}


def watch(seconds: float) -> Callable[[World], None]:
    """Let a campaign run for so long."""
    return lambda world: time.sleep(seconds)


def rate(world: World, name: str = "samples") -> float:
    """Return the median of the rates in single seconds; other nodes' boards come once in each."""
    seen = world.since(world.up + 1.5)
    steps = itertools.pairwise(seen)
    return statistics.median((b[name] - a[name]) / (b["time"] - a["time"]) for a, b in steps)


def table(*rows: tuple[Any, ...]) -> None:
    """Print the rows of a table, the first one as its head."""
    head, *others = rows
    print("| " + " | ".join(map(str, head)) + " |")
    print("|" + "---|" * len(head))
    for row in others:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def agents() -> None:
    """Samples per second of 1, 2 and 4 agents, each with 16 walkers that sleep 0.1 s a step."""
    counts, each, delay = (1, 2, 4), 16, 0.1
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(REPEATS):
        for count in counts:
            wanted = settings(generator=walkers(each * count, delay))
            found[count].append(rate(run(count, wanted, watch(9.0))))
    head = (
        "agents",
        "walkers",
        "samples a second",
        "of what sleep allows",
        "of twice half as many",
    )
    rows: list[tuple[Any, ...]] = [head]
    for count in counts:
        median = statistics.median(found[count])
        most = each * count / delay
        pairs = zip(found[count], found.get(count // 2, ()), strict=False)
        doubling = [whole / half / 2 for whole, half in pairs]
        ratio = f"{statistics.median(doubling):.1%} (target 95%)" if doubling else ""
        rows.append((count, each * count, f"{median:.1f}", f"{median / most:.1%}", ratio))
    table(*rows)


def memory(world: World) -> float:
    """Return the bytes of all processes; what several share counts once."""
    total = 0
    for process in world.processes():
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        total += int(text.partition("\nPss:")[2].split()[0]) << 10
    return float(total)


def workers() -> None:
    """500 workers under 4 agents: 1 walker or 1 oracle a process, 4 trainers, 4 committees."""
    wanted = settings(
        generator=walkers(392, 1.0),
        model={"kernel": NOOP + "Constant", "members": 4, "trainers": 4},
        oracle={"kernel": NOOP + "Sleeper", "workers": 100},
    )

    def during(world: World) -> tuple[float, int]:
        time.sleep(5.0)
        return memory(world), len(world.processes())

    world = run(4, wanted, during)
    bytes_, processes = world.measured
    table(
        (f"{world.snapshots[-1]['workers']} workers", "", "target"),
        ("all ready after (to the next full second)", f"{world.up - world.begun:.1f} s", ""),
        ("memory of all processes (PSS)", f"{bytes_ / 2**30:.2f} GiB", "under 24 GiB"),
        ("memory per process", f"{bytes_ / processes / 1e6:.1f} MB", ""),
        ("samples a second, of 392", f"{rate(world):.0f}", ""),
        ("all ended after", f"{world.ended - world.stopped:.1f} s", ""),
        ("processes and segments left behind", len(world.left), "0"),
        ("restarts and failures", len(world.problems), "0"),
    )


def many_walkers() -> None:
    """10,000 walkers that do nothing, in 8 pooled hosts under 4 agents."""
    world = run(4, settings(generator=walkers(10_000, 0.0, hosts=8)), watch(10.0))
    samples, rounds = rate(world), rate(world, "rounds")
    table(
        ("10,000 walkers", ""),
        ("all ready after (to the next full second)", f"{world.up - world.begun:.1f} s"),
        ("samples a second", f"{samples:,.0f}"),
        ("rounds a second, all shards", f"{rounds:.1f}"),
        ("walkers in a round", f"{samples / rounds:,.0f}"),
        ("problems, and what was left behind", f"{len(world.problems)}, {len(world.left)}"),
    )


def usage(world: World) -> dict[str, float]:
    """Seconds of processor time of the head, of a deputy on the average, and of each role."""
    found: Counter[str] = Counter()
    ranks = {world.agent(rank).pid: rank for rank in range(world.agents)}
    for process in world.processes()[1:]:
        times = process.cpu_times()
        spent = times.user + times.system
        if process.pid in ranks:
            deputies = max(1, world.agents - 1)
            found |= {"the head": spent} if ranks[process.pid] == 0 else {}
            found["a deputy, mean"] += spent / deputies if ranks[process.pid] else 0.0
        else:
            # A worker writes into the log that has its name; a nursery where its agent does.
            log = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
            role = log.stem.partition("-")[0] if log.suffix == ".log" else "nursery"
            found[f"all of role {role}"] += spent
    return found


def shares(seconds: float) -> Callable[[World], dict[str, float]]:
    """Measure the share of a core of each kind of process over so many seconds."""

    def during(world: World) -> dict[str, float]:
        time.sleep(3.0)
        begun, before = time.monotonic(), usage(world)
        time.sleep(seconds)
        span, after = time.monotonic() - begun, usage(world)
        return {name: (after[name] - before[name]) / span for name in after}

    return during


def labels() -> None:
    """Labels on disk from 64 oracles that do nothing, under 4 agents."""
    wanted = settings(
        generator=walkers(64, 0.002, placement="committee"),
        oracle={"kernel": NOOP + "Sleeper", "workers": 64, "options": {"seconds": 0.0}},
        selector={"kernel": NOOP + "Content", "options": {"wanted": 16}},
        queue={"capacity": 1000},
    )
    world = run(4, wanted, shares(8.0))
    seen = world.since(world.up + 2)
    trips = [seconds for start, seconds in world.seen["labels"] if start > world.up + 2]
    table(
        ("labels of 64 oracles", "", "target"),
        ("labels a second, on disk", f"{rate(world, 'labelled'):,.0f}", "1,000"),
        ("from the head to an oracle and back, median", f"{np.median(trips) * 1e3:.1f} ms", ""),
        ("candidates waiting, median", f"{np.median([s['queued'] for s in seen]):.0f}", ""),
        *((f"share of a core: {n}", f"{s:.0%}", "") for n, s in world.measured.items()),
        (
            "problems, and what was left behind",
            f"{len(world.problems)}, {len(world.left)}",
            "0, 0",
        ),
    )


def weights() -> None:
    """A model of 100 MB on its way from the head to 4 shards, and what goes on meanwhile."""
    wanted = settings(
        generator=walkers(16, 0.01),
        model={
            "kernel": "scale_kernels:Heavy",
            "members": 1,
            "options": {"folder": "FOLDER", "megabytes": 100},
        },
        oracle={"kernel": NOOP + "Sleeper", "workers": 3, "options": {"seconds": 0.01}},
        selector={"kernel": NOOP + "Content", "options": {"wanted": 1}},
        placement={"training": [1, 0, 0, 0], "oracle": [0, 1, 1, 1]},
        training={"retrain_size": 1000},
    )

    def during(world: World) -> tuple[dict[str, np.ndarray], ...]:
        time.sleep(30.0)
        return moments(world.folder, "round"), moments(world.folder, "installed")

    world = run(4, wanted, during, floor=100_000_000)
    trips = np.array(world.seen["labels"])
    _tell_of_weights(world, *_transfers(world.seen["released"], *world.measured), trips)


def _transfers(
    released: list[float], rounds: dict[str, np.ndarray], installed: dict[str, np.ndarray]
) -> tuple[list[tuple[float, float]], list[float]]:
    """Return when each transfer began and ended, and the rounds meanwhile of those before."""
    spans, slowed = [], []
    everything = np.sort(np.concatenate(list(rounds.values())))

    def speed(start: float, end: float) -> float:
        return float(np.searchsorted(everything, end) - np.searchsorted(everything, start)) / (
            end - start
        )

    for start in released:
        ends = [times[times > start].min(initial=np.inf) for times in installed.values()]
        if ends and np.isfinite(max(ends)):
            spans.append((start, float(max(ends))))
            slowed.append(speed(*spans[-1]) / speed(start - 2.2, start - 0.2))
    return spans, slowed


def _tell_of_weights(
    world: World, spans: list[tuple[float, float]], slowed: list[float], trips: np.ndarray
) -> None:
    inside = np.zeros(len(trips), bool)
    for start, end in spans:
        inside |= (trips[:, 0] < end) & (trips.sum(axis=1) > start)
    calm, busy = trips[~inside, 1] * 1e3, trips[inside, 1] * 1e3
    floor = world.seen["floor"]
    taken = statistics.median(end - start for start, end in spans)
    table(
        (f"100 MB, {len(spans)} transfers", "median"),
        ("from the head until the last shard uses it", f"{taken:.2f} s"),
        ("the floor: a bare MPI send to one rank", f"{floor['send']:.3f} s"),
        ("a bare MPI broadcast to all", f"{floor['broadcast']:.3f} s"),
        ("times the broadcast", f"{taken / floor['broadcast']:.1f}"),
        ("rounds a second meanwhile, of those before", f"{statistics.median(slowed):.0%}"),
        ("a label there and back (10 ms of sleep), else", f"{np.median(calm):.1f} ms"),
        ("the same, meanwhile", f"{np.median(busy):.1f} ms, at most {busy.max():.0f} ms"),
        ("problems, and what was left behind", f"{len(world.problems)}, {len(world.left)}"),
    )


def idle() -> None:
    """A campaign in which all wait: 8 walkers, 2 oracles and a committee per agent."""
    wanted = settings(
        generator=walkers(32, 8.0),
        oracle={"kernel": NOOP + "Sleeper", "workers": 8},
    )
    world = run(4, wanted, shares(12.0))
    goal = {"the head": "under 3%", "a deputy, mean": "under 3%"}
    rows = [(name, f"{share:.2%}", goal.get(name, "")) for name, share in world.measured.items()]
    table(("share of a core", "", "target"), *rows)


TABLES: Mapping[str, Callable[[], None]] = {
    "agents": agents,
    "workers": workers,
    "walkers": many_walkers,
    "labels": labels,
    "weights": weights,
    "idle": idle,
}


if __name__ == "__main__":
    print(f"Machine: {machine()}")
    asked = [name for name in sys.argv[1:] if name != "all"] or list(TABLES)
    for name in asked:
        print(f"\n### {name}\n\n{TABLES[name].__doc__}\n")
        TABLES[name]()
        print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}.")
