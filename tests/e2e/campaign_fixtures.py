"""For tests of whole campaigns: short endings, and a check that nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import TOYS, nothing_left, processes_of

from pal.runtime import aftermath, session


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Look at the campaign often, and leave out the plots, which have tests of their own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TOYS, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(session, "TICK", 0.1)
    if "with_report" not in request.fixturenames:
        monkeypatch.setattr(aftermath, "write_report", _no_report)


@pytest.fixture
def with_report() -> None:
    """Ask for this to have the campaign's report written."""


def _no_report(path: Path, **_: Any) -> None:
    path.write_text("<html></html>")


@pytest.fixture(autouse=True)
def left_clean(tmp_path: Path) -> Iterator[None]:
    """No campaign leaves a process, a descriptor or shared memory behind."""
    with nothing_left():
        yield
    assert not processes_of(tmp_path)
