"""The first geometries, before there is any model: the minima, shaken."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pal.kernels.atoms import read_samples
from pal.records import Sample

START = Path(__file__).with_name("alanine.xyz")


def shaken(count: int = 16, spread: float = 0.05, seed: int = 0) -> Iterator[Sample]:
    """Yield the minima in turn, each coordinate displaced by a normal deviate of `spread` (Å)."""
    rng = np.random.default_rng(seed)
    minima = read_samples(START)
    for number in range(count):
        sample = dict(minima[number % len(minima)])
        sample["positions"] = sample["positions"] + rng.normal(0.0, spread, (22, 3))
        yield sample
