"""A bare sketch of the exchange: shared memory, eventfd doorbells, one mean and deviation.

It does the least that the processes of a round must do for each other: no checks, no changing
shapes, no supervision, no selection. What PAL does beyond it is what PAL's own work costs.
"""

from __future__ import annotations

import mmap
import os
import statistics
import time

import numpy as np

from pal.testing.bench import Case

SLOT = 16384


def _host(memory: mmap.mmap, walkers: range, case: Case, mine: int, theirs: int) -> None:
    arena = np.frombuffer(memory, np.float64, offset=4096).reshape(case.walkers, 2, SLOT // 8)
    flags = np.frombuffer(memory, np.int64, count=1)
    answers = [arena[walker, 1, : 2 * case.back] for walker in walkers]
    slots = [arena[walker, 0, : case.out] for walker in walkers]
    sample = np.random.default_rng(0).normal(size=case.out)
    while not flags[0]:
        for answer, slot in zip(answers, slots, strict=True):
            answer.copy()
            slot[:] = sample
        os.eventfd_write(theirs, 1)
        os.eventfd_read(mine)


def sketch(case: Case, hosts: int, seconds: float) -> float:
    """Median seconds of a round."""
    memory = mmap.mmap(-1, 4096 + case.walkers * 2 * SLOT)
    arena = np.frombuffer(memory, np.float64, offset=4096).reshape(case.walkers, 2, SLOT // 8)
    flags = np.frombuffer(memory, np.int64, count=1)
    own, bells = os.eventfd(0), [os.eventfd(0) for _ in range(hosts)]
    children = []
    for host in range(hosts):
        first, last = host * case.walkers // hosts, (host + 1) * case.walkers // hosts
        if (child := os.fork()) == 0:
            try:
                _host(memory, range(first, last), case, bells[host], own)
            finally:
                os._exit(0)
        children.append(child)
    labels = np.random.default_rng(0).normal(size=(case.members, case.walkers, case.back))
    times = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        rung = 0
        while rung < hosts:
            rung += os.eventfd_read(own)
        np.array(arena[:, 0, : case.out])
        arena[:, 1, : case.back] = labels.mean(axis=0)
        arena[:, 1, case.back : 2 * case.back] = labels.std(axis=0, ddof=1)
        for bell in bells:
            os.eventfd_write(bell, 1)
        times.append(time.perf_counter() - start)
    flags[0] = 1
    for bell in bells:
        os.eventfd_write(bell, 1)
    for child in children:
        os.waitpid(child, 0)
    for fd in (own, *bells):
        os.close(fd)
    return statistics.median(times[len(times) // 10 :])
