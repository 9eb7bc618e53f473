"""The ledger as a session uses it: a thread writes, and tells what is on the disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pal.controller.events import Candidate
from pal.errors import LedgerDiskError, LedgerError
from pal.ledger import entries
from pal.ledger.backup import BackedUp, back_up
from pal.ledger.entries import SampleRow
from pal.ledger.ledger import SAMPLE_COLUMNS, Ledger, sample_row
from pal.ledger.restore import Restored, restore
from pal.ledger.writer import LedgerWriter
from pal.monitor.metrics import Snapshot
from pal.records import LabelledSample, Sample
from pal.runtime.messages import LabelDone
from pal.transport.doorbell import create_doorbell

_PATIENCE = 30.0
"""Seconds that the disk may take for all that waits."""
RETRY = 2.0
"""Seconds after which a disk that has refused is asked again."""
COPY_EVERY = 5.0
"""Seconds between two renewals of the ledger's copy, if something was written meanwhile."""
_COPY_SHARE = 0.02
"""The share of a core's time that renewals may take, at most."""


class Books:
    """Everything a session writes down and reads back.

    `past` is where the campaign stood, `sessions` are those before this one. `error` says why
    nothing can be written any more. `fd` becomes readable when labels are on the disk, or when
    the disk refuses.

    A disk that is full for a while does not end a campaign: what is to be written waits, and the
    disk is asked again every few seconds, for `patience` seconds.
    """

    def __init__(self, directory: Path, patience: float, copy_every: float) -> None:
        self._directory = directory
        self._patience = patience
        self._copy_every = min(copy_every, COPY_EVERY)
        self._ledger = Ledger.open(directory)
        try:
            self.past: Restored = restore(self._ledger)
            last = self._ledger.last_metric()
            self.last = Snapshot(**last.values) if last else Snapshot(time=0.0)
            self.sessions = self._ledger.sessions()
            states = self._ledger.states()
            self._reader = Ledger.open_readonly(directory)
        except BaseException:
            self._ledger.close()
            raise
        self.initial = sum(row.candidate.walker < 0 for row in states)
        self.error: LedgerError | None = None
        self._waiting: dict[int, Sample] = {}
        self._durable: deque[tuple[int, ...]] = deque()
        self._bell = create_doorbell()
        self._refused: LedgerError | None = None
        self._refused_at = 0.0
        self._retry_at = 0.0
        self._copying: Future[BackedUp] | None = None
        self._copy_at = 0.0
        self._fresh = False
        self._writer = LedgerWriter(self._ledger, self._on_durable, self._on_error)

    @property
    def fd(self) -> int:
        """Becomes readable when `durable` or `error` has news."""
        return self._bell.fds[0]

    def record(self, entry: entries.Entry) -> None:
        """Write an entry, soon."""
        self._writer.put(entry)

    def candidate(self, time: float, candidate: Candidate, sample: Sample) -> None:
        """Write a candidate down, and keep its arrays at hand while it waits."""
        self._waiting[candidate.sample] = sample
        self.record(entries.NewSample(time, candidate, sample))

    def label(self, time: float, answer: LabelDone, oracle: int) -> None:
        """Write a label."""
        where, seconds = answer.host, answer.seconds
        self.record(entries.NewLabel(time, answer.identity, answer.label, oracle, where, seconds))

    def sample(self, identity: int) -> Sample:
        """Return a candidate's arrays."""
        if identity not in self._waiting:
            self._waiting[identity] = self._reader.sample(identity)
        return self._waiting[identity]

    def forget(self, identity: int) -> None:
        """Keep a candidate's arrays on the disk only."""
        self._waiting.pop(identity, None)

    def labelled(self, identities: Sequence[int]) -> list[LabelledSample]:
        """Read labelled samples back."""
        return list(self._reader.labelled(identities)) if identities else []

    def catch_up(self) -> None:
        """Wait until all that was written is on the disk, so that what is read is all.

        Raises:
            LedgerError: the disk refuses.
        """
        self._writer.flush(_PATIENCE)

    def row(self, identity: int) -> SampleRow | None:
        """Return what the disk has of a sample besides its arrays."""
        found = self._reader.select(f"SELECT {SAMPLE_COLUMNS} FROM samples WHERE id = ?", identity)
        return sample_row(found[0]) if found else None

    def newest_label(self) -> LabelledSample | None:
        """Return the labelled sample that came last."""
        found = self._reader.select("SELECT sample FROM labels ORDER BY seq DESC LIMIT 1")
        return self.labelled([found[0][0]])[0] if found else None

    def stored(self, identity: int) -> Sample:
        """Return a sample's arrays from the disk."""
        return self._reader.sample(identity)

    def durable(self) -> list[tuple[int, ...]]:
        """Return the samples whose labels have reached the disk since the last call."""
        self._bell.wait()
        return [self._durable.popleft() for _ in range(len(self._durable))]

    def _on_durable(self, committed: list[entries.Entry]) -> None:
        """Called by the writer's thread: what it has just put on the disk."""
        self._refused, self._fresh = None, True
        labels = tuple(e.sample for e in committed if isinstance(e, entries.NewLabel))
        if labels:
            self._durable.append(labels)
            self._bell.ring()

    def _on_error(self, error: LedgerError) -> None:
        """Called by the writer's thread."""
        if isinstance(error, LedgerDiskError) and self._patience:
            self._refused = error
        else:
            self.error = error
        self._bell.ring()

    def look(self) -> list[str]:
        """Once a second: ask a disk again that refused, renew the copy; say what has changed."""
        now = time.monotonic()
        said = [self._ask_again(now)]
        if now >= self._copy_at and self._fresh and (not self._copying or self._copying.done()):
            said.append(self._what_was_wrong_with_the_copy())
            self._begin_copy()
        return [text for text in said if text]

    def _ask_again(self, now: float) -> str:
        refused = self._refused
        if refused is None:
            over, self._refused_at = self._refused_at, 0.0
            return "the disk has taken all that waited for it" if over else ""
        if now >= self._retry_at:
            self._retry_at = now + RETRY
            self._writer.retry()
        if not self._refused_at:
            self._refused_at = now
            return (
                f"{refused}. What is to be written waits in memory, for up to "
                f"{self._patience:g} s (stop.disk); walkers, oracles and models go on"
            )
        if now > self._refused_at + self._patience:
            self.error = refused
        return ""

    def _begin_copy(self) -> None:
        self._fresh = False
        thread = ThreadPoolExecutor(1, "ledger-copy")
        self._copying = thread.submit(self._copy)
        thread.shutdown(wait=False)

    def _copy(self) -> BackedUp:
        try:
            return back_up(self._directory)
        finally:
            # All that this thread has ever computed; waits for the disk hold nobody up.
            pause = max(self._copy_every, time.thread_time() / _COPY_SHARE)
            self._copy_at = time.monotonic() + pause

    def _what_was_wrong_with_the_copy(self) -> str:
        copying, self._copying = self._copying, None
        if copying is None:
            return ""
        try:
            damaged = copying.result().damaged
        except LedgerError as error:
            return f"the copy of the ledger could not be renewed: {error}"
        if not damaged:
            return ""
        return (
            f"the ledger is damaged: {len(damaged)} new rows cannot be read, e.g. {damaged[0]}; "
            f"end the campaign, then `pal recover {self._directory}`"
        )

    def close(self) -> None:
        """Write all that waits.

        Raises:
            LedgerError: the disk refuses; what was told durable is there.
        """
        try:
            self._writer.close()
            if self.error is None:
                self._what_was_wrong_with_the_copy()
                self._begin_copy()
        finally:
            self._what_was_wrong_with_the_copy()
            self._reader.close()
            self._ledger.close()
            self._bell.close()
