from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pal.cli

TEMPLATES = Path(pal.cli.__file__).parent / "templates"
COMMAND = [sys.executable, "-c", "import pal.cli; pal.cli.main()"]
SLOW = """
import time, kernels

class Walker(kernels.Walker):
    def step(self, feedback):
        time.sleep(0.005)
        return super().step(feedback)
"""
CHANGES = {
    "kernels:Walker": "slow:Walker",
    "walkers = 4": "walkers = 1",
    "threshold = 3.0": "threshold = 0.0",
    "labels = 150": "labels = 100_000",
}


class Project:
    """The toy project in a fresh folder, and `pal` as a program on it.

    `small.toml` is a campaign that leaves most of the machine alone: its one walker is slow, makes
    a candidate wherever it goes, and never ends by itself; nothing is evaluated at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(TEMPLATES / "toy", folder)
        (folder / "slow.py").write_text(SLOW)
        self.settings = folder / "pal.toml"
        text = self.settings.read_text().partition("[evaluation]")[0]
        for old, new in CHANGES.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "small.toml").write_text(text)
        self.run = folder / "run"
        self._started: list[subprocess.Popen[str]] = []

    def pal(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end, as a shell would."""
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def ask(self, *arguments: Any) -> Any:
        """Run a command in this process, which saves half a second of imports."""
        return CliRunner().invoke(pal.cli.app, [*map(str, arguments)])

    def start(self, *arguments: Any) -> subprocess.Popen[str]:
        """Start the small campaign, and leave it running."""
        return self.popen("run", "small.toml", "--json", *arguments)

    def popen(self, *arguments: Any) -> subprocess.Popen[str]:
        """Start `pal` as a program, and leave it running."""
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._started.append(process)
        return process

    def status(self) -> dict[str, Any]:
        done = self.ask("status", self.run, "--json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def wait_for_labels(process: subprocess.Popen[str], count: int) -> None:
    """Read what a running campaign says until it has so many labels."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("labelled", 0) >= count:
            return
    assert process.stderr is not None
    pytest.fail(f"the campaign ended before: {process.stderr.read()}")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path / "toy")
    yield made
    made.end()


@pytest.fixture
def reads() -> Callable[[str], list[dict[str, Any]]]:
    return events


@pytest.fixture
def labelled() -> Callable[[subprocess.Popen[str], int], None]:
    return wait_for_labels
