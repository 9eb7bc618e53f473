"""The nursery: a small process that forks workers, and buries them all when the agent dies.

It has imported numpy and the worker code, and nothing else, so a worker is up in milliseconds and
shares those pages with all others. It lives in a session of its own, so whatever kills the
agent's process group (kill -9, a closed terminal) leaves it alive just long enough to kill every
worker's process group, grandchildren included. Programs that have left that group, as Parsl's
blocks on this machine do, are known by a mark in their environment, and those without a mark by
their parents: orphans become children of the nursery (on Linux). Should it die itself, the kernel
kills the workers (PR_SET_PDEATHSIG, on Linux), and elsewhere their lifeline does; marked programs
are then ended by the next nursery.

Requests come over a stream socket as a length and a pickle, with file descriptors beside them;
answers go back as lines of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

HEAD = struct.Struct("<QI")
FDS_PER_MESSAGE = 200
_TIDY, _LONGEST = 2.0, 5.0
MARK = "PAL_WORKER"
"""The environment variable by which whatever a worker has started is found: agent.worker."""
FOR_THE_AGENT = (signal.SIGTERM, signal.SIGUSR1)
"""Batch systems send these to every process of a job; the agent alone decides what they mean."""


@dataclass(frozen=True, slots=True)
class Birth:
    """Fork a worker that runs `pal.runtime.worker.main(order)`; `order.fds` count the fds sent."""

    key: int
    order: Any


@dataclass(frozen=True, slots=True)
class Kill:
    """Send a signal to a worker's whole process group."""

    pid: int
    signal: int


def send_request(sock: socket.socket, request: Birth | Kill, fds: list[int]) -> None:
    """Send a request and its descriptors; blocks until the nursery has taken it."""
    data = pickle.dumps(request)
    sock.sendall(HEAD.pack(len(data), len(fds)))
    for start in range(0, len(fds), FDS_PER_MESSAGE):
        socket.send_fds(sock, [b"f"], fds[start : start + FDS_PER_MESSAGE])
    sock.sendall(data)


