"""The copy of the ledger, from which a damaged one is made whole.

It is no copy of the file, which would take its damage along, but of its rows: each label is read
and checked before it is written, and only what is new since the last time is read. A few rows are
read at a time, so that the writer waits for it on no file system.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pal.errors import LedgerDamagedError, LedgerVersionError
from pal.ledger.directory import BACKUP, LEDGER
from pal.ledger.schema import connect, connect_readonly, explained
from pal.ledger.tables import CHUNK, Table, tables

_FIRST: Final = "SELECT start, began, host, pid FROM sessions ORDER BY number LIMIT 1"
"""By this a campaign is told from another one."""


@dataclass(frozen=True, slots=True)
class BackedUp:
    """`labels`: how many the copy holds now. `damaged`: new rows that could not be read."""

    labels: int
    damaged: tuple[str, ...]


def back_up(directory: Path) -> BackedUp:
    """Bring the copy in a run directory up to date, in one transaction.

    Raises:
        LedgerError: the ledger is damaged (the copy stays as it was), or the disk refuses.
    """
    source = connect_readonly(directory / LEDGER)
    try:
        with explained(directory / LEDGER):
            copy = _opened(directory / BACKUP, source)
            try:
                return _bring_up_to_date(copy, source)
            finally:
                copy.close()
    finally:
        source.close()


def _opened(file: Path, source: sqlite3.Connection) -> sqlite3.Connection:
    """Open the copy; begin it anew if it is another campaign's, or cannot be used."""
    try:
        copy = connect(file)
        with explained(file):
            ours = copy.execute(_FIRST).fetchone() in (None, source.execute(_FIRST).fetchone())
        if ours:
            return copy
        copy.close()
    except (LedgerDamagedError, LedgerVersionError):
        pass
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    return connect(file)


def _bring_up_to_date(copy: sqlite3.Connection, source: sqlite3.Connection) -> BackedUp:
    """Copy what is new.

    The campaign goes on meanwhile, so what is read later may be newer: a label without its
    sample, say. The next time brings it, and `recovery` knows how to do without it.
    """
    known = tables(copy)
    damaged: list[str] = []
    copy.execute("BEGIN IMMEDIATE")
    try:
        moved, labels = known["history"].last(copy), known["labels"].last(copy)
        for name in dict.fromkeys(("labels", "samples", *known)):
            damaged += _copy_new(known[name], copy, source)
        _copy_changes(known, copy, source, moved, labels)
        copy.execute("COMMIT")
    except BaseException:
        if copy.in_transaction:
            copy.execute("ROLLBACK")
        raise
    return BackedUp(copy.execute("SELECT count(*) FROM labels").fetchone()[0], tuple(damaged))


def _copy_new(table: Table, copy: sqlite3.Connection, source: sqlite3.Connection) -> list[str]:
    damaged = []
    for rows in table.after(source, table.last(copy)):
        judged = [(row, table.good(row)) for row in rows]
        damaged += [f"{table.name} {row[0]}" for row, good in judged if not good]
        table.put(copy, [row for row, good in judged if good])
    return damaged


def _copy_changes(
    known: dict[str, Table],
    copy: sqlite3.Connection,
    source: sqlite3.Connection,
    moved: int,
    labels: int,
) -> None:
    """Take over what is not only added: the states of samples, the sessions, and `meta`."""
    samples, sessions = known["samples"], known["sessions"]
    found = copy.execute(
        "SELECT sample FROM history WHERE seq > ? UNION SELECT sample FROM labels WHERE seq > ?",
        (moved, labels),
    )
    numbers = [number for (number,) in found]
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        samples.put(copy, samples.rows(source, f"id IN ({','.join('?' * len(part))})", *part))
    sessions.put(copy, sessions.rows(source))
    meta = source.execute("SELECT key, value FROM meta").fetchall()
    copy.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)
