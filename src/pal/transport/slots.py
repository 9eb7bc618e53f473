"""The road between walkers and exchange: one slot of shared memory per walker and direction.

A walker writes its sample into its slot and counts `sent` up; the exchange answers in the same
place and sets `answered` to the count it answered. Whoever has `sent != answered` waits. There is
one writer per number, so no lock is needed, and a process that dies leaves nothing half-owned.

Nothing is declared: the first sample of a shape writes its layout into the slot, and both ends
keep views of it, so later ones of the same shape are one copy each way. The slots of all walkers
have the same stride, so the samples of all of them are gathered by one indexed copy per name.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pal.errors import SlotTooSmallError
from pal.records import Array, Batch, Feedback, Sample, signature, unnamed
from pal.transport.layout import Layout
from pal.transport.segment import Segment

_PAGE: Final = 4096
_DESCRIPTOR: Final = 2048
_ALIGN: Final = 64

ABSENT, ALIVE, ENDED = 0, 1, 2
OK, REJECTED = 0, 1

_HEADER = {
    "state": "i8",  # ABSENT, ALIVE or ENDED
    "sent": "i8",
    "answered": "i8",
    "sample_key": "i8",
    "feedback_key": "i8",
    "verdict": "i8",  # OK, or REJECTED: no prediction for this sample; start again
    "version": "i8",
    "trusted": "i8",
    "uncertainty": "f8",
}


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


class Slots:
    """All slots, as every process that shares the segment sees them."""

    def __init__(self, segment: Segment, walkers: int, slot_size: int) -> None:
        self.segment = segment
        self.walkers = walkers
        self._room = _up(slot_size, _PAGE)
        self._start = self._header_size(walkers)
        self.header: dict[str, Array] = {
            name: segment.array(dtype, (walkers,), index * _up(walkers * 8, _ALIGN))
            for index, (name, dtype) in enumerate(_HEADER.items())
        }

    @staticmethod
    def _header_size(walkers: int) -> int:
        return _up(len(_HEADER) * _up(walkers * 8, _ALIGN), _PAGE)

    @classmethod
    def create(cls, walkers: int, slot_size: int) -> Slots:
        """Make slots for so many walkers, with `slot_size` bytes for a sample and its feedback."""
        size = cls._header_size(walkers) + walkers * 2 * _up(slot_size, _PAGE)
        return cls(Segment.create(size), walkers, slot_size)

    @property
    def stride(self) -> int:
        """Bytes from one walker's slot to the next one's."""
        return 2 * self._room

    def offset(self, walker: int, feedback: bool) -> int:
        """Where a slot begins: its descriptor, followed by its payload."""
        return self._start + walker * self.stride + (self._room if feedback else 0)

    def describe(self, walker: int, layout: Layout, feedback: bool, copies: int) -> None:
        """Write a layout into a slot, after checking that `copies` such records fit.

        Raises:
            SlotTooSmallError: they do not.
        """
        text = layout.to_bytes()
        needed = _DESCRIPTOR + copies * _up(layout.nbytes, _ALIGN)
        if len(text) + 4 > _DESCRIPTOR or needed > self._room:
            what = "feedback for" if feedback else "sample of"
            raise SlotTooSmallError(
                f"the {what} walker {walker} needs {needed} bytes, its slot holds {self._room}; "
                f'set exchange.slot_size = "{_up(needed, 1 << 20) >> 20} MiB" or more'
                if len(text) + 4 <= _DESCRIPTOR
                else f"the {what} walker {walker} has too many named arrays to describe in "
                f"{_DESCRIPTOR} bytes ({len(text)} needed); join some of them"
            )
        where = self.offset(walker, feedback)
        self.segment.buffer[where : where + 4] = len(text).to_bytes(4, "little")
        self.segment.buffer[where + 4 : where + 4 + len(text)] = text
        self.header["feedback_key" if feedback else "sample_key"][walker] = layout.key

    def layout(self, walker: int, feedback: bool) -> Layout:
        """Read back the layout of what is in a slot."""
        where = self.offset(walker, feedback)
        size = int.from_bytes(self.segment.buffer[where : where + 4], "little")
        return Layout.from_bytes(bytes(self.segment.buffer[where + 4 : where + 4 + size]))

    def columns(self, layout: Layout, feedback: bool, shift: int = 0) -> dict[str, Array]:
        """View the same name in the slots of all walkers as one strided array (walkers, ...)."""
        start = self.offset(0, feedback) + _DESCRIPTOR + shift
        first = layout.views(self.segment.buffer, start)
        return {
            name: np.ndarray(
                (self.walkers, *view.shape),
                view.dtype,
                self.segment.buffer,
                start + offset,
                (self.stride, *view.strides),
            )
            for (name, view), offset in zip(first.items(), layout.offsets, strict=True)
        }


class WalkerSlot:
    """One walker's slot, from the walker's side."""

    __slots__ = (
        "_answered",
        "_base",
        "_count",
        "_feedback_key",
        "_feedback_parts",
        "_feedback_raw",
        "_header",
        "_signature",
        "_slots",
        "_views",
        "walker",
    )

    def __init__(self, slots: Slots, walker: int) -> None:
        self.walker = walker
        self._slots = slots
        self._header = slots.header
        self._answered = slots.header["answered"]
        self._signature: object = None
        self._views: dict[str, Array] = {}
        self._feedback_key = 0
        self._feedback_raw: Array = np.empty(0, np.uint8)
        self._feedback_parts: list[tuple[str, np.dtype[np.generic], tuple[int, ...], int]] = []
        self._base = 0
        self._count = int(slots.header["sent"][walker])

    def send(self, sample: Sample) -> None:
        """Write a sample and count it as sent. The caller rings the exchange's doorbell."""
        seen = signature(sample)
        if seen != self._signature:
            layout = Layout.of(sample)
            self._slots.describe(self.walker, layout, feedback=False, copies=1)
            start = self._slots.offset(self.walker, feedback=False) + _DESCRIPTOR
            self._views = layout.views(self._slots.segment.buffer, start)
            self._signature = seen
        if isinstance(sample, np.ndarray):
            for view in self._views.values():
                view[...] = sample
        else:
            for name, view in self._views.items():
                view[...] = sample[name]
        header = self._header
        self._count += 1
        header["sent"][self.walker] = self._count
        header["state"][self.walker] = ALIVE

    @property
    def answered(self) -> bool:
        """Whether the answer to the last sample is there."""
        return bool(self._answered[self.walker] == self._count)

    def receive(self) -> Feedback | None:
        """Return the walker's own copy of the feedback, or None where the sample was rejected."""
        header, walker = self._header, self.walker
        if header["verdict"][walker] != OK:
            return None
        key = int(header["feedback_key"][walker])
        if key != self._feedback_key:
            self._learn(key)
        raw = self._feedback_raw.copy()
        mean, deviation = (
            {
                name: np.ndarray(shape, dtype, raw, base + offset)
                for name, dtype, shape, offset in self._feedback_parts
            }
            for base in (0, self._base)
        )
        return Feedback(
            unnamed(mean),
            unnamed(deviation),
            float(header["uncertainty"][walker]),
            bool(header["trusted"][walker]),
            int(header["version"][walker]),
        )

    def _learn(self, key: int) -> None:
        layout = self._slots.layout(self.walker, feedback=True)
        self._base = _up(layout.nbytes, _ALIGN)
        start = self._slots.offset(self.walker, feedback=True) + _DESCRIPTOR
        self._feedback_raw = self._slots.segment.array("u1", (self._base + layout.nbytes,), start)
        self._feedback_parts = [
            (name, view.dtype, view.shape, offset)
            for (name, view), offset in zip(
                layout.views(self._slots.segment.buffer, start).items(),
                layout.offsets,
                strict=True,
            )
        ]
        self._feedback_key = key

    def end(self) -> None:
        """This walker sends nothing more."""
        self._header["state"][self.walker] = ENDED


