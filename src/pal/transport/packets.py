"""Packets: how many messages of many streams share one road between two agents.

A packet is a sequence of segments, each a piece of one stream: its number, its length, its bytes.
Small messages ride together in one packet, a large one is spread over many, and the streams take
turns, so that a small message waits for a few packets at most, whatever else is under way. Nothing
here sends anything: `Outbound` fills packets, `Inbound` reads them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Hashable, Iterator

from pal.transport.frames import Frame

PACKET = 1 << 20
"""Largest packet in bytes. A larger one makes the small messages of other streams wait longer."""

TURN = 1 << 18
"""Bytes a stream may put into a packet before the next stream has its turn."""

_SEGMENT = struct.Struct("<II")


class _Stream:
    """What waits of one stream, as the parts of its messages."""

    def __init__(self, key: Hashable, number: int) -> None:
        self.key = key
        self.number = number
        self.parts: deque[memoryview] = deque()

    def take(self, limit: int) -> tuple[int, list[memoryview]]:
        """Remove up to so many bytes from the front; return how many, and the bytes."""
        taken: list[memoryview] = []
        room = limit
        while self.parts and room:
            part = self.parts[0]
            if part.nbytes <= room:
                self.parts.popleft()
            else:
                self.parts[0] = part[room:]
                part = part[:room]
            taken.append(part)
            room -= part.nbytes
        return limit - room, taken


class Outbound:
    """All that waits for one destination.

    A stream has a number on the road only while something of it waits, so that any number of
    streams may come and go.
    """

    def __init__(self) -> None:
        self._streams: dict[Hashable, _Stream] = {}
        self._turns: deque[_Stream] = deque()
        self._free: list[int] = []
        self._numbers = 0
        self.backlog = 0

    def put(self, parts: list[memoryview], stream: Hashable) -> None:
        """Let a message wait behind the others of its stream."""
        waiting = self._streams.get(stream)
        if waiting is None:
            waiting = self._streams[stream] = _Stream(stream, self._number())
            self._turns.append(waiting)
        waiting.parts.extend(parts)
        self.backlog += sum(part.nbytes for part in parts)

    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        self._numbers += 1
        return self._numbers - 1

    def fill(self) -> bytes:
        """Return the next packet; empty if nothing waits. Only here are bytes copied."""
        pieces: list[bytes | memoryview] = []
        room = PACKET
        while self._turns and room > _SEGMENT.size:
            stream = self._turns.popleft()
            limit = min(TURN, room - _SEGMENT.size) if self._turns else room - _SEGMENT.size
            size, taken = stream.take(limit)
            pieces.append(_SEGMENT.pack(stream.number, size))
            pieces += taken
            room -= size + _SEGMENT.size
            self.backlog -= size
            if stream.parts:
                self._turns.append(stream)
            else:
                del self._streams[stream.key]
                self._free.append(stream.number)
        return b"".join(pieces)

    def clear(self) -> None:
        """Forget all that waits. Numbers of streams of which a part may be gone are not reused."""
        self._streams.clear()
        self._turns.clear()
        self.backlog = 0


class Inbound:
    """Reads the packets of one source, in the order in which they were filled."""

    def __init__(self) -> None:
        self._frames: dict[int, Frame] = {}

    def feed(self, packet: memoryview) -> Iterator[Frame]:
        """Take a packet in; give every message that it completes."""
        while packet.nbytes:
            number, size = _SEGMENT.unpack_from(packet)
            end = _SEGMENT.size + size
            yield from self._read(number, packet[_SEGMENT.size : end])
            packet = packet[end:]

    def _read(self, number: int, piece: memoryview) -> Iterator[Frame]:
        frame = self._frames.pop(number, None)
        while piece.nbytes:
            frame = frame or Frame()
            room = frame.room()
            step = min(room.nbytes, piece.nbytes)
            room[:step] = piece[:step]
            piece = piece[step:]
            if frame.fill(step):
                yield frame
                frame = None
        if frame is not None:
            self._frames[number] = frame
