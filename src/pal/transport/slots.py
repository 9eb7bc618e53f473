"""The road between walkers and exchange: one slot of shared memory per walker and direction.

A walker writes its sample into its slot and counts `sent` up; the exchange answers in the same
place and sets `answered` to the count it answered. Whoever has `sent != answered` waits. There is
one writer per number, so no lock is needed, and a process that dies leaves nothing half-owned.

Nothing is declared: the first sample of a shape writes its layout into the slot, and both ends
keep views of it, so later ones of the same shape are one copy each way. The slots of all walkers
have the same stride, so the samples of all of them are gathered by one indexed copy per name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pal.errors import SlotTooSmallError
from pal.records import (
    BARE,
    Array,
    Batch,
    Feedback,
    Feedbacks,
    Refusal,
    Sample,
    signature,
    unnamed,
)
from pal.transport.feedback import FeedbackReader
from pal.transport.layout import Layout
from pal.transport.segment import Segment

_PAGE: Final = 4096
_DESCRIPTOR: Final = 2048
_ALIGN: Final = 64

_MANY: Final = 48
"""Walkers of a host from which on looking at all of them as arrays is faster than one by one."""

ABSENT, ALIVE, ENDED = 0, 1, 2
OK = 0

_HEADER = {
    "state": "i8",  # ABSENT, ALIVE or ENDED
    "sent": "i8",
    "answered": "i8",
    "sample_key": "i8",
    "feedback_key": "i8",
    "verdict": "i8",  # OK, or a Refusal: no feedback for this sample; start again
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
        self.quorum: NDArray[np.int64] = segment.array(
            "i8", (1,), len(_HEADER) * _up(walkers * 8, _ALIGN)
        )
        """So many walkers must wait before the exchange, when it sleeps, wants to be woken."""
        self.header: dict[str, Array] = {
            name: segment.array(dtype, (walkers,), index * _up(walkers * 8, _ALIGN))
            for index, (name, dtype) in enumerate(_HEADER.items())
        }

    @staticmethod
    def _header_size(walkers: int) -> int:
        return _up(len(_HEADER) * _up(walkers * 8, _ALIGN) + _ALIGN, _PAGE)

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

    def check_room(self, walker: int, layout: Layout, feedback: bool, copies: int) -> None:
        """Check that `copies` records of a layout, and its description, fit a slot.

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

    def describe(self, walker: int, layout: Layout, feedback: bool, copies: int) -> None:
        """Write a layout into a slot, after checking that `copies` such records fit.

        Raises:
            SlotTooSmallError: they do not.
        """
        self.check_room(walker, layout, feedback, copies)
        text = layout.to_bytes()
        where = self.offset(walker, feedback)
        self.segment.buffer[where : where + 4] = len(text).to_bytes(4, "little")
        self.segment.buffer[where + 4 : where + 4 + len(text)] = text
        self.header["feedback_key" if feedback else "sample_key"][walker] = layout.key

    def layout(self, walker: int, feedback: bool) -> Layout:
        """Read back the layout of what is in a slot."""
        where = self.offset(walker, feedback)
        size = int.from_bytes(self.segment.buffer[where : where + 4], "little")
        return Layout.from_bytes(bytes(self.segment.buffer[where + 4 : where + 4 + size]))

    def feedback_columns(self, layout: Layout) -> tuple[dict[str, Array], dict[str, Array]]:
        """View mean and deviation in the slots of all walkers, which lie one behind the other."""
        return (
            self.columns(layout, feedback=True),
            self.columns(layout, feedback=True, shift=_up(layout.nbytes, _ALIGN)),
        )

    @property
    def due(self) -> bool:
        """Whether as many walkers wait for an answer as the exchange asked to be woken for."""
        quorum = self.quorum[0]
        return bool(quorum <= 1 or self.waiting >= quorum)

    @property
    def waiting(self) -> int:
        """How many walkers wait for an answer."""
        return int(np.count_nonzero(self.header["sent"] != self.header["answered"]))

    def forget(self, walkers: slice | NDArray[np.intp], state: int = ABSENT) -> None:
        """Let the exchange go on without walkers whose host is gone, or that have ended."""
        states = self.header["state"]
        states[walkers] = np.where(states[walkers] == ENDED, ENDED, state)
        self.header["answered"][walkers] = self.header["sent"][walkers]

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


