"""Messages as bytes: a pickle, and beside it the raw buffers of the arrays within.

Every road between processes uses this form. Arrays are not copied into the pickle (protocol 5),
and each arrives in a buffer of its own, so that it is writable and aligned.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np

_HEAD = struct.Struct("<QI")
_SIZE = struct.Struct("<Q")
_LARGE = 1 << 16


def pack(message: Any) -> list[memoryview]:
    """Return the parts of a message in the order they travel; arrays are not copied.

    Every part is flat, and none is empty.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    sizes = b"".join(_SIZE.pack(part.nbytes) for part in raw)
    head = memoryview(_HEAD.pack(len(body), len(raw)) + sizes)
    return [head, memoryview(body), *(part for part in raw if part.nbytes)]


def _room(size: int) -> memoryview:
    """Make a buffer; a large one is not cleared first, which would cost as much as filling it."""
    if size < _LARGE:
        return memoryview(bytearray(size))
    return np.empty(size, np.uint8).data


class Frame:
    """One message while it arrives: head, sizes, pickle, buffers, each read into its place."""

    def __init__(self) -> None:
        self._parts: list[memoryview] = [_room(_HEAD.size)]
        self._filled = 0

    def room(self) -> memoryview:
        """Where the next bytes belong. It is never empty while the message is incomplete."""
        return self._parts[-1][self._filled :]

    def fill(self, received: int) -> bool:
        """Note that bytes have arrived; tell whether the message is complete."""
        self._filled += received
        while self._filled == self._parts[-1].nbytes:
            if not self._next():
                return True
            self._filled = 0
        return False

    def _next(self) -> bool:
        """Make room for the next part that has any bytes; tell whether there is one."""
        size, buffers = _HEAD.unpack(self._parts[0])
        sizes = len(self._parts) > 1
        if not sizes:
            self._parts.append(_room(buffers * _SIZE.size))
            if buffers:
                return True
        if len(self._parts) == 2:
            self._parts.append(_room(size))
            return True
        while len(self._parts) < 3 + buffers:
            (length,) = _SIZE.unpack_from(self._parts[1], (len(self._parts) - 3) * _SIZE.size)
            self._parts.append(_room(length))
            if length:
                return True
        return False

    def message(self) -> Any:
        """Return the message, once it is complete."""
        return pickle.loads(self._parts[2], buffers=self._parts[3:])
