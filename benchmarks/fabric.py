"""The road between agents: what a message costs, and what waiting costs.

    python benchmarks/fabric.py          # starts mpiexec itself; needs pal[mpi]

Two ranks on one machine. Each figure stands beside the same with bare mpi4py in the same run,
which spins where an agent sleeps. Prints Markdown.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pal.transport.fabric import Letter
from pal.transport.launch import connect, launched

LARGE = np.ones(100_000_000, np.uint8)
ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def wait(fabric: Any, count: int = 1) -> list[Any]:
    """Receive as an agent does, which sleeps as long as the fabric says."""
    found: list[Any] = []
    while len(found) < count:
        found += [item.message for item in fabric.receive() if isinstance(item, Letter)]
        if len(found) < count:
            time.sleep(fabric.pause)
    return found


def answer(fabric: Any, message: Any) -> None:
    fabric.send(0, message)
    while fabric.unfinished:
        fabric.receive()
        time.sleep(fabric.pause)


def exchange(fabric: Any, message: Any, count: int = 1) -> None:
    """Rank 0 sends so many messages, and rank 1 answers when it has them all."""
    if fabric.rank == 0:
        for _ in range(count):
            fabric.send(1, message)
        wait(fabric)
    else:
        wait(fabric, count)
        answer(fabric, "all")


def plain(comm: Any, message: Any, count: int = 1) -> None:
    if comm.rank == 0:
        for _ in range(count):
            comm.send(message, 1)
        comm.recv()
    else:
        for _ in range(count):
            comm.recv()
        comm.send("all", 0)


def plain_large(comm: Any) -> None:
    if comm.rank == 0:
        comm.Send(LARGE, 1)
        comm.recv()
    else:
        comm.Recv(np.empty_like(LARGE), 0)
        comm.send("all", 0)


def median(act: Callable[[], None], count: int) -> float:
    times = []
    for _ in range(count):
        before = time.perf_counter()
        act()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def delays(fabric: Any) -> tuple[float, ...]:
    """Median and longest delay of small messages while 100 MB are under way; the clock is one."""
    if fabric.rank == 0:
        fabric.send(1, LARGE, "weights")
        while fabric.backlog(1):
            fabric.send(1, time.time(), "news")
            fabric.receive()
            time.sleep(fabric.pause)
        return tuple(wait(fabric)[0])
    late: list[float] = []
    news: list[Any] = []
    while not any(isinstance(item, np.ndarray) for item in news):
        news = wait(fabric)
        late += [time.time() - item for item in news if isinstance(item, float)]
    answer(fabric, (statistics.median(late), max(late)))
    return 0.0, 0.0


def idle(fabric: Any, seconds: float = 5.0) -> float:
    """Share of a core that an agent takes to whom nobody speaks."""
    end, before = time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end:
        fabric.receive()
        time.sleep(fabric.pause)
    return (time.process_time() - before) / seconds


def program() -> None:
    launch = launched()
    assert launch is not None
    fabric: Any = connect(launch)
    from mpi4py import MPI

    comm, many = MPI.COMM_WORLD, 50_000
    message = {"task": 1, "positions": np.zeros(3)}
    trip = median(lambda: exchange(fabric, "ping"), 300), median(lambda: plain(comm, "ping"), 300)
    batch = median(lambda: exchange(fabric, message, many), 3)
    large = median(lambda: exchange(fabric, LARGE), 5), median(lambda: plain_large(comm), 5)
    rows = [
        ("round trip, µs", *(1e6 * seconds for seconds in trip)),
        (
            "small messages a second",
            many / batch,
            many / median(lambda: plain(comm, message, many), 3),
        ),
        ("100 MB, MB/s", *(100 / seconds for seconds in large)),
        ("small beside 100 MB, median and longest delay, ms", *(1e3 * d for d in delays(fabric))),
    ]
    share = idle(fabric)
    if fabric.rank == 0:
        print(f"{fabric.description}\n\n| | fabric | bare mpi4py |\n|---|---|---|")
        for name, ours, floor in rows:
            print(f"| {name} | {ours:.4g} | {floor:.4g} |")
        print(f"| idle, % of a core | {100 * share:.2f} | 100 |", flush=True)
    fabric.close()


if __name__ == "__main__":
    if launched():
        program()
    else:
        mpiexec = Path(sys.executable).with_name("mpiexec")
        bind = ["--bind-to", "none"] if mpiexec.with_name("prterun").exists() else []
        command = [str(mpiexec), *bind, "-n", "2", sys.executable, __file__]
        sys.exit(subprocess.run(command, env=ROOT | dict(os.environ)).returncode)
