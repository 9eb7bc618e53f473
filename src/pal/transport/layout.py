"""How a sample or label lies in memory, and as bytes in the ledger.

A `Layout` says where each named array of a record begins in one block of memory. The hot loop
writes records into shared memory with it and reads them there without a copy; the ledger keeps
them as bytes that describe themselves (`pack`, `unpack`). No pickle anywhere: what was written
by one Python is read by another, and a damaged record is an error, never code.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from mmap import mmap
from typing import Any, Final, TypeAlias

import numpy as np

from pal.errors import ContractError, LedgerError, ShapeError
from pal.records import BARE, Array, Sample, Signature, named, signature, unnamed

ALIGNMENT: Final = 64
"""Bytes; arrays begin at multiples of it, a cache line and the widest vector register."""

_KINDS: Final = "biufcSU"
_MAGIC: Final = b"PAL\x01"
_PREFIX: Final = struct.Struct("<4sI")
_CHECKSUM: Final = struct.Struct("<I")
_CACHED: Final = 1024


Buffer: TypeAlias = bytes | bytearray | memoryview | mmap | Array
"""A block of memory, e.g. `SharedMemory.buf`."""

Field: TypeAlias = tuple[str, "np.dtype[Any]", tuple[int, ...], int]
"""Name, dtype, shape and offset in bytes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the arrays of one kind of record lie in one block of `nbytes` bytes.

    Two records with the same names (in the same order), dtypes and shapes share one layout
    and its `key`, a number that is the same in every process and on every machine. Byte order
    is part of the dtype and is kept. Build layouts with `Layout.of`, which remembers them.
    """

    fields: tuple[Field, ...]
    nbytes: int
    description: bytes = field(repr=False)
    key: int = field(repr=False)

    @classmethod
    def of(cls, record: Sample) -> Layout:
        """Return the layout of a record.

        Raises:
            ContractError: a dtype has no fixed size, e.g. Python objects.
        """
        return _from_signature(signature(record))

    @classmethod
    def from_bytes(cls, description: bytes) -> Layout:
        """Read what `to_bytes` returned.

        Raises:
            LedgerError: the bytes are damaged.
        """
        return _from_description(bytes(description))

    def to_bytes(self) -> bytes:
        """Describe the layout as compact JSON: a list of [name, dtype, shape]."""
        return self.description

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays; a bare array has the name `BARE`."""
        return tuple(name for name, _, _, _ in self.fields)

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        """The dtype of each array."""
        return tuple(dtype for _, dtype, _, _ in self.fields)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each array."""
        return tuple(shape for _, _, shape, _ in self.fields)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each array begins, in bytes from the start of the block."""
        return tuple(offset for _, _, _, offset in self.fields)

    def write(self, buffer: Buffer, record: Sample, offset: int = 0) -> None:
        """Copy a record into the block that begins at `offset` of a writable buffer.

        Raises:
            ShapeError: the record has another layout.
        """
        arrays = named(record)
        if len(arrays) != len(self.fields):
            raise self._misfit(record)
        for (name, array), (known, dtype, shape, start) in zip(
            arrays.items(), self.fields, strict=True
        ):
            if name != known or array.shape != shape or array.dtype != dtype:
                raise self._misfit(record)
            np.ndarray(shape, dtype, buffer, offset + start)[...] = array

    def views(self, buffer: Buffer, offset: int = 0) -> dict[str, Array]:
        """Return the arrays in the block that begins at `offset`, without a copy.

        They change when the block is written again, and keep the buffer alive.
        """
        return {
            name: np.ndarray(shape, dtype, buffer, offset + start)
            for name, dtype, shape, start in self.fields
        }

    def read(self, buffer: Buffer, offset: int = 0) -> Sample:
        """Return the record in the block that begins at `offset`, as own writable arrays."""
        block = np.frombuffer(buffer, np.uint8, self.nbytes, offset).copy()
        return unnamed(self.views(block))

    def _misfit(self, record: Sample) -> ShapeError:
        return ShapeError(
            f"a record does not fit its layout: expected {self.description.decode()}, "
            f"got {signature(record)}; take Layout.of(record) for each record"
        )