def _receive_request(sock: socket.socket) -> tuple[Birth | Kill, list[int]] | None:
    head = _exactly(sock, HEAD.size)
    if head is None:
        return None
    size, count = HEAD.unpack(head)
    fds: list[int] = []
    while len(fds) < count:
        data, more, _, _ = socket.recv_fds(sock, 1, FDS_PER_MESSAGE)
        if not data:
            return None
        fds.extend(more)
    body = _exactly(sock, size)
    return None if body is None else (pickle.loads(body), fds)


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def adopt_orphans() -> None:
    """Have the kernel give this process the orphans among its descendants (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Nursery:
    """Serves one agent until it hangs up."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._children: dict[int, int] = {}
        adopt_orphans()
        self._agent = identity(os.getppid())
        end_marked([f"{self._agent}."])  # what a nursery left that was killed
        self._untold = bytearray()
        self._poller = select.poll()
        self._wakeup, writer = os.pipe()
        for fd in (self._wakeup, writer):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork, kill and report until the agent is gone; then kill all that is left."""
        self._poller.register(self._socket, select.POLLIN)
        self._poller.register(self._wakeup, select.POLLIN)
        try:
            while True:
                for fd, events in self._poller.poll():
                    if fd == self._wakeup:
                        os.read(self._wakeup, 4096)
                        self._bury()
                    elif events == select.POLLOUT:
                        self._pass_on()
                    elif not self._obey():
                        return
        except OSError:
            return
        finally:
            for pid in self._children:
                _kill_group(pid, signal.SIGKILL)
            end_marked([f"{self._agent}."])
            _end_orphans()

    def _obey(self) -> bool:
        received = _receive_request(self._socket)
        if received is None:
            return False
        request, fds = received
        if isinstance(request, Kill):
            offspring = descendants(request.pid)
            _kill_group(request.pid, request.signal)
            for pid in offspring:  # also those that have left the group
                _kill(pid, request.signal)
            return True
        pid = os.fork()
        if pid == 0:
            self._become(request, fds)
        for fd in fds:
            os.close(fd)
        with suppress(OSError):
            os.setpgid(pid, pid)
        self._children[pid] = request.key
        self._tell({"born": request.key, "pid": pid})
        return True

    def _become(self, birth: Birth, fds: list[int]) -> None:
        """Turn the fresh fork into a worker. Never returns."""
        code = 70
        try:
            with suppress(OSError):
                os.setpgid(0, 0)
            die_with_parent()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.environ[MARK] = f"{self._agent}.{birth.key}."
            # Not ignored, which the programs that a kernel starts would inherit.
            for number in FOR_THE_AGENT:
                signal.signal(number, lambda *_: None)
            lifeline = self._socket.detach()
            _watch(lifeline)
            from pal.runtime import worker

            code = worker.main(birth.order, fds)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _bury(self) -> None:
        gone = []
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            key = self._children.pop(pid, None)
            _kill_group(pid, signal.SIGKILL)
            if key is not None:
                code = os.waitstatus_to_exitcode(status)
                gone.append({"gone": key, "pid": pid, "code": code})
        if gone:
            end_marked([f"{self._agent}.{news['gone']}." for news in gone])
        for news in gone:
            self._tell(news)

    def _tell(self, news: dict[str, int]) -> None:
        self._untold += json.dumps(news).encode() + b"\n"
        self._pass_on()

    def _pass_on(self) -> None:
        """Tell what the agent takes now: it does not listen while it sends requests itself."""
        with suppress(BlockingIOError):
            del self._untold[: self._socket.send(self._untold, socket.MSG_DONTWAIT)]
        events = select.POLLIN | (select.POLLOUT if self._untold else 0)
        self._poller.modify(self._socket, events)


def _kill_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def descendants(ancestor: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for pid in _processes():
        after_name = _read(pid, "stat").rpartition(b")")[2].split()
        if after_name and after_name[0] != b"Z":
            children.setdefault(int(after_name[1]), []).append(pid)
    found = list(children.get(ancestor, ()))
    for pid in found:  # grows meanwhile
        found += children.get(pid, ())
    return found


def _end_orphans() -> None:
    """Kill all descendants, until there are none: those that workers have left behind."""
    began = time.monotonic()
    while found := descendants(os.getpid()):
        if time.monotonic() - began > _LONGEST:
            return
        for pid in found:
            _kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def end_marked(marks: Sequence[str]) -> None:
    """Kill all processes whose mark begins so, until there are none; what a worker started.

    Looking at every process takes some ten microseconds for each; so look for many at once.
    Python's resource trackers, which remove the semaphores of those killed, get time for it. One
    that the kernel does not let go, as it waits for a dead file server, is left to it.
    """
    wanted = tuple(f"{MARK}={mark}".encode() for mark in marks)
    began = time.monotonic()
    while found := [pid for pid in _processes() if any(_marks(pid, wanted))]:
        passed = time.monotonic() - began
        if passed > _LONGEST:
            return
        for pid in found:
            if passed > _TIDY or b"resource_tracker" not in _read(pid, "cmdline"):
                _kill(pid, signal.SIGKILL)
        time.sleep(0.001)  # until the kernel has taken them down


def identity(pid: int) -> str:
    """Name a process so that no other one has the same name, in this or another container."""
    after_name = _read(pid, "stat").rpartition(b")")[2].split()
    began = after_name[19].decode() if after_name else ""  # in ticks since the machine started
    return f"{pid}-{began}"


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _marks(pid: int, wanted: tuple[bytes, ...]) -> Iterator[bytes]:
    return (each for each in _read(pid, "environ").split(b"\0") if each.startswith(wanted))


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _watch(fd: int) -> None:
    """End this worker's whole group when the agent hangs up, where the kernel does not do it."""
    if sys.platform == "linux":
        os.close(fd)
        return

    def watch() -> None:  # pragma: no cover - macOS
        poller = select.poll()
        poller.register(fd, 0)
        poller.poll()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()  # pragma: no cover - macOS


def main() -> None:
    """Run a nursery on the socket whose descriptor is the first argument."""
    with suppress(OSError):
        os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, *FOR_THE_AGENT):
        signal.signal(number, signal.SIG_IGN)
    import pal.runtime.worker  # noqa: F401 - imported once here, shared by every worker

    gc.collect()
    gc.freeze()
    Nursery(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    # Run under its own name: requests are unpickled as classes of this module, which differ from
    # those of `__main__`.
    from pal.runtime import nursery

    nursery.main()
