"""Labels a second through the ledger: sample, label and two moves each, every one on disk.

    python benchmarks/ledger.py

The floor is the same arrays written to a file of their own with one flush to disk at the end.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.ledger.entries import Entry, NewLabel, NewSample, StateChange
from pal.ledger.ledger import Ledger
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
            rates.append((through_ledger(Path(folder)), to_a_file(Path(folder))))
    ours, floor = (statistics.median(pair[i] for pair in rates) for i in (0, 1))
    print("| labels of 22 atoms | a second |\n|---|---|")
    print(f"| through the ledger, on disk, with history | {ours:,.0f} |")
    print(f"| the bare arrays into a file | {floor:,.0f} |")


if __name__ == "__main__":
    main()