class HostSlots:
    """The slots of one host's walkers `first` to `first + count - 1`, from the host's side."""

    def __init__(self, slots: Slots, first: int, count: int) -> None:
        self._slots = slots
        self._first = first
        self._all = slice(first, first + count)
        self._lines = {name: column[self._all] for name, column in slots.header.items()}
        lines: dict[str, Any] = {name: line.data for name, line in self._lines.items()}
        self._state, self._sent, self._answered = lines["state"], lines["sent"], lines["answered"]
        self._key, self._verdict = lines["feedback_key"], lines["verdict"]
        self._version = lines["version"]
        self._scalars = [lines[name] for name in ("uncertainty", "trusted", "version")]
        self._living = list(range(count))
        self._writers: list[tuple[object, dict[str, Array]]] = [(None, {})] * count
        self._columns: dict[object, tuple[Layout, dict[str, Array]]] = {}
        self._readers: dict[int, FeedbackReader] = {}

    def send(self, row: int, sample: Sample) -> None:
        """Write the sample of one walker, by its row in this host, and count it as sent."""
        seen, views = self._writers[row]
        if type(sample) is np.ndarray:
            if seen != (sample.shape, sample.dtype):
                views = self._describe(row, sample, (sample.shape, sample.dtype))
            views[BARE][...] = sample
        else:
            named_as = signature(sample)
            if seen != named_as:
                views = self._describe(row, sample, named_as)
            for name, view in views.items():
                view[...] = sample[name]
        self._state[row] = ALIVE
        self._sent[row] += 1

    def _describe(self, row: int, sample: Sample, seen: object) -> dict[str, Array]:
        layout = Layout.of(sample)
        walker = self._first + row
        self._slots.describe(walker, layout, feedback=False, copies=1)
        start = self._slots.offset(walker, feedback=False) + _DESCRIPTOR
        views = layout.views(self._slots.segment.buffer, start)
        self._writers[row] = (seen, views)
        return views

    def send_all(self, rows: NDArray[np.intp], samples: Batch) -> None:
        """Write the samples of several walkers, one copy per name and shape."""
        if not samples.uniform:
            for indices, group in samples.groups():
                self.send_all(rows[indices], group)
            return
        columns, lines = samples.columns, self._lines
        key = tuple((name, c.dtype.str, c.shape[1:]) for name, c in columns.items())
        if key not in self._columns:
            layout = Layout.of(samples[0])
            self._slots.check_room(self._first + int(rows[0]), layout, feedback=False, copies=1)
            views = self._slots.columns(layout, feedback=False)
            self._columns[key] = layout, {name: view[self._all] for name, view in views.items()}
        layout, views = self._columns[key]
        for row in rows[lines["sample_key"][rows] != layout.key].tolist():
            self._slots.describe(self._first + row, layout, feedback=False, copies=1)
            self._writers[row] = (None, {})
        where = slice(None) if len(rows) == len(self._writers) else rows
        for name, column in columns.items():
            views[name][where] = column
        lines["state"][rows] = ALIVE
        lines["sent"][rows] += 1

    def end(self, row: int) -> None:
        """This walker sends nothing more."""
        self._state[row] = ENDED
        self._living.remove(row)

    @property
    def due(self) -> bool:
        """Whether the exchange should be woken now.

        A host of many looks whether enough walkers wait. For a host of one, looking costs more
        than a ring too many.
        """
        return len(self._living) <= 1 or self._slots.due

    def receive(
        self, among: Sequence[int] | None = None
    ) -> Sequence[tuple[Sequence[int], Sequence[Feedback] | Refusal]]:
        """Return (rows, feedback) for the walkers whose answers are there.

        A host moves its walkers at once, so those that have an answer and have sent nothing
        since are all that live. Who sends later names those that wait: `among`.

        Those whose feedback has one layout and version come together, as `Feedbacks` unless it
        is one walker alone. The feedback is their own copy; rejected samples have none.
        """
        if among is None and len(self._living) > _MANY:
            alike = self._sort_many()
        else:
            answered, sent = self._answered, self._sent
            living = self._living if among is None else among
            rows = [row for row in living if answered[row] == sent[row]]
            if len(rows) == 1 and self._verdict[row := rows[0]] == OK:
                reader = self._readers.get(self._key[row]) or self._reader(row)
                return ((rows, (reader.one(row, self._scalars),)),)
            alike = self._sort(rows)
        return [
            (
                some,
                self._reader(some[0]).several(some, self._lines)
                if kind[0] == OK
                else Refusal(kind[0]),
            )
            for kind, some in alike.items()
        ]

    def _sort(self, rows: list[int]) -> dict[tuple[int, int, int], list[int]]:
        """Sort answered walkers by verdict, layout and version."""
        verdict, key, version = self._verdict, self._key, self._version
        alike: dict[tuple[int, int, int], list[int]] = {}
        for row in rows:
            alike.setdefault((verdict[row], key[row], version[row]), []).append(row)
        return alike

    def _sort_many(self) -> dict[tuple[int, int, int], list[int]]:
        """Find and sort them as arrays: most often all are alike."""
        lines = self._lines
        rows = np.flatnonzero((lines["answered"] == lines["sent"]) & (lines["state"] == ALIVE))
        kinds = [lines[name][rows] for name in ("verdict", "feedback_key", "version")]
        if rows.size and all((kind == kind[0]).all() for kind in kinds):
            verdict, key, version = (int(kind[0]) for kind in kinds)
            return {(verdict, key, version): rows.tolist()}
        return self._sort(rows.tolist())

    def _reader(self, row: int) -> FeedbackReader:
        key = self._key[row]
        reader = self._readers.get(key)
        if reader is None:
            layout = self._slots.layout(self._first + row, feedback=True)
            columns = self._slots.feedback_columns(layout)
            reader = self._readers[key] = FeedbackReader(*columns, self._all)
        return reader


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

    def wake_for(self, quorum: int) -> bool:
        """Ask to be woken once so many walkers wait; tell whether they do already."""
        self._slots.quorum[0] = quorum
        return self._slots.waiting >= quorum

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

    def recall(self, who: NDArray[np.intp], stamps: Array) -> None:
        """Answer next what these walkers had sent by then, and not what was gathered last."""
        self._taken[who] = stamps

    def answer(self, who: NDArray[np.intp], feedback: Feedbacks) -> None:
        """Write the feedback into the slots of these walkers. The caller rings the hosts."""
        self._write(who, feedback.mean, feedback.deviation)
        header = self._header
        header["uncertainty"][who] = feedback.uncertainty
        header["trusted"][who] = feedback.trusted
        header["version"][who] = feedback.version
        header["verdict"][who] = OK
        header["answered"][who] = self._taken[who]

    def reject(self, who: NDArray[np.intp], why: Refusal) -> None:
        """Tell these walkers that their samples get no feedback. The caller rings the hosts."""
        self._header["verdict"][who] = why
        self._header["answered"][who] = self._taken[who]

    def _write(self, who: NDArray[np.intp], mean: Batch, deviation: Batch) -> None:
        if not mean.uniform:
            for indices, group in mean.groups():
                self._write(who[indices], group, deviation.take(indices))
            return
        columns, spread = mean.columns, deviation.columns
        key = tuple((name, c.dtype.str, c.shape[1:]) for name, c in columns.items())
        if key not in self._replies:
            layout = Layout.of(mean[0])
            self._slots.check_room(int(who[0]), layout, feedback=True, copies=2)
            self._replies[key] = (layout, *self._slots.feedback_columns(layout))
        layout, means, deviations = self._replies[key]
        other = self._header["feedback_key"][who] != layout.key
        if other.any():
            for walker in who[other]:
                self._slots.describe(int(walker), layout, feedback=True, copies=2)
        where = slice(None) if len(who) == self._slots.walkers else who
        for name, column in columns.items():
            means[name][where] = column
            deviations[name][where] = spread[name]