def pack(record: Sample) -> bytes:
    """Return a record as bytes that describe themselves and carry a checksum.

    In order: magic and version (4 bytes), length of the description (4), the description, the
    arrays in C order one after the other, CRC-32 of all of it (4); integers little-endian.

    Raises:
        ContractError: a dtype has no fixed size, e.g. Python objects.
    """
    description = Layout.of(record).description
    parts = [_PREFIX.pack(_MAGIC, len(description)), description]
    parts += [array.tobytes() for array in named(record).values()]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    parts.append(_CHECKSUM.pack(checksum))
    return b"".join(parts)


def unpack(data: bytes) -> Sample:
    """Return the record that `pack` was given, as own writable arrays in C order.

    Raises:
        LedgerError: the bytes are cut short, damaged or from another version.
    """
    if len(data) < _PREFIX.size + _CHECKSUM.size or data[:3] != _MAGIC[:3]:
        raise LedgerError(
            f"expected a packed record, got {len(data)} bytes that begin with {data[:4]!r}"
        )
    if data[:4] != _MAGIC:
        raise LedgerError(
            f"a packed record has version {data[3]}, this PAL reads {_MAGIC[3]}; "
            "use the PAL that wrote it"
        )
    end = len(data) - _CHECKSUM.size
    if _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(memoryview(data)[:end]):
        raise LedgerError(
            f"a packed record of {len(data)} bytes is damaged: its checksum does not fit"
        )
    begin = _PREFIX.size
    start = begin + int(_PREFIX.unpack_from(data)[1])
    return _unpack_arrays(Layout.from_bytes(data[begin:start]), data, start, end)


def _unpack_arrays(layout: Layout, data: bytes, start: int, end: int) -> Sample:
    arrays: dict[str, Array] = {}
    for name, dtype, shape, _ in layout.fields:
        count = math.prod(shape)
        size = count * dtype.itemsize
        if start + size > end:
            break
        # A copy: arrays on top of bytes would be read-only and not aligned.
        arrays[name] = np.ndarray(shape, dtype, data, start).copy()
        start += size
    if len(arrays) != len(layout.fields) or start != end:
        raise LedgerError(
            f"a packed record has another length than its description {layout.description!r} says"
        )
    return unnamed(arrays)


@lru_cache(_CACHED)
def _from_signature(kind: Signature) -> Layout:
    names = [name for name, _ in kind]
    if BARE in names and len(names) > 1:
        raise ContractError(
            f"a sample or label has arrays named {names}; the empty name is kept for a bare "
            "array: give each array a name"
        )
    fields, end = [], 0
    for name, (code, shape) in kind:
        if code[1] not in _KINDS:
            raise ContractError(
                f"array '{name or 'bare'}' has dtype {np.dtype(code)} and shape {shape}; "
                "expected numbers, booleans or strings of fixed length: convert it, e.g. with "
                "np.asarray(values, dtype=float)"
            )
        dtype, start = np.dtype(code), -(-end // ALIGNMENT) * ALIGNMENT
        fields.append((name, dtype, shape, start))
        end = start + math.prod(shape) * dtype.itemsize
    description = json.dumps(
        [[name, code, shape] for name, (code, shape) in kind], separators=(",", ":")
    ).encode()
    key = int.from_bytes(blake2b(description, digest_size=8).digest(), "big") >> 1
    # Never zero, so that a record without any bytes still has a block to lie in.
    nbytes = max(1, -(-end // ALIGNMENT)) * ALIGNMENT
    return Layout(tuple(fields), nbytes, description, key)


@lru_cache(_CACHED)
def _from_description(description: bytes) -> Layout:
    try:
        kind = tuple(
            (str(name), (np.dtype(code).str, tuple(int(length) for length in shape)))
            for name, code, shape in json.loads(description)
        )
        if any(length < 0 for _, (_, shape) in kind for length in shape):
            raise ValueError("a length is negative")
        return _from_signature(kind)
    except (ValueError, TypeError, ContractError) as error:
        raise LedgerError(
            f"a layout cannot be read from {description[:80]!r}: {error}; "
            "expected a JSON list of [name, dtype, shape]"
        ) from error
