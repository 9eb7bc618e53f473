"""Toy kernels that wait for the operator's hand. Workers import this file by its name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from toys import Threshold, suicide, truth

from pal import Context
from pal.records import Array


class Mended:
    """Dies of samples with a positive first coordinate, until the file `flag` is there."""

    def __init__(self, flag: str) -> None:
        self.flag = Path(flag)

    def label(self, sample: Array) -> Array:
        if sample[0] > 0 and not self.flag.exists():
            suicide()
        return truth(sample)


class Gated:
    """Makes no label until the file `gate` is there; notes who makes each in `gate`.log."""

    def __init__(self, context: Context, gate: str) -> None:
        self.index = context.index
        self.gate = Path(gate)

    def label(self, sample: Array) -> Array:
        while not self.gate.exists():
            time.sleep(0.005)
        with self.gate.with_suffix(".log").open("a") as log:
            log.write(f"{self.index} {os.getpid()}\n")
        time.sleep(0.01)
        return truth(sample)


class Counted(Threshold):
    """Refuses thresholds below 0; remembers how many batches it has judged, and notes it."""

    def __init__(self, log: str, threshold: float = 0.05) -> None:
        if threshold < 0:
            raise ValueError(f"threshold = {threshold} is below 0")
        super().__init__(threshold)
        self.log = Path(log)
        self.batches = 0

    def select(self, samples, prediction):  # type: ignore[no-untyped-def]
        self.batches += 1
        self.log.write_text(f"{self.threshold} {self.batches}\n")
        return super().select(samples, prediction)

    def get_state(self) -> int:
        return self.batches

    def set_state(self, state: int) -> None:
        self.batches = state


def wrong(sample: Array) -> Array:
    """What a colleague would give for a label by hand."""
    return np.array([-7.0])
