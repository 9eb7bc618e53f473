"""A ledger whose process is killed, whose disk is full, or that may only be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pal.ledger.ledger import Ledger

CHILDREN = Path(__file__).with_name("ledger_children.py")
Make = Callable[..., Any]


def run(*arguments: object) -> Any:
    """Run one of the children and return what it found."""
    command = [sys.executable, str(CHILDREN), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("journal", ["WAL", "TRUNCATE"])
def test_no_acknowledged_label_is_lost_however_often_it_is_killed(
    tmp_path: Path, journal: str
) -> None:
    result = run("kill_often", tmp_path / "run", journal, 40)
    print(journal, result)
    assert result["acknowledged"] > 1000


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    result = run("fill", tmp_path)
    assert result["error"].startswith("LedgerDiskError: the disk refused")
    assert 0 < result["durable"] < result["put"]
    assert result["acknowledged are there"]
    assert result["after retry"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    result = run("fill", small_disk, ballast)
    assert "SQLITE_FULL" in result["error"]
    assert "free some space" in result["error"]
    assert 0 < result["durable"] < result["put"]
    assert result["acknowledged are there"]
    assert result["after retry"]


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    place.chmod(0o755)
    shutil.rmtree(place)


def test_a_directory_that_may_only_be_read(public: Path, molecule: Make, label: Make) -> None:
    with Ledger.open(public) as ledger:
        ledger.commit([molecule(3), label(3)])
    (public / "states").mkdir()
    public.chmod(0o555)
    result = run("look", public)
    assert result.pop("labels") == [3]
    assert set(result) == {"claim", "open", "save"}
    for text in result.values():
        assert text.startswith("LedgerDiskError: the disk refused")
