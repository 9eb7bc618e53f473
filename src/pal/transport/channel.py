"""Channels: ordered messages between an agent and its workers, outside the hot loop.

A message is any picklable object. Arrays inside it travel as raw buffers beside the pickle
(protocol 5), so nothing large is copied into it. Sending never blocks: what the other end does not
take yet waits in this process, in order, and `backlog` says how much that is. It waits as a copy,
so a sender may change its arrays as soon as `send` returns.
"""

from __future__ import annotations

import pickle
import select
import socket
from collections import deque
from typing import Any, Protocol

from pal.errors import ChannelClosedError
from pal.transport.frames import Frame, pack

_CHUNK = 1 << 20


class Channel(Protocol):
    """The contract; `tests/transport` runs one suite over every implementation."""

    @property
    def backlog(self) -> int:
        """Bytes accepted by `send` that the other end has not taken yet."""
        ...

    def send(self, message: Any) -> None:
        """Queue a message and pass on what the other end takes at once. Never blocks.

        Raises:
            ChannelClosedError: the other end is gone.
        """
        ...

    def receive(self) -> Any | None:
        """Return the next message that is completely here, or None. Never blocks.

        Raises:
            ChannelClosedError: the other end is gone, and all it sent has been received.
        """
        ...

    def wait(self, seconds: float | None = None) -> None:
        """Sleep until `receive` may have something, at most so long; sends on meanwhile."""
        ...

    def flush(self) -> None:
        """Block until the other end has taken everything."""
        ...

    def close(self) -> None:
        """Hang up. The other end still receives what was sent."""
        ...


class SocketChannel:
    """A channel over a connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._outgoing: deque[memoryview] = deque()
        self.backlog = 0
        self._frame = Frame()
        self._ready: deque[Any] = deque()
        self._closed = False

    @classmethod
    def pair(cls) -> tuple[SocketChannel, socket.socket]:
        """Make a channel and the socket of its other end, to be handed to a child."""
        here, there = socket.socketpair()
        return cls(here), there

    def fileno(self) -> int:
        """The socket's descriptor, for an event loop."""
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Queue a message and pass on what the other end takes at once."""
        fresh = deque(pack(message))
        self.push()
        if not self._outgoing:
            self._pass_on(fresh)
        for part in fresh:
            self._outgoing.append(memoryview(bytes(part)))
            self.backlog += part.nbytes

    def push(self) -> None:
        """Pass on what the other end takes now."""
        self.backlog -= self._pass_on(self._outgoing)

    def _pass_on(self, parts: deque[memoryview]) -> int:
        """Send from the front of `parts` what the other end takes now; return its bytes."""
        passed = 0
        try:
            while parts:
                sent = self._socket.send(parts[0][:_CHUNK])
                passed += sent
                if sent < parts[0].nbytes:
                    parts[0] = parts[0][sent:]
                else:
                    parts.popleft()
        except BlockingIOError:
            return passed
        except OSError as error:
            raise ChannelClosedError(f"the other end of a channel is gone: {error}") from error
        return passed

    def receive(self) -> Any | None:
        """Return the next message that is completely here, or None."""
        if not self._ready and not self._closed:
            self._pull()
        if self._ready:
            return self._ready.popleft()
        if self._closed:
            raise ChannelClosedError("the other end of a channel has hung up")
        return None

    def _pull(self) -> None:
        try:
            while True:
                received = self._socket.recv_into(self._frame.room())
                if not received:
                    self._closed = True
                    return
                if self._frame.fill(received):
                    self._ready.append(self._frame.message())
                    self._frame = Frame()
                    return
        except BlockingIOError:
            return
        except OSError:
            self._closed = True

    def wait(self, seconds: float | None = None) -> None:
        """Sleep until `receive` may have something, at most so long; sends on meanwhile."""
        if self._ready or self._closed:
            return
        poller = select.poll()
        poller.register(self, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        for _, events in poller.poll(None if seconds is None else max(0.0, seconds) * 1000):
            if events & select.POLLOUT:
                self.push()

    def flush(self) -> None:
        """Block until the other end has taken everything."""
        poller = select.poll()
        poller.register(self, select.POLLOUT)
        while self._outgoing:
            poller.poll()
            self.push()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class InprocChannel:
    """A channel within one process, for tests and for kernels that live beside the agent."""

    def __init__(self, outgoing: deque[bytes], incoming: deque[bytes], ends: list[bool]) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._ends = ends
        self.backlog = 0

    @classmethod
    def pair(cls) -> tuple[InprocChannel, InprocChannel]:
        """Make both ends."""
        there: deque[bytes] = deque()
        back: deque[bytes] = deque()
        ends: list[bool] = []
        return cls(there, back, ends), cls(back, there, ends)

    def send(self, message: Any) -> None:
        """Hand the message over. It is pickled, so that both ends never share an object."""
        if self._ends:
            raise ChannelClosedError("the other end of a channel is gone")
        self._outgoing.append(pickle.dumps(message, protocol=5))

    def receive(self) -> Any | None:
        """Return the next message or None."""
        if self._incoming:
            return pickle.loads(self._incoming.popleft())
        if self._ends:
            raise ChannelClosedError("the other end of a channel has hung up")
        return None

    def wait(self, seconds: float | None = None) -> None:
        """Nothing to wait for: both ends run in one thread."""

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Hang up."""
        self._ends.append(True)
