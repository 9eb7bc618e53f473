"""The wall-time of a batch job: in which job this process runs, and when that job ends.

All but `end_of_job` are pure functions of the environment, of a scheduler's answer and of a time.
Times are seconds since 1970.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pal.errors import SettingsError

VARIABLE: Final = "PAL_JOB_END"
"""The variable that says when the job ends; job scripts export it, and users may."""

_MARKS: Final = (("slurm", "SLURM_JOB_ID"), ("pbs", "PBS_JOBID"), ("lsf", "LSB_JOBID"))
_QUESTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "slurm": ("squeue", "--noheader", "--format=%e", "--jobs"),
    "pbs": ("qstat", "-f"),
    "lsf": ("bjobs", "-noheader", "-o", "time_left"),
    "sge": ("qstat", "-j"),
}
"""What asks a scheduler for the end of a job; the job's number comes last."""

_PATIENCE: Final = 10.0
_SOON: Final = 5.0
"""A job that is ended so few seconds before the end has had its time: clocks differ."""

_LEAST_SHARE: Final = 0.5
"""However long the margin: this share of the time that is left at the start is worked."""


@dataclass(frozen=True, slots=True)
class Job:
    """The batch job this process is part of."""

    system: str
    number: str


def job_of(environment: Mapping[str, str]) -> Job | None:
    """Return the batch job that this environment belongs to; None outside of one."""
    for system, variable in _MARKS:
        if number := environment.get(variable):
            return Job(system, number)
    # SGE's variable has a name that anything may use; beside its root it is SGE's.
    if "SGE_ROOT" in environment and (number := environment.get("JOB_ID")):
        return Job("sge", number)
    return None


def announced(environment: Mapping[str, str]) -> float | None:
    """Return the end of the job that the environment tells; None if it does not.

    Raises:
        SettingsError: PAL_JOB_END is not a number.
    """
    if text := environment.get(VARIABLE):
        with suppress(ValueError):
            return float(text)
        raise SettingsError(
            f"{VARIABLE} = {text!r}: expected the end of the job in seconds since 1970, e.g. "
            f"export {VARIABLE}=$(($(date +%s) + 7200)); or unset it"
        )
    with suppress(ValueError):
        return float(environment.get("SLURM_JOB_END_TIME", ""))
    return None


def told(system: str, text: str, now: float) -> float | None:
    """Read the end of a job out of what its scheduler answered at the time `now`."""
    readers = {"slurm": _by_slurm, "pbs": _by_pbs, "lsf": _by_lsf, "sge": _by_sge}
    with suppress(ValueError, OverflowError):
        return readers[system](text, now)
    return None


def _by_slurm(text: str, now: float) -> float | None:
    """`squeue --format=%e`: 2025-11-27T00:40:00, or N/A."""
    return _moment(text, "%Y-%m-%dT%H:%M:%S")


def _by_pbs(text: str, now: float) -> float | None:
    """`qstat -f`: the wall-time asked for, and the start or else the time used."""
    limit = re.search(r"Resource_List\.walltime = ([\d:]+)", text)
    if limit is None:
        return None
    start = re.search(r"(?:stime|start_time) = (.+)", text)
    if start is not None:
        return _moment(start[1], "%a %b %d %H:%M:%S %Y") + _clock(limit[1])
    used = re.search(r"resources_used\.walltime = ([\d:]+)", text)
    return now + _clock(limit[1]) - (_clock(used[1]) if used else 0.0)


def _by_lsf(text: str, now: float) -> float | None:
    """`bjobs -o time_left`: hours and minutes, and a letter for what they are: "1:59 L"."""
    left = re.match(r"\s*(\d+):(\d+)", text)
    return now + 3600.0 * int(left[1]) + 60.0 * int(left[2]) if left else None


def _by_sge(text: str, now: float) -> float | None:
    """`qstat -j`: only the limit, in seconds; PAL starts with the job, so it counts from now."""
    limit = re.search(r"\b[hs]_rt=(\d+)", text)
    return now + float(limit[1]) if limit else None


def _moment(text: str, form: str) -> float:
    return time.mktime(time.strptime(text.strip(), form))


def _clock(text: str) -> float:
    """Read hours:minutes:seconds, where the first may be missing."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60.0 * seconds + int(part)
    return seconds


def _ask(question: Sequence[str]) -> str:
    """Return what a scheduler's command prints; nothing if it fails or takes too long."""
    try:
        done = subprocess.run(
            question, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def end_of_job(
    environment: Mapping[str, str],
    now: float,
    ask: Callable[[Sequence[str]], str] = _ask,
) -> float | None:
    """Return when the batch job ends in which this process runs; None if nothing ends it.

    What the environment says is taken first, because it costs nothing; then the scheduler is
    asked.

    Raises:
        SettingsError: PAL_JOB_END is not a number.
    """
    end = announced(environment)
    job = job_of(environment)
    if end is not None or job is None:
        return end
    end = told(job.system, ask((*_QUESTIONS[job.system], job.number)), now)
    if end is None and environment.get("PBS_WALLTIME", "").isdecimal():
        return now + float(environment["PBS_WALLTIME"])
    return end


def drain_time(end: float, now: float, margin: float) -> float:
    """Return when to begin the end, so that `margin` seconds are left for it.

    In a job that is shorter than twice the margin, half of its time is worked all the same.
    """
    return max(end - margin, now + _LEAST_SHARE * (end - now))


class Walltime:
    """What a session knows of its batch job: whether there is one, and when to end for it.

    `margin`: seconds that the end of a session takes.
    """

    def __init__(self, margin: float, environment: Mapping[str, str] | None = None) -> None:
        known = os.environ if environment is None else environment
        self._before = time.time() - time.monotonic()
        now = self.now
        self.job = job_of(known)
        self.end = end_of_job(known, now)
        self._due = None if self.end is None else drain_time(self.end, now, margin)

    @property
    def now(self) -> float:
        """The time by the clock as it was at the start: a job has no less time if it is set."""
        return self._before + time.monotonic()

    def due(self, now: float) -> bool:
        """Whether it is time to end the session; true once only."""
        if self._due is None or now < self._due:
            return False
        self._due = None
        return True

    def over(self, now: float) -> bool:
        """Whether the job has had its time, and was not cut off before."""
        return self.end is not None and now >= self.end - _SOON

    @property
    def reason(self) -> str:
        """Why the session ends, for people."""
        end = time.strftime("%H:%M:%S", time.localtime(self.end))
        return f"to be continued: the batch job ends at {end}"
