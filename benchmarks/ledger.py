"""Labels a second through the ledger: sample, label and two moves each, every one on disk.

    python benchmarks/ledger.py

The floor is the same arrays written to a file of their own with one flush to disk at the end.
Onlookers are processes that list samples, tell stories and count states without a pause, as
`pal samples`, `pal show` and `pal status` do.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.ledger.changes import standing
from pal.ledger.entries import Entry, NewLabel, NewSample, Note, StateChange
from pal.ledger.ledger import Ledger
from pal.ledger.search import Order, Wanted, find
from pal.ledger.story import tell
from pal.ledger.writer import LedgerWriter
from pal.testing.bench import machine

LABELS = 10_000
ATOMS = 22
REPEATS = 5


def records() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    sample = {"numbers": np.full(ATOMS, 6), "positions": rng.normal(size=(ATOMS, 3))}
    return sample, {"energy": np.array(-1.0), "forces": rng.normal(size=(ATOMS, 3))}


def through_ledger(folder: Path) -> float:
    sample, label = records()
    errors: list[Exception] = []
    with Ledger.open(folder) as ledger:
        writer = LedgerWriter(ledger, lambda entries: None, errors.append)
        start = time.perf_counter()
        for number in range(LABELS):
            entries: list[Entry] = [
                NewSample(0.0, Candidate(number, 0, 1, 0.5), sample),
                StateChange(0.0, number, State.RUNNING, "", 1),
                StateChange(0.0, number, State.RETURNED),
                NewLabel(0.0, number, label, 0),
            ]
            for entry in entries:
                writer.put(entry)
        writer.flush()
        seconds = time.perf_counter() - start
        writer.close()
    assert not errors, errors
    return LABELS / seconds


def look_on(folder: Path) -> None:
    while True:
        with Ledger.open_readonly(folder) as ledger:
            for found in find(ledger, Wanted(), Order.NEWEST, 50)[:5]:
                tell(ledger, found.row.candidate.sample)
            standing(ledger)
            ledger.counts()


def watched(folder: Path, onlookers: int) -> float:
    with Ledger.open(folder) as ledger:
        ledger.commit([Note(0.0, "evaluation", "")])
    children = [multiprocessing.Process(target=look_on, args=(folder,)) for _ in range(onlookers)]
    for child in children:
        child.start()
    try:
        return through_ledger(folder)
    finally:
        for child in children:
            child.kill()
            child.join()


def to_a_file(folder: Path) -> float:
    sample, label = records()
    start = time.perf_counter()
    with (folder / "floor").open("wb") as file:
        for _ in range(LABELS):
            for array in (*sample.values(), *label.values()):
                file.write(array.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return LABELS / (time.perf_counter() - start)


def main() -> None:
    print(f"Machine: {machine()}\n")
    rates = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "watched").mkdir()
            rate = (through_ledger(place), watched(place / "watched", 1), to_a_file(place))
            rates.append(rate)
    ours, beside, floor = (statistics.median(rate[i] for rate in rates) for i in range(3))
    print("| labels of 22 atoms | a second |\n|---|---|")
    print(f"| through the ledger, on disk, with history | {ours:,.0f} |")
    print(f"| the same, while somebody looks on without a pause | {beside:,.0f} |")
    print(f"| the bare arrays into a file | {floor:,.0f} |")


if __name__ == "__main__":
    main()