class ExchangeSlots:
    """All slots, from the exchange's side."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._header = slots.header
        self._columns: dict[int, dict[str, Array]] = {}
        self._replies: dict[object, tuple[Layout, dict[str, Array], dict[str, Array]]] = {}
        self._taken: NDArray[np.int64] = np.zeros(slots.walkers, np.int64)

    def ready(self) -> NDArray[np.intp]:
        """Indices of the walkers that wait for an answer, ascending."""
        header = self._header
        waiting = header["sent"] != header["answered"]
        return np.flatnonzero(waiting)

    def living(self) -> int:
        """How many walkers are alive."""
        return int(np.count_nonzero(self._header["state"] == ALIVE))

    def gather(self, who: NDArray[np.intp]) -> Batch:
        """Copy the samples of these walkers out of their slots."""
        header = self._header
        np.copyto(self._taken, header["sent"])
        keys = header["sample_key"][who]
        if (keys == keys[0]).all():
            columns = self._sample_columns(int(keys[0]), int(who[0]))
            whole = len(who) == self._slots.walkers
            return Batch.stacked(
                {name: view.copy() if whole else view[who] for name, view in columns.items()}
            )
        return Batch(
            [
                unnamed(
                    {
                        name: view[walker].copy()
                        for name, view in self._sample_columns(int(key), int(walker)).items()
                    }
                )
                for walker, key in zip(who, keys, strict=True)
            ]
        )

    def _sample_columns(self, key: int, walker: int) -> dict[str, Array]:
        if key not in self._columns:
            layout = self._slots.layout(walker, feedback=False)
            self._columns[key] = self._slots.columns(layout, feedback=False)
        return self._columns[key]

    def write(self, who: NDArray[np.intp], mean: Batch, deviation: Batch) -> None:
        """Write the feedback's arrays into the slots of these walkers."""
        if not mean.uniform:
            for indices, group in mean.groups():
                self.write(who[indices], group, deviation.take(indices))
            return
        columns, spread = mean.columns, deviation.columns
        key = tuple((name, c.dtype.str, c.shape[1:]) for name, c in columns.items())
        if key not in self._replies:
            layout = Layout.of(mean[0])
            shift = _up(layout.nbytes, _ALIGN)
            self._replies[key] = (
                layout,
                self._slots.columns(layout, feedback=True),
                self._slots.columns(layout, feedback=True, shift=shift),
            )
        layout, means, deviations = self._replies[key]
        other = self._header["feedback_key"][who] != layout.key
        if other.any():
            for walker in who[other]:
                self._slots.describe(int(walker), layout, feedback=True, copies=2)
        where = slice(None) if len(who) == self._slots.walkers else who
        for name, column in columns.items():
            means[name][where] = column
            deviations[name][where] = spread[name]

    def answer(
        self,
        who: NDArray[np.intp],
        uncertainty: Array,
        trusted: Array,
        version: int,
        rejected: NDArray[np.bool_] | None = None,
    ) -> None:
        """Write the scalars and count the samples as answered. The caller rings the hosts."""
        header = self._header
        header["uncertainty"][who] = uncertainty
        header["trusted"][who] = trusted
        header["version"][who] = version
        header["verdict"][who] = OK if rejected is None else rejected
        header["answered"][who] = self._taken[who]
