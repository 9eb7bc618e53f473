"""The function that an executor runs, wherever that is: one label, made in a process of its own.

The process of the executor's worker only waits. It starts a helper (`pal.runtime.outside.helper`)
that builds the oracle once and keeps it; so threads of one process do not share a working
directory, an oracle that crashes or is killed at its deadline costs nobody else anything, and
whatever programs it has started die with it. The deadline counts from here, when the label begins
to be made, not from when it was handed to a queue.
"""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from pal.errors import ChannelClosedError, Failure
from pal.runtime.labels import clear, described, last_words
from pal.runtime.outside.errands import Answer, Errand, Terms
from pal.runtime.surroundings import THREAD_VARIABLES, without_launcher
from pal.transport.channel import SocketChannel

_START = (
    "import os, sys; sys.path[:] = sys.argv.pop().split(os.pathsep); "
    "from pal.runtime.outside import helper; helper.main()"
)
"""How a helper starts: it imports from where this process does, and its programs do not."""


class Helper:
    """A helper process, from outside."""

    def __init__(self, first: Errand) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.base = self._base(first.terms)
        self._channel, there = SocketChannel.pair()
        environment = without_launcher(os.environ)
        environment |= dict.fromkeys(THREAD_VARIABLES, str(first.terms.threads))
        # It stays in this session, by which batch systems find all processes of a job.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(there.fileno()), os.pathsep.join(sys.path)],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
            process_group=0,
        )
        there.close()
        self.alive = True
        self.refusal = self._ask((first, self.base), first, None)

    def _base(self, terms: Terms) -> Path:
        """Return the run directory if it can be seen from here, else a temporary folder."""
        if (terms.directory / "lock").exists() and os.access(terms.directory, os.W_OK):
            return terms.directory
        self._temporary = tempfile.TemporaryDirectory(prefix="pal-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)

    def label(self, errand: Errand) -> Answer:
        """Have a sample labelled, within its deadline."""
        answer = self._ask(errand, errand, errand.terms.deadline)
        assert answer is not None
        return answer

    def _ask(self, message: object, errand: Errand, deadline: float | None) -> Answer | None:
        started = time.monotonic()
        until = None if deadline is None else started + deadline
        try:
            self._channel.send(message)
            while True:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return self._overdue(errand)
                self._channel.wait(left)
                answer: Answer | str | None = self._channel.receive()
                if answer is not None:
                    return answer if isinstance(answer, Answer) else None
        except ChannelClosedError:
            return self._died(errand, time.monotonic() - started)

    def _overdue(self, errand: Errand) -> Answer:
        self.end()
        text = f"no label within {errand.terms.deadline} s"
        return self._down(errand, "deadline", text, errand.terms.deadline or 0.0)

    def _died(self, errand: Errand, seconds: float) -> Answer:
        # Whatever it had started is in its process group, and nobody else will end it.
        code = self._process.wait()
        self.end()
        if code < 0:
            text = f"killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            text = f"ended its process with exit code {code}"
        return self._down(errand, "crash", text, seconds)

    def _down(self, errand: Errand, kind: str, text: str, seconds: float) -> Answer:
        log = self.base / "logs" / f"oracle-{errand.oracle}.log"
        host = socket.gethostname()
        clear(self.base / "scratch" / f"{errand.identity}-{errand.attempt}")
        failure = Failure(
            "oracle",
            errand.oracle,
            kind,
            f"{text}; its log is {log}",
            host=host,
            sample=errand.identity,
            traceback=last_words(log),
        )
        return Answer("down", host, seconds, failure=failure)

    def end(self) -> None:
        """Kill the helper and all that it has started."""
        self.alive = False
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        if self._temporary is not None:
            self._temporary.cleanup()


_idle: defaultdict[str, list[Helper]] = defaultdict(list)
_lock = threading.Lock()


def end_helpers() -> None:
    """End the helpers that have nothing to do."""
    with _lock:
        over = [helper for helpers in _idle.values() for helper in helpers]
        _idle.clear()
    for helper in over:
        helper.end()


# Processes that multiprocessing has started, as pools do, end without `atexit`.
multiprocessing.util.Finalize(None, end_helpers, exitpriority=1)


def label(errand: Errand) -> Answer:
    """Make one label. Never raises: what an executor raises is then its own trouble."""
    try:
        return _label(errand)
    except Exception as error:
        failure = described("oracle", errand.oracle, error, sample=errand.identity)
        return Answer("down", socket.gethostname(), failure=failure)


def _label(errand: Errand) -> Answer:
    helper = _take(errand.terms.key) or Helper(errand)
    if helper.refusal is not None:
        helper.end()
        return helper.refusal
    answer = helper.label(errand)
    if helper.alive:
        with _lock:
            _idle[errand.terms.key].append(helper)
    return answer


def _take(key: str) -> Helper | None:
    """Take a helper that has nothing to do; end those of campaigns that are over."""
    with _lock:
        over = [helper for other in _idle.keys() - {key} for helper in _idle.pop(other)]
        found = _idle[key].pop() if _idle[key] else None
    for helper in over:
        helper.end()
    return found
