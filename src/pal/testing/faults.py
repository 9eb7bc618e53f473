"""Faults for a campaign that runs, to see whether your kernels and settings survive them (Linux).

from pal.testing import faults

pid = faults.workers("run")["oracle-0"]
faults.kill("run", "oracle-0")            # as the kernel does for want of memory
with faults.frozen("run", "trainer-0"):   # as on a node whose memory is swapped out
    ...
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pal.errors import PalError
from pal.ledger.directory import RunDirectory


def processes(directory: Path | str) -> dict[int, str]:
    """Return the living processes that write into a campaign's logs, with their worker's name.

    Programs that a worker has started are among them, unless their output goes elsewhere.
    """
    logs = (Path(directory) / "logs").resolve()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            log = Path(os.readlink(folder / "fd" / "1"))
        except OSError:
            continue
        if log.is_relative_to(logs):
            found[int(folder.name)] = log.stem
    return found


def workers(directory: Path | str) -> dict[str, int]:
    """Return the workers of a running campaign: {name: process}, e.g. {"oracle-0": 4711}."""
    return {name: pid for pid, name in sorted(processes(directory).items(), reverse=True)}


def agent(directory: Path | str) -> int:
    """Return the process that leads a running campaign: `pal run`.

    Raises:
        PalError: none runs in this directory.
    """
    holder = RunDirectory(directory).holder()
    if not holder:
        raise PalError(f"no campaign runs in {directory}; start one with `pal run`")
    return int(holder["pid"])


def kill(directory: Path | str, name: str, number: int = signal.SIGKILL) -> int:
    """Send a signal to a worker, and return which process it was.

    Raises:
        PalError: there is no such worker now; names those there are.
    """
    living = workers(directory)
    if name not in living:
        raise PalError(f"there is no worker {name} now; there are: {', '.join(living) or 'none'}")
    os.kill(living[name], number)
    return living[name]


@contextmanager
def frozen(directory: Path | str, name: str) -> Iterator[int]:
    """Stop a worker (SIGSTOP) for as long as this lasts; it may be killed meanwhile."""
    pid = kill(directory, name, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def cut(file: Path | str, share: float) -> None:
    """Cut a file short, as a crash of the machine may: this share of it is left."""
    os.truncate(file, int(os.path.getsize(file) * share))
