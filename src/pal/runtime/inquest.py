"""Why a worker died: what the system says, and the last words in its log."""

from __future__ import annotations

import signal
from contextlib import suppress

from pal.errors import Failure
from pal.runtime.memory import killings
from pal.runtime.orders import Job
from pal.runtime.worker import KERNEL_OF


class Inquest:
    """Describes deaths. It remembers how often the kernel has killed for want of memory."""

    def __init__(self) -> None:
        self._killings = killings()

    def crash(self, job: Job, code: int) -> Failure:
        """Describe the end of a worker that nobody had ordered."""
        if code < 0:
            with suppress(ValueError):
                text = f"killed by signal {-code} ({signal.Signals(-code).name})"
                if code == -signal.SIGKILL:
                    text += self._for_want_of_memory()
                return self.failure(job, "crash", text)
        return self.failure(job, "crash", f"ended with exit code {code}")

    def _for_want_of_memory(self) -> str:
        """Say so, if the kernel has killed somebody for want of memory since the last time."""
        before, self._killings = self._killings, killings()
        if None in (before, self._killings) or before == self._killings:
            return ""
        return (
            ", it seems by the kernel for want of memory: ask for more, have fewer oracles, or "
            "set oracle.memory"
        )

    def failure(self, job: Job, kind: str, text: str) -> Failure:
        """Describe an end, with what the worker has printed last."""
        log = job.directory / "logs" / f"{job.name}.log"
        words = ""
        with suppress(OSError):
            words = log.read_bytes()[-2000:].decode(errors="replace")
        return Failure(
            KERNEL_OF.get(job.role, "prediction"),
            job.index,
            kind,
            f"{text}; its log is {log}",
            host=job.where,
            traceback=f"last words:\n{words}" if words.strip() else "",
        )
