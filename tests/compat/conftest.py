"""Lets the tests here import what lies beside them, and gives each a folder with user's files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "mpi"))

from published import Folder


@pytest.fixture
def watched(tmp_path: Path) -> Folder:
    """Deterministic kernels that write down what is called."""
    return Folder.copy("watched", tmp_path / "watched")


@pytest.fixture
def toy(tmp_path: Path) -> Folder:
    """The toy of the publication's SI."""
    return Folder.copy("toy", tmp_path / "toy")
