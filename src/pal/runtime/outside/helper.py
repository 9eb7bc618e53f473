"""A helper: the process in which an oracle beyond the job lives, and makes label after label.

It dies, with all programs it has started, as soon as the process that started it is gone.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pal.errors import ChannelClosedError, ContractError, KernelImportError
from pal.roles import Context, Oracle
from pal.runtime.labels import calculate, described
from pal.runtime.outside.errands import Answer, Errand
from pal.runtime.surroundings import seed_of
from pal.transport.channel import SocketChannel

BUILT = "built"


def main() -> None:
    """Serve the process that started this one until it hangs up."""
    fd = int(sys.argv[1])
    threading.Thread(target=_die_with_caller, args=[fd], daemon=True).start()
    channel = SocketChannel(socket.socket(fileno=fd))
    with suppress(ChannelClosedError):
        _serve(channel)


def _die_with_caller(fd: int) -> None:
    poller = select.poll()
    poller.register(fd, 0)
    poller.poll()
    os.killpg(0, signal.SIGKILL)


def _serve(channel: SocketChannel) -> None:
    first, base = _next(channel)
    _write_to(base / "logs" / f"oracle-{first.oracle}.log")
    faulthandler.enable()
    try:
        oracle = _build(first, base)
    except Exception as error:
        _say(channel, _unbuilt(first, error))
        return
    _say(channel, BUILT)
    while True:
        errand = _next(channel)
        _write_to(base / "logs" / f"oracle-{errand.oracle}.log")
        _say(channel, _label(oracle, errand, base))


def _next(channel: SocketChannel) -> Any:
    while (message := channel.receive()) is None:
        channel.wait()
    return message


def _say(channel: SocketChannel, message: object) -> None:
    channel.send(message)
    channel.flush()


def _build(first: Errand, base: Path) -> Oracle:
    """Build the oracle. Its index is that of its first label; folder and seed are its own."""
    terms = first.terms
    directory = base / "work" / f"outside-{socket.gethostname()}-{os.getpid()}"
    directory.mkdir(parents=True)
    if terms.home is not None and terms.home.is_dir():
        os.chdir(terms.home)
    seed = seed_of(terms.seed, "oracle", first.oracle, first.identity, first.attempt)
    context = Context("oracle", first.oracle, terms.count, seed, directory, threads=terms.threads)
    oracle: Oracle = terms.kernel.build(context)
    return oracle


def _unbuilt(first: Errand, error: Exception) -> Answer:
    """Only the kernel itself can say that it will never be built; the rest may be bad luck."""
    never = isinstance(error, KernelImportError | ContractError)
    failure = described("oracle", first.oracle, error, sample=first.identity)
    return Answer("unbuilt" if never else "down", socket.gethostname(), failure=failure)


def _label(oracle: Oracle, errand: Errand, base: Path) -> Answer:
    host, started = socket.gethostname(), time.monotonic()
    scratch = base / "scratch" / f"{errand.identity}-{errand.attempt}"
    try:
        label = calculate(oracle, errand.sample, scratch, errand.terms.sanity)
    except Exception as error:
        failure = described("oracle", errand.oracle, error, sample=errand.identity)
        return Answer("refused", host, time.monotonic() - started, failure=failure)
    return Answer("labelled", host, time.monotonic() - started, label)


def _write_to(log: Path) -> None:
    """Let what is printed from now on go to this file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
