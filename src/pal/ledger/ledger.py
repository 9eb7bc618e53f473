"""The durable record of a campaign: one SQLite file, one writer, any number of readers."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.errors import Failure, LedgerDamagedError, LedgerError
from pal.ledger import rows, schema
from pal.ledger.directory import LEDGER
from pal.ledger.entries import (
    Commit,
    Entry,
    FailureEntry,
    LabelRow,
    Metric,
    Note,
    SampleRow,
    Session,
    StoryLine,
)
from pal.ledger.schema import connect, connect_readonly, explained
from pal.records import Label, LabelledSample, Sample
from pal.transport.layout import unpack

_CHUNK = 256
"""Rows fetched at once: a reader holds no lock longer than one such fetch takes."""

_LOOK = 2.0
"""Seconds for which a ledger is searched for damage before it is written again."""

SAMPLE_COLUMNS = "id, walker, version, uncertainty, state, attempts, created"


def sample_row(row: Sequence[Any]) -> SampleRow:
    """Return what `SAMPLE_COLUMNS` hold."""
    number, walker, version, uncertainty, state, attempts, created = row
    # SQLite keeps NaN as NULL.
    doubt = math.nan if uncertainty is None else uncertainty
    return SampleRow(Candidate(number, walker, version, doubt), State(state), attempts, created)


class Ledger:
    """A campaign's samples, labels, moves, failures, metrics and sessions.

    Open it with `Ledger.open` (the one writer) or `Ledger.open_readonly` (status, export,
    another thread of the writer's process). One thread uses it at a time.
    """

    def __init__(self, file: Path, db: sqlite3.Connection, *, writable: bool) -> None:
        self.file = file
        self.writable = writable
        self._db = db

    @classmethod
    def open(cls, directory: Path) -> Ledger:
        """Open the ledger in a run directory for writing; make it where there is none.

        Only the process that has claimed the `RunDirectory` may do so.

        Raises:
            LedgerError: it is damaged, as far as seconds tell; of another format; or the disk
                refuses.
        """
        ledger = cls(directory / LEDGER, connect(directory / LEDGER), writable=True)
        try:
            ledger.check(_LOOK)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open_readonly(cls, directory: Path) -> Ledger:
        """Open it for reading, while a writer runs, after it ended or after it was killed.

        Raises:
            LedgerError: there is none, it is damaged or of another format.
        """
        return cls(directory / LEDGER, connect_readonly(directory / LEDGER), writable=False)

    def close(self) -> None:
        """Close the file. What was committed is on disk already."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self, entries: Sequence[Entry | rows.Prepared]) -> Commit:
        """Write entries in one transaction: all are on disk when this returns, or none.

        Raises:
            LedgerDiskError: the disk refused; nothing was written, try again later.
            ContractError: an array cannot be kept, e.g. Python objects.
            TypeError: a metric is nothing JSON can hold.
        """
        if not self.writable:
            raise LedgerError(f"{self.file} was opened for reading; open it with Ledger.open")
        prepared = [
            entry if isinstance(entry, rows.Prepared) else rows.prepare(entry) for entry in entries
        ]
        tally = rows.Tally()
        with explained(self.file):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for item in prepared:
                    rows.write(self._db, item, tally)
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        return tally.done()

    def sample(self, number: int) -> Sample:
        """Return the arrays of a sample, as own copies."""
        return self._arrays("SELECT data FROM inputs WHERE sample = ?", number, "sample")

    def label(self, number: int) -> Label:
        """Return the label of a sample, as own copies."""
        return self._arrays("SELECT data FROM labels WHERE sample = ?", number, "label of sample")

    def labelled(self, samples: Sequence[int] | None = None) -> Iterator[LabelledSample]:
        """Yield labelled samples: these, in this order, or all in the order of their commits.

        Raises:
            LedgerError: one of `samples` has no label, or is damaged.
        """
        numbers = self.labelled_ids() if samples is None else [int(item) for item in samples]
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            found = self._all(
                "SELECT sample, inputs.data, labels.data FROM labels JOIN inputs USING (sample)"
                f" WHERE sample IN ({marks})",
                *chunk,
            )
            data = {number: (sample, label) for number, sample, label in found}
            for number in chunk:
                if number not in data:
                    raise self._missing("label of sample", number)
                sample, label = data[number]
                yield LabelledSample(
                    number, self._unpack(sample, number), self._unpack(label, number)
                )

    def labelled_ids(self) -> list[int]:
        """Return the numbers of all labelled samples in the order of their commits."""
        return [number for (number,) in self._all("SELECT sample FROM labels ORDER BY seq")]

    def states(self, *states: State) -> list[SampleRow]:
        """Return the candidates in one of these states (none given: all), by their number."""
        wanted = states or tuple(State)
        found = self._all(
            f"SELECT {SAMPLE_COLUMNS} FROM samples"
            f" WHERE state IN ({','.join('?' * len(wanted))}) ORDER BY id",
            *(state.value for state in wanted),
        )
        return [sample_row(row) for row in found]

    def select(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query of another module of the ledger; it must only read."""
        return self._all(query, *values)

    def counts(self) -> dict[State, int]:
        """Return how many candidates are in each state."""
        found = dict(self._all("SELECT state, count(*) FROM samples GROUP BY state"))
        return {state: int(found.get(state.value, 0)) for state in State}

    def story(self, number: int) -> list[StoryLine]:
        """Return all that happened to a sample, in the order of time."""
        lines = [
            StoryLine(
                created,
                "proposed",
                f"by walker {walker}, weights version {version}, uncertainty {uncertainty}",
            )
            for walker, version, uncertainty, created in self._all(
                "SELECT walker, version, uncertainty, created FROM samples WHERE id = ?", number
            )
        ]
        if not lines:
            raise self._missing("sample", number)
        lines += [
            StoryLine(*line)
            for line in self._all(
                "SELECT time, state, detail FROM history WHERE sample = ? ORDER BY seq", number
            )
        ]
        lines += [
            StoryLine(time, "label on disk", f"from oracle {oracle} on {host} in {seconds:.3g} s")
            for time, oracle, host, seconds in self._all(
                "SELECT time, oracle, host, seconds FROM labels WHERE sample = ?", number
            )
        ]
        lines += [
            StoryLine(entry.time, "failure", str(entry.failure)) for entry in self.failures(number)
        ]
        return sorted(lines, key=lambda line: line.time)

    def label_rows(self) -> list[LabelRow]:
        """Return who made each label and how long it took, in the order of the commits."""
        found = self._all("SELECT seq, sample, oracle, host, seconds, time FROM labels")
        return [LabelRow(*row) for row in found]

    def failures(self, sample: int | None = None) -> list[FailureEntry]:
        """Return the failures of a sample, or all, in the order they were written."""
        found = self._all(
            "SELECT time, role, idx, kind, message, host, sample, traceback FROM failures"
            " WHERE ? IS NULL OR sample = ? ORDER BY seq",
            sample,
            sample,
        )
        return [FailureEntry(time, Failure(*row)) for time, *row in found]

    def metrics(self) -> list[Metric]:
        """Return all metrics in the order they were written."""
        found = self._all("SELECT time, json FROM metrics ORDER BY seq")
        return [Metric(time, json.loads(text)) for time, text in found]

    def last_metric(self) -> Metric | None:
        """Return the newest metric."""
        found = self._all("SELECT time, json FROM metrics ORDER BY seq DESC LIMIT 1")
        return Metric(found[0][0], json.loads(found[0][1])) if found else None

    def notes(self, kind: str | None = None) -> list[Note]:
        """Return the notes of a kind, or all, in the order they were written."""
        found = self._all("SELECT time, kind, text FROM notes ORDER BY seq")
        return [Note(*row) for row in found if kind in (None, row[1])]

    def sessions(self) -> list[Session]:
        """Return every `pal run` on this directory."""
        found = self._all(
            'SELECT number, start, "end", began, host, pid, version, settings, reason'
            " FROM sessions ORDER BY number"
        )
        return [Session(*row) for row in found]

    def granted(self) -> int:
        """Return the last `GrantedTotal`; 0 before the first."""
        found = self._all("SELECT value FROM meta WHERE key = 'granted'")
        return int(found[0][0]) if found else 0

    def totals(self) -> tuple[int, int]:
        """Return the first unused sample number, and how many samples walkers proposed."""
        query = "SELECT coalesce(max(id) + 1, 0), coalesce(sum(walker >= 0), 0) FROM samples"
        return self._all(query)[0][:2]

    def last_time(self) -> float:
        """Return the newest time on the campaign's clock that anything was written at."""
        tables = ("metrics", "history", "labels", "failures", "notes")
        newest = [
            time
            for table in tables
            for (time,) in self._all(f"SELECT time FROM {table} ORDER BY seq DESC LIMIT 1")
        ]
        newest += [session.end or session.start for session in self.sessions()[-1:]]
        return max(newest, default=0.0)

    def check(self, seconds: float | None = None) -> None:
        """Read the whole file and verify it, which takes seconds per gigabyte.

        `seconds`: read for so long only, and find nothing wrong beyond.

        Raises:
            LedgerDamagedError: it is damaged.
        """
        schema.check(self._db, self.file, seconds)

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with explained(self.file):
            return self._db.execute(query, values).fetchall()

    def _arrays(self, query: str, number: int, what: str) -> Sample:
        found = self._all(query, int(number))
        if not found:
            raise self._missing(what, number)
        return self._unpack(found[0][0], number)

    def _unpack(self, data: bytes, number: int) -> Sample:
        try:
            return unpack(data)
        except LedgerError as error:
            raise LedgerDamagedError(
                f"{self.file}, sample {number}: {error}; {schema.way_out(self.file.parent)}"
            ) from error

    def _missing(self, what: str, number: int) -> LedgerError:
        return LedgerError(f"{self.file} has no {what} {number}; `states()` lists what it has")

    def _rollback(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            # The first error is the one to tell; SQLite rolls back when the file is next used.
            pass
