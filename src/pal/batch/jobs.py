"""The jobs of a campaign, as its run directory remembers them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pal.batch.systems import SYSTEMS, System
from pal.errors import LedgerDiskError
from pal.ledger.directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was submitted: its number, its system's name, its script, and when."""

    number: str
    system: str
    script: str
    time: float

    @property
    def log(self) -> Path:
        """Where its output goes."""
        script = Path(self.script)
        return script.with_name(f"{script.stem}-{self.number.partition('.')[0]}.log")


def _file(directory: RunDirectory) -> Path:
    return directory.jobs / "submitted.jsonl"


def note(folder: Path, system: System, number: str, script: Path) -> Submitted:
    """Write down that a job was submitted; `folder` is that of the scripts.

    Raises:
        LedgerDiskError: the disk refused. The job is submitted all the same; the error says so.
    """
    job = Submitted(number, system.name, str(script), time.time())
    try:
        with (folder / "submitted.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(job)) + "\n")
    except OSError as error:
        raise LedgerDiskError(
            f"job {number} is submitted, but the disk refused to note it in {folder}: "
            f"{error.strerror}; free some space"
        ) from error
    return job


def newest(directory: RunDirectory) -> Submitted | None:
    """Return the job of this campaign that was submitted last; None if none was."""
    try:
        lines = _file(directory).read_text(encoding="utf-8").splitlines()
        found: dict[str, Any] = json.loads(lines[-1])
        job = Submitted(**found)
    except (OSError, ValueError, IndexError, TypeError):
        return None
    return job if job.system in SYSTEMS else None
