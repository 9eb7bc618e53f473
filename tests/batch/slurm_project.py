"""A toy campaign as a user of a Slurm submits it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rig import TOYS, eventually, number_of_labels
from slurm import Slurm

from pal.ledger.ledger import Ledger

SETTINGS = """
name = "toy"
[generator]
kernel = "toys:Walk"
walkers = {workers}
options = {{ pause = 0.02 }}
[model]
kernel = "toys:Quadratic"
members = 2
[oracle]
kernel = "toys:Slow"
grace = 1
workers = {workers}
options = {{ seconds = {seconds} }}
[selector]
kernel = "toys:Threshold"
options = {{ threshold = 0.0 }}
[stop]
final_training = 0
labels = {labels}
before_end = 5
"""


class Project:
    """A toy campaign, and `pal` as a user of this Slurm calls it."""

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        self.folder, self.slurm = folder, slurm
        self.run = folder / "run"
        self.workers = 1
        self.environment = {**slurm.environment, "PYTHONUNBUFFERED": "1"}
        paths = [TOYS, slurm.environment.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = ":".join(filter(None, paths))

    def settings(self, labels: int, seconds: float = 0.1) -> None:
        text = SETTINGS.format(labels=labels, seconds=seconds, workers=self.workers)
        (self.folder / "pal.toml").write_text(text)

    def pal(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pal", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *words: str) -> str:
        """Submit the campaign, and return the job's number."""
        said = self.pal("submit", "--cores-per-node", "1", *words)
        (number,) = re.findall(r"^job (\d+) is submitted to Slurm", said, re.MULTILINE)
        return str(number)

    def script(self, *words: str) -> Path:
        """Have the script of a job written, without submitting it."""
        path = self.folder / "job.sh"
        path.write_text(self.pal("submit", "--cores-per-node", "1", "--dry-run", *words))
        (self.run / "jobs").mkdir(parents=True)
        return path

    def output(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.run.glob("jobs/*.log")))

    def wait_labels(self, count: int) -> None:
        """Wait for so many labels; the first start of all reads everything from disk."""
        enough = lambda: number_of_labels(self.run) >= count  # noqa: E731
        said = lambda: f"{count} labels; {self.output()}\n{self.slurm.affairs()}"  # noqa: E731
        eventually(enough, said, 45)

    def submitted(self) -> list[str]:
        """The numbers of all jobs that were submitted for this campaign."""
        lines = (self.run / "jobs" / "submitted.jsonl").read_text().splitlines()
        return [json.loads(line)["number"] for line in lines]

    def sessions(self) -> list[str | None]:
        """Why each session ended; None for one that was cut off."""
        with Ledger.open_readonly(self.run) as ledger:
            return [session.reason if session.end else None for session in ledger.sessions()]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.pal("status", "--json"))
        return found
