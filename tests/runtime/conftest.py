from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from rig import nothing_left


@pytest.fixture
def left_clean() -> Iterator[None]:
    """No process, descriptor or shared memory is left behind."""
    with nothing_left():
        yield
