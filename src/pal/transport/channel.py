"""Channels: ordered messages between an agent and its workers, outside the hot loop.

A message is any picklable object. Arrays inside it travel as raw buffers beside the pickle
(protocol 5), so nothing large is copied into it. Sending never blocks: what the other end does not
take yet waits in this process, in order, and `backlog` says how much that is. It waits as a copy,
so a sender may change its arrays as soon as `send` returns.

A socket takes 200 KB at a time: 100 MB of weights would wake the hot loop, and the agent, five
hundred times. An agent therefore lays what is large into shared memory and sends its descriptor.
"""

from __future__ import annotations

import array
import os
import pickle
import select
import socket
from collections import deque
from typing import Any, Protocol, TypeAlias

from pal.errors import ChannelClosedError
from pal.transport.frames import Frame, pack
from pal.transport.segment import nameless

_CHUNK = 1 << 20
_AT_ONCE = 1 << 30
_BULK = 1 << 20
"""Bytes from which on a message goes beside the stream, where its sender does so at all."""


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

    def pending(self) -> bool:
        """Whether `receive` may have something, without a wait."""
        ...

    def flush(self) -> None:
        """Block until the other end has taken everything."""
        ...

    def close(self) -> None:
        """Hang up. The other end still receives what was sent."""
        ...


_Part: TypeAlias = tuple[memoryview, int | None]
"""Bytes, and the descriptor that goes with them."""

_ROOM_FOR_A_DESCRIPTOR = socket.CMSG_SPACE(array.array("i").itemsize)


class _Beside:
    """Stands for a message that lies in the memory whose descriptor has come with it."""


class SocketChannel:
    """A channel over a connected stream socket.

    `beside`: send large messages through shared memory. They do not count as backlog, so this is
    for senders that have a measure of their own for how much may be under way.
    """

    def __init__(self, sock: socket.socket, beside: bool = False) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.beside = beside
        self._outgoing: deque[_Part] = deque()
        self._descriptors: deque[int] = deque()
        self.backlog = 0
        self._frame = Frame()
        self._ready: deque[Any] = deque()
        self._closed = False

    @classmethod
    def pair(cls, beside: bool = False) -> tuple[SocketChannel, socket.socket]:
        """Make a channel and the socket of its other end, to be handed to a child."""
        here, there = socket.socketpair()
        return cls(here, beside), there

    def fileno(self) -> int:
        """The socket's descriptor, for an event loop."""
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Queue a message and pass on what the other end takes at once."""
        self.push()
        fresh = deque(self._parts(message))
        try:
            if not self._outgoing:
                self._pass_on(fresh)
        except ChannelClosedError:
            _let_go(fresh)
            raise
        for part, fd in fresh:
            self._outgoing.append((memoryview(bytes(part)), fd))
            self.backlog += part.nbytes

    def _parts(self, message: Any) -> list[_Part]:
        parts = pack(message)
        if not self.beside or sum(part.nbytes for part in parts) < _BULK:
            return [(part, None) for part in parts]
        # Written, not mapped: pages that are mapped first are cleared first.
        fd, end = nameless(), 0
        for part in parts:
            while part.nbytes:
                written = os.pwrite(fd, part[:_AT_ONCE], end)
                end += written
                part = part[written:]
        head, *others = pack(_Beside())
        return [(head, fd), *((part, None) for part in others)]

    def push(self) -> None:
        """Pass on what the other end takes now."""
        self.backlog -= self._pass_on(self._outgoing)

    def _pass_on(self, parts: deque[_Part]) -> int:
        """Send from the front of `parts` what the other end takes now; return its bytes."""
        passed = 0
        try:
            while parts:
                part, fd = parts[0]
                if fd is None:
                    sent = self._socket.send(part[:_CHUNK])
                else:
                    sent = socket.send_fds(self._socket, [part], [fd])
                    os.close(fd)
                passed += sent
                if sent < part.nbytes:
                    parts[0] = (part[sent:], None)
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
                received, beside, _, _ = self._socket.recvmsg_into(
                    [self._frame.room()], _ROOM_FOR_A_DESCRIPTOR
                )
                for _, _, descriptor in beside:
                    self._descriptors.extend(array.array("i", descriptor))
                if not received:
                    self._closed = True
                    return
                if self._frame.fill(received):
                    self._ready.append(self._whole(self._frame.message()))
                    self._frame = Frame()
                    return
        except BlockingIOError:
            return
        except OSError:
            self._closed = True

    def _whole(self, message: Any) -> Any:
        """Return a message, or the one for which it stands."""
        if not isinstance(message, _Beside):
            return message
        fd, end, frame = self._descriptors.popleft(), 0, Frame()
        try:
            while True:
                received = os.preadv(fd, [frame.room()[:_AT_ONCE]], end)
                end += received
                if frame.fill(received):
                    return frame.message()
        finally:
            os.close(fd)

    def wait(self, seconds: float | None = None) -> None:
        """Sleep until `receive` may have something, at most so long; sends on meanwhile."""
        if self._ready or self._closed:
            return
        poller = select.poll()
        poller.register(self, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        for _, events in poller.poll(None if seconds is None else max(0.0, seconds) * 1000):
            if events & select.POLLOUT:
                self.push()

    def pending(self) -> bool:
        """Whether `receive` may have something, without a wait."""
        if self._ready or self._closed:
            return True
        poller = select.poll()
        poller.register(self, select.POLLIN)
        return bool(poller.poll(0))

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
        _let_go(self._outgoing)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _let_go(parts: deque[_Part]) -> None:
    """Give back the memory of messages that are not sent any more."""
    for _, fd in parts:
        if fd is not None:
            os.close(fd)


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

    def pending(self) -> bool:
        """Whether there is something."""
        return bool(self._incoming or self._ends)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Hang up."""
        self._ends.append(True)
