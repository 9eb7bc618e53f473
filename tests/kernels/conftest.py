"""Fixtures of the kernels' tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pal.roles import Context


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    """Make the context of an instance of some role; the seed is the index, unless given."""

    def make(index: int = 0, seed: int | None = None) -> Context:
        return Context("kernel", index, 4, index if seed is None else seed, tmp_path)

    return make
