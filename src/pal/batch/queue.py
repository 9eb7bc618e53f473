"""Submits scripts and asks the queue, through Parsl's providers of batch systems.

Parsl knows each system's commands, reads job numbers out of their answers, and names their states
alike. The script stays ours: Parsl's would hold neither queue nor account for PBS, no signal, and
a text nobody would want to edit.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Final

from pal.batch.systems import System
from pal.errors import BatchError

_PROVIDERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "slurm": ("SlurmProvider", {"exclusive": False}),
    "pbs": ("PBSProProvider", {}),
    "torque": ("TorqueProvider", {}),
    "lsf": ("LSFProvider", {"bsub_redirection": True}),
    "sge": ("GridEngineProvider", {}),
}


def submit(system: System, script: Path) -> str:
    """Submit a script that is written, and return the job's number.

    Raises:
        BatchError: the system is not here, or refused the job.
    """
    if shutil.which(system.submit) is None:
        raise BatchError(
            f"{system.submit} ({system.title}) is not on the PATH: submit on a node that has it, "
            f"by hand: {system.by_hand(script)}"
        )
    provider = _provider(system, script)
    with tempfile.TemporaryDirectory(prefix="pal-submit-") as folder:
        provider.script_dir = folder
        try:
            number = provider.submit("", 1, script.stem)
        except Exception as error:
            raise _refused(system, script, provider, str(error)) from error
    if not number:
        raise _refused(system, script, provider, "")
    return str(number)


def _refused(system: System, script: Path, provider: Any, reason: str) -> BatchError:
    said = provider.said or reason or "it named no job"
    return BatchError(
        f"{system.title} refused {script}: {said}; change the options of `pal submit` (its own "
        "can be given with --option), or edit the script and submit it by hand: "
        f"{system.by_hand(script)}"
    )


def state(system: System, number: str) -> str:
    """Return "pending", "running", "held", "ended", or "unknown" of a job."""
    if shutil.which(system.submit) is None:
        return "unknown"
    from parsl.jobs.states import JobState, JobStatus

    provider = _provider(system, None)
    provider.resources[number] = {
        "job_id": number,
        "status": JobStatus(JobState.UNKNOWN),
        "job_stdout_path": None,
        "job_stderr_path": None,
    }
    try:
        (status,) = provider.status([number])
    except Exception:
        return "unknown"
    if status.terminal:
        return "ended"
    # Slurm without accounting answers an error about a job that has left the queue.
    gone = system.name == "slurm" and "Invalid job id" in provider.said
    return "ended" if gone else str(status.state.name).lower()


def _provider(system: System, script: Path | None) -> Any:
    """Make Parsl's provider of a system, with a script that is given instead of its own.

    Raises:
        BatchError: Parsl is not installed.
    """
    try:
        import parsl.providers
    except ImportError as error:
        raise BatchError(
            'batch systems are reached through Parsl, which is not installed: pip install "pal'
            '[cluster]"; or write the script with --dry-run, and submit it by hand'
        ) from error
    # What goes wrong is told once, as our error.
    logging.getLogger("parsl").addHandler(logging.NullHandler())
    name, options = _PROVIDERS[system.name]
    base = getattr(parsl.providers, name)
    made = type(name, (base, _written()), {"script": script})
    return made(**options)


def _written() -> type:
    """Return the part of a provider that lets it submit a script which is there already.

    It stands behind the provider of a system: what they all call in their common base is ours.
    """
    from parsl.providers.cluster_provider import ClusterProvider

    base: Any = ClusterProvider

    class Written(base):  # type: ignore[misc]
        script: Path | None = None
        copy = ""
        said = ""

        def _write_submit_script(self, template: Any, filename: str, *_: Any) -> None:
            assert self.script is not None
            shutil.copyfile(self.script, filename)
            self.copy = filename

        def execute_wait(self, cmd: str, timeout: Any = None) -> Any:
            if self.copy:  # the queue is to show the script that is kept
                cmd = cmd.replace(self.copy, quote(str(self.script)))
            code, out, err = super().execute_wait(cmd, timeout)
            self.said = " ".join((err.strip() or out.strip()).split()) if code else ""
            return code, out, err

    return Written
