"""What a user asks of a batch system, in words that all of them share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pal.errors import SettingsError

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Request:
    """One job: what it runs, on what, for how long. Times are seconds.

    `queue` is called partition by Slurm. `cores` and `gpus` are those of one node; no `cores`:
    whole nodes. `options` are directives of the batch system, `prologue` lines of shell, both as
    they are. `changes` are settings as KEY=VALUE. `margin`: how long before the end the system is
    to send a signal. `command`: what the user typed, for the script's head.
    """

    settings: Path
    script: Path
    name: str
    python: str
    seconds: int
    nodes: int = 1
    queue: str = ""
    account: str = ""
    cores: int | None = None
    gpus: int | None = None
    launcher: str = "mpirun"
    options: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    requeue: bool = False
    changes: tuple[str, ...] = ()
    margin: int = 120
    command: str = "pal submit"
    python_path: str = ""

    def log(self, number: str) -> Path:
        """Where the output goes; `number` is the job's, or what the system replaces by it."""
        return self.script.with_name(f"{self.script.stem}-{number}.log")

    def asks(self, flag: str) -> bool:
        """Whether the user's own directives contain this option, so that ours must not."""
        return any(flag in directive.split() for directive in self.options)


def duration(text: str) -> int:
    """Read a time such as "2h", "90 min", "1d", "02:00:00" or "1-12:00:00" as seconds.

    Raises:
        SettingsError: it is none of these; a bare number means minutes to some and seconds to
            others.
    """
    if unit := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*", text):
        seconds = round(float(unit[1]) * _UNITS[unit[2]])
    elif clock := re.fullmatch(r"\s*(?:(\d+)-)?(\d+):(\d\d):(\d\d)\s*", text):
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    else:
        raise SettingsError(
            f"--time {text}: expected a number with a unit (s, min, h, d), such as 2h, or "
            "hours:minutes:seconds, such as 02:00:00"
        )
    if not seconds:
        raise SettingsError(f"--time {text}: a job needs some time")
    return seconds


def clock(seconds: int, days: bool = False) -> str:
    """Write a time as hours:minutes:seconds, `days` of it apart as Slurm does."""
    hours, rest = divmod(seconds, 3600)
    written = f"{rest // 60:02d}:{rest % 60:02d}"
    if days and hours >= 24:
        return f"{hours // 24}-{hours % 24:02d}:{written}"
    return f"{hours:02d}:{written}"


def job_name(text: str) -> str:
    """Return a name that every batch system takes, as like the given one as possible."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "campaign"
    return name if name[0].isalpha() else f"pal-{name}"


def next_script(folder: Path, name: str, taken: Sequence[Path]) -> Path:
    """Return a file for a new script: scripts are kept, so each gets a number of its own."""
    pattern = re.compile(rf"{re.escape(name)}-(\d+)\.sh")
    found = (pattern.fullmatch(path.name) for path in taken)
    last = max((int(match[1]) for match in found if match), default=0)
    return folder / f"{name}-{last + 1}.sh"
