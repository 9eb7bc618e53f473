from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pal.controller.events import Candidate
from pal.ledger.entries import NewLabel, NewSample
from pal.ledger.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def molecule() -> Callable[..., NewSample]:
    """Make the sample with this number: some atoms at random places."""

    def make(number: int, atoms: int = 3, time: float = 0.0, walker: int = 0) -> NewSample:
        random = np.random.default_rng(number)
        arrays = {
            "numbers": random.integers(1, 9, atoms),
            "positions": random.normal(size=(atoms, 3)),
        }
        return NewSample(time, Candidate(number, walker, 2, 0.25 * number), arrays)

    return make


@pytest.fixture
def label() -> Callable[..., NewLabel]:
    """Make the label of the sample with this number."""

    def make(number: int, atoms: int = 3, time: float = 1.0, **more: Any) -> NewLabel:
        random = np.random.default_rng(1000 + number)
        arrays = {
            "energy": np.array(-1.5 * number),
            "forces": random.normal(size=(atoms, 3)),
        }
        return NewLabel(time, number, arrays, oracle=1, host="node7", seconds=2.5, **more)

    return make
