"""Kernels of `scale.py` that note when they are used: a model of any size for a start."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np

from pal.records import Array, Batch, Weights
from pal.roles import Context
from pal.testing.noop import Constant

_MOMENT = struct.Struct("<d")


class Marks:
    """Moments of the machine's monotonic clock in a file, which other processes may read."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / f"{name}-{os.getpid()}.marks").open("ab", buffering=0)

    def note(self) -> None:
        """Write down that something happens now."""
        self._file.write(_MOMENT.pack(time.monotonic()))


def moments(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return what all processes have noted under a name: {file: ascending times}."""
    files = sorted(folder.glob(f"{name}-*.marks"))
    found = {path.name: np.fromfile(path, "<f8") for path in files}
    return {name: times for name, times in found.items() if len(times)}


class Heavy(Constant):
    """A member of `megabytes`. It notes in `folder` when it predicts and installs weights."""

    def __init__(
        self, context: Context, folder: str, megabytes: int = 100, **options: Any
    ) -> None:
        super().__init__(context, **options)
        self._weights = np.ones(megabytes * 125_000)
        self._rounds = Marks(Path(folder), "round")
        self._installed = Marks(Path(folder), "installed")

    def predict(self, samples: Batch) -> Array:
        self._rounds.note()
        return super().predict(samples)

    def get_weights(self) -> Weights:
        return {"all": self._weights}

    def set_weights(self, weights: Weights) -> None:
        np.copyto(self._weights, weights["all"])
        self._installed.note()
