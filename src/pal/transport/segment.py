"""Shared memory without a name: nothing of it is left when its last process dies."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

import numpy as np

from pal.records import Array


def nameless() -> int:
    """Return the descriptor of a new piece of memory, of no size yet."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pal")
    with tempfile.TemporaryFile() as file:  # pragma: no cover - macOS
        return os.dup(file.fileno())


class Segment:
    """A piece of memory that processes share by inheriting its file descriptor.

    Pages cost memory only once they are touched, so generous sizes are free. On Linux it is a
    memfd, which no limit on /dev/shm touches; elsewhere a temporary file without a name.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.buffer = memoryview(mmap.mmap(fd, size))

    @classmethod
    def create(cls, size: int) -> Segment:
        """Make a segment of `size` bytes, all zero."""
        fd = nameless()
        os.ftruncate(fd, size)
        return cls(fd, size)

    def array(self, dtype: Any, shape: tuple[int, ...], offset: int) -> Array:
        """View a part of the segment as an array."""
        return np.ndarray(shape, dtype, self.buffer, offset)

    def close(self) -> None:
        """Give the descriptor back. The memory goes when the last array that views it goes."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
