"""The thread that writes the ledger: whatever has gathered while it wrote goes in one commit.

A commit costs a write to the disk and a wait for it, some milliseconds, whether it holds one
label or a thousand. Nobody waits in line for it: entries gather, and the next commit takes all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from pal.errors import LedgerError
from pal.ledger.entries import Commit, Entry, NewLabel
from pal.ledger.ledger import Ledger
from pal.ledger.rows import Prepared, prepare

CAPACITY: Final = 256 << 20
"""Bytes of packed arrays that may wait for the disk."""

_OVERHEAD: Final = 1 << 10
"""Bytes counted for an entry besides its arrays."""


class LedgerWriter:
    """Writes entries in the order they were put, and tells when they are on disk.

    `on_durable` gets the entries of each commit, in their order, once they are safe. `on_error`
    gets every problem. Both are called on the writer's thread and must not call the writer.

    Entries leave the queue only when they are on disk. When the disk refuses, the writer tells
    `on_error`, keeps everything and holds until `retry`. From here on the ledger belongs to this
    thread; others read through `Ledger.open_readonly`.
    """

    def __init__(
        self,
        ledger: Ledger,
        on_durable: Callable[[list[Entry]], None],
        on_error: Callable[[LedgerError], None],
        capacity: int = CAPACITY,
    ) -> None:
        self._ledger = ledger
        self._on_durable = on_durable
        self._on_error = on_error
        self._capacity = capacity
        self._waiting: list[Prepared] = []
        self._size = 0
        self._put = 0
        self._done = 0
        self._held: LedgerError | None = None
        self._closing = False
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    @property
    def held(self) -> LedgerError | None:
        """Why nothing is written at present; None while all is well."""
        return self._held

    def put(self, entry: Entry) -> None:
        """Hand over an entry; its arrays may change afterwards.

        Waits while more than `capacity` bytes are waiting for the disk.

        Raises:
            ContractError: an array cannot be kept, e.g. Python objects.
            LedgerError: the queue is full and the disk refuses, or the writer is closed.
        """
        prepared = prepare(entry)
        with self._changed:
            self._changed.wait_for(lambda: self._size < self._capacity or self._stuck)
            if self._closing or self._ended or self._size >= self._capacity:
                raise self._why("take an entry")
            self._waiting.append(prepared)
            self._size += len(prepared.data) + _OVERHEAD
            self._put += 1
            self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was put so far is on disk and `on_durable` has been told.

        Raises:
            LedgerError: the disk refuses, or `timeout` seconds were not enough.
        """
        with self._changed:
            target = self._put
            self._changed.wait_for(
                lambda: self._done >= target or self._ended or self._held is not None, timeout
            )
            if self._done >= target:
                return
            if self._ended or self._held is not None:
                raise self._why("flush")
            raise LedgerError(
                f"{self._ledger.file}: {target - self._done} entries were not on disk after "
                f"{timeout} s; the disk is slow or hangs"
            )

    def retry(self) -> None:
        """Write on after the disk had refused. Does nothing while all is well."""
        with self._changed:
            self._held = None
            self._changed.notify_all()

    def close(self) -> None:
        """Write what is waiting, also where the disk had refused, and end the thread.

        The ledger stays open and is the caller's again.

        Raises:
            LedgerError: entries could not be written; it says how many.
        """
        with self._changed:
            self._closing = True
            if not self._ended:
                self._held = None
            self._changed.notify_all()
        self._thread.join()
        if self._waiting:
            raise self._why("close")

    @property
    def _stuck(self) -> bool:
        return self._closing or self._ended or self._held is not None

    def _why(self, action: str) -> LedgerError:
        error = self._held or LedgerError("it is closed")
        kind = type(error)
        return kind(
            f"the writer of {self._ledger.file} cannot {action}, {len(self._waiting)} entries are "
            f"not on disk: {error}"
        )

    def _run(self) -> None:
        try:
            while batch := self._gathered():
                self._write(batch)
        except BaseException as error:
            # A fault of ours or of a callback: whoever waits must hear of it.
            self._held = LedgerError(f"it broke: {type(error).__name__}: {error}")
            raise
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _gathered(self) -> list[Prepared]:
        """Wait for entries; an empty list means the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or (bool(self._waiting) and self._held is None)
            )
            return [] if self._held else list(self._waiting)

    def _write(self, batch: list[Prepared]) -> None:
        try:
            commit = self._ledger.commit(batch)
        except LedgerError as error:
            with self._changed:
                self._held = error
                self._changed.notify_all()
            self._on_error(error)
            return
        self._tell(batch, commit)
        with self._changed:
            del self._waiting[: len(batch)]
            self._size -= sum(len(data) + _OVERHEAD for _, data in batch)
            self._done += len(batch)
            self._changed.notify_all()

    def _tell(self, batch: list[Prepared], commit: Commit) -> None:
        self._on_durable(
            [
                entry
                for entry, _ in batch
                if not (isinstance(entry, NewLabel) and entry.sample in commit.unknown)
            ]
        )
        if commit.unknown:
            self._on_error(
                LedgerError(
                    f"{self._ledger.file}: labels or moves came for samples it does not have: "
                    f"{list(commit.unknown[:10])}; a sample must be put before them"
                )
            )
