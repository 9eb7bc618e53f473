"""How each kind of entry becomes rows. Every function runs inside an open transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.errors import ContractError
from pal.ledger.entries import (
    Commit,
    Entry,
    FailureEntry,
    GrantedTotal,
    Metric,
    NewLabel,
    NewSample,
    Note,
    SessionEnded,
    SessionStarted,
    StateChange,
)
from pal.transport.layout import pack

# Numbers are passed through int() and float() throughout: SQLite would keep a numpy integer
# as bytes.


_LARGEST: Final = 900_000_000
"""Bytes; SQLite's own limit for one value is 10^9 (https://sqlite.org/limits.html)."""


class Prepared(NamedTuple):
    """An entry whose content is already bytes, so that it may change after it was put.

    Whatever can be wrong with an entry is found here, before it waits in line with others.
    """

    entry: Entry
    data: bytes


@dataclass(slots=True)
class Tally:
    """What a transaction has done so far; becomes a `Commit`."""

    labels: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)

    def done(self) -> Commit:
        """Return the result once the transaction is on disk."""
        return Commit(tuple(self.labels), tuple(self.repeated), tuple(self.unknown))


def prepare(entry: Entry) -> Prepared:
    """Turn the content of an entry into bytes.

    Raises:
        ContractError: an array cannot be kept: Python objects, or more than 900 MB.
        TypeError: a metric is nothing JSON can hold.
    """
    match entry:
        case NewSample(candidate=Candidate(sample=number), sample=record):
            data = pack(record)
        case NewLabel(sample=number, label=record):
            data = pack(record)
        case Metric(values=values):
            text = json.dumps(dict(values), default=float, separators=(",", ":"))
            return Prepared(entry, text.encode())
        case _:
            return Prepared(entry, b"")
    if len(data) > _LARGEST:
        raise ContractError(
            f"sample {number}: its arrays or its label take {len(data)} bytes, the ledger keeps "
            f"up to {_LARGEST}; return less, and leave large fields in files"
        )
    return Prepared(entry, data)


def write(db: sqlite3.Connection, prepared: Prepared, tally: Tally) -> None:
    """Write one entry."""
    _WRITERS[type(prepared.entry)](db, prepared.entry, prepared.data, tally)


def known(db: sqlite3.Connection, sample: int) -> bool:
    """Whether the ledger has this sample."""
    return db.execute("SELECT 1 FROM samples WHERE id = ?", (sample,)).fetchone() is not None


def _text(text: str) -> str:
    """Escape what is no valid Unicode, such as bytes in a program's output: SQLite refuses it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _sample(db: sqlite3.Connection, entry: NewSample, data: bytes, tally: Tally) -> None:
    given = entry.candidate
    number = int(given.sample)
    cursor = db.execute(
        "INSERT OR IGNORE INTO samples"
        " (id, state, attempts, walker, version, uncertainty, created)"
        " VALUES (?, ?, 0, ?, ?, ?, ?)",
        (
            number,
            State.QUEUED.value,
            int(given.walker),
            int(given.version),
            float(given.uncertainty),
            float(entry.time),
        ),
    )
    if cursor.rowcount:
        db.execute("INSERT INTO inputs (sample, data) VALUES (?, ?)", (number, data))
    else:
        tally.repeated.append(number)


def _state(db: sqlite3.Connection, entry: StateChange, data: bytes, tally: Tally) -> None:
    number = int(entry.sample)
    if not known(db, number):
        tally.unknown.append(number)
        return
    db.execute(
        "UPDATE samples SET state = ? WHERE id = ? AND state <> 'labelled'",
        (entry.state.value, number),
    )
    if entry.attempts is not None:
        db.execute("UPDATE samples SET attempts = ? WHERE id = ?", (int(entry.attempts), number))
    db.execute(
        "INSERT INTO history (time, sample, state, detail) VALUES (?, ?, ?, ?)",
        (float(entry.time), number, entry.state.value, _text(entry.detail)),
    )


def _label(db: sqlite3.Connection, entry: NewLabel, data: bytes, tally: Tally) -> None:
    number = int(entry.sample)
    if not known(db, number):
        tally.unknown.append(number)
        return
    cursor = db.execute(
        "INSERT OR IGNORE INTO labels (sample, oracle, host, seconds, time, data)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            number,
            int(entry.oracle),
            _text(entry.host),
            float(entry.seconds),
            float(entry.time),
            data,
        ),
    )
    if not cursor.rowcount:
        tally.repeated.append(number)
        return
    db.execute("UPDATE samples SET state = 'labelled' WHERE id = ?", (number,))
    tally.labels.append(number)


def _failure(db: sqlite3.Connection, entry: FailureEntry, data: bytes, tally: Tally) -> None:
    what = entry.failure
    db.execute(
        "INSERT INTO failures (time, role, idx, kind, message, host, sample, traceback)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            float(entry.time),
            _text(what.role),
            int(what.index),
            _text(what.kind),
            _text(what.message),
            _text(what.host),
            None if what.sample is None else int(what.sample),
            _text(what.traceback),
        ),
    )


def _metric(db: sqlite3.Connection, entry: Metric, data: bytes, tally: Tally) -> None:
    db.execute(
        "INSERT INTO metrics (time, json) VALUES (?, ?)", (float(entry.time), data.decode())
    )


def _note(db: sqlite3.Connection, entry: Note, data: bytes, tally: Tally) -> None:
    db.execute(
        "INSERT INTO notes (time, kind, text) VALUES (?, ?, ?)",
        (float(entry.time), _text(entry.kind), _text(entry.text)),
    )


def _granted(db: sqlite3.Connection, entry: GrantedTotal, data: bytes, tally: Tally) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES ('granted', ?)", (str(int(entry.total)),))


def _started(db: sqlite3.Connection, entry: SessionStarted, data: bytes, tally: Tally) -> None:
    db.execute(
        "INSERT INTO sessions (start, began, host, pid, version, settings, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, '')",
        (
            float(entry.time),
            float(entry.began),
            _text(entry.host),
            int(entry.pid),
            _text(entry.version),
            _text(entry.settings),
        ),
    )


def _ended(db: sqlite3.Connection, entry: SessionEnded, data: bytes, tally: Tally) -> None:
    db.execute(
        'UPDATE sessions SET "end" = ?, reason = ?'
        " WHERE number = (SELECT max(number) FROM sessions)",
        (float(entry.time), _text(entry.reason)),
    )


_WRITERS: dict[type, Callable[[sqlite3.Connection, Any, bytes, Tally], None]] = {
    NewSample: _sample,
    StateChange: _state,
    NewLabel: _label,
    FailureEntry: _failure,
    Metric: _metric,
    Note: _note,
    GrantedTotal: _granted,
    SessionStarted: _started,
    SessionEnded: _ended,
}
