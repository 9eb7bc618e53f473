"""A mailbox: one record at a time from one process to another through shared memory."""

from __future__ import annotations

from typing import Final

from pal.errors import SlotTooSmallError
from pal.records import Sample, signature
from pal.transport.layout import Layout
from pal.transport.segment import Segment

_HEADER: Final = 64
_DESCRIPTOR: Final = 4032


class Mailbox:
    """A place for one record, in a part of a segment.

    The writer numbers what it puts in; the reader notes the number it has taken. Doorbells are
    the caller's business. Arrays that `get` returns are the reader's own copies.
    """

    def __init__(self, segment: Segment, start: int, size: int) -> None:
        self._segment = segment
        self._header = segment.array("i8", (3,), start)  # put, taken, length of the descriptor
        self._start = start + _HEADER
        self._room = size - _HEADER - _DESCRIPTOR
        self._signature: object = None
        self._layout: Layout | None = None
        self._text = b""
        self.read = 0
        """The number of the record that `get` returned last."""

    @property
    def number(self) -> int:
        """The number of the record put last."""
        return int(self._header[0])

    @property
    def full(self) -> bool:
        """Whether a record is there that has not been taken."""
        return bool(self._header[0] != self._header[1])

    def put(self, record: Sample, number: int | None = None) -> None:
        """Write a record, under this number or the next one.

        Raises:
            SlotTooSmallError: it does not fit.
        """
        seen = signature(record)
        if seen != self._signature or self._layout is None:
            self._layout = Layout.of(record)
            text = self._layout.to_bytes()
            if self._layout.nbytes > self._room or len(text) > _DESCRIPTOR:
                raise SlotTooSmallError(
                    f"a batch needs {self._layout.nbytes} bytes and the mailbox holds "
                    f"{self._room}; raise exchange.slot_size or lower exchange.max_size"
                )
            self._segment.buffer[self._start : self._start + len(text)] = text
            self._header[2] = len(text)
            self._signature = seen
        self._layout.write(self._segment.buffer, record, self._start + _DESCRIPTOR)
        self._header[0] = self.number + 1 if number is None else number

    def get(self) -> Sample:
        """Copy the record out. It stays in place, not taken, until `take`."""
        self.read = self.number
        text = bytes(self._segment.buffer[self._start : self._start + int(self._header[2])])
        if text != self._text or self._layout is None:
            self._layout, self._text = Layout.from_bytes(text), text
        return self._layout.read(self._segment.buffer, self._start + _DESCRIPTOR)

    def take(self) -> None:
        """Mark the record that `get` returned as taken, not one that was put in meanwhile."""
        self._header[1] = self.read


class Post:
    """Two mailboxes in one segment, there and back, between an exchange and a predictor.

    A reply has the number of its request, so that one that comes late, from a predictor that was
    started again, is not taken for another's.
    """

    def __init__(self, segment: Segment) -> None:
        half = segment.size // 2
        self.requests = Mailbox(segment, 0, half)
        self.replies = Mailbox(segment, half, half)

    @property
    def answered(self) -> bool:
        """Whether the reply to the last request is there."""
        return self.replies.number == self.requests.number
