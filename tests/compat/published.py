"""A folder with the user's files, and PAL run in it as a program of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STARTS = {
    "pal": "from pal.cli import main; main()",
    "pal_engine": "from pal.cli.engine import program; program()",
}


@dataclass
class Folder:
    """The user's files in a folder of their own."""

    path: Path

    @classmethod
    def copy(cls, name: str, to: Path) -> Folder:
        """Copy one of the sets of files beside this module."""
        shutil.copytree(HERE / name, to)
        return cls(to)

    @property
    def results(self) -> Path:
        return self.path / "results" / "TestRun"

    def edit(self, name: str, old: str, new: str) -> None:
        """Change a file, as a user might."""
        text = (self.path / name).read_text()
        assert old in text
        (self.path / name).write_text(text.replace(old, new))

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that starts PAL here."""
        return [sys.executable, "-c", STARTS[program], *arguments]

    def run(
        self, program: str, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run PAL to its end."""
        return self.start(self.command(program, *arguments), {**os.environ, **environment}, cwd)

    def start(
        self, command: list[str], environment: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end."""
        return subprocess.run(
            command,
            cwd=cwd or self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def calls(self, name: str) -> list[tuple[str, Any, int]]:
        """What a kernel has written down: (method, value, process)."""
        path = self.results / f"{name}.calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()]

    def methods(self, name: str) -> list[str]:
        return [method for method, _, _ in self.calls(name)]


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last line of `pal run --json`."""
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["event"] == "summary"
    return found
