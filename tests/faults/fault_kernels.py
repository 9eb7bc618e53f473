"""Kernels of the fault campaign: toys that leave a mark whenever they are called."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import toys

from pal import Batch, Context
from pal.records import Array, Dataset, Feedback, Metrics, Sample

BEAT = struct.Struct("<qd")


class Beat:
    """The process that last did something, and when, in a file that anybody may read."""

    def __init__(self, folder: str, name: str) -> None:
        self._file = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT, 0o644)

    def __call__(self) -> None:
        os.pwrite(self._file, BEAT.pack(os.getpid(), time.monotonic()), 0)


class Walker(toys.Walk):
    """A walker that remembers its steps."""

    def __init__(self, context: Context, beats: str, pause: float = 0.002) -> None:
        super().__init__(context, pause=pause)
        self.beat = Beat(beats, f"step-{context.index}")

    def step(self, feedback: Feedback | None) -> Sample | Any:
        self.beat()
        return super().step(feedback)

    def get_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "rng": self.rng.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.rng.bit_generator.state = state["rng"]


class Member(toys.Quadratic):
    """A member that never trains for long."""

    def __init__(self, context: Context, beats: str) -> None:
        super().__init__(context, epochs=1000)
        self.predicts = Beat(beats, f"predict-{context.index}")
        self.trains = Beat(beats, f"train-{context.index}")

    def predict(self, samples: Batch) -> Any:
        self.predicts()
        return super().predict(samples)

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        for metrics in super().train(dataset):
            self.trains()
            time.sleep(0.005)
            yield metrics


class Oracle:
    """Notes each label that it returns. `deed`: at its eighth label, once for each `flag`."""

    def __init__(
        self, context: Context, beats: str, seconds: float = 0.01, deed: str = "", flag: str = ""
    ) -> None:
        self.beat = Beat(beats, f"label-{context.index}")
        self.journal = Path(beats) / f"journal-{context.index}"
        self.seconds, self.deed, self.flag, self.count = seconds, deed, flag, 0

    def label(self, sample: Array) -> Array:
        self.count += 1
        if self.deed and self.count == 8 and toys.first_time(self.flag):
            getattr(self, self.deed)()
        time.sleep(self.seconds)
        label = toys.truth(sample)
        self.beat()
        with self.journal.open("a") as journal:
            journal.write(f"{sample[0]!r} {sample[1]!r}\n")
        return label

    def segfault(self) -> None:
        """Read address 0, in C."""
        ctypes.string_at(0)

    def hog(self) -> None:
        """Take a gigabyte, and then another, until there is none."""
        hoard = []
        while True:
            hoard.append(np.ones(1 << 27))

    def never_return(self) -> None:
        """Ignore SIGTERM; leave children, and grandchildren in sessions of their own."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        script = "setsid sleep 1000 & env -i setsid sleep 1001 & echo $! > pids; sleep 1002"
        subprocess.run(["sh", "-c", script], check=False)


def pids_of(text: str) -> list[int]:
    """The living processes whose command line is this."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        if line == text:
            found.append(int(folder.name))
    return found
