"""Making a whole ledger out of a damaged one and its copy, and an account of what was saved."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pal.controller.commands import State
from pal.errors import LedgerDamagedError
from pal.ledger import salvage
from pal.ledger.directory import BACKUP, DAMAGED, LEDGER, sync_folder
from pal.ledger.ledger import Ledger
from pal.ledger.schema import check, connect, connect_readonly, explained
from pal.ledger.tables import Table, tables

_BESIDE: Final = ("-wal", "-shm", "-journal")
_NEW: Final = ".ledger.recovering.sqlite"
_UNKNOWN: Final = "0, 0, 0, NULL, 0.0"
"""Attempts, walker, version, uncertainty and time of a sample whose row is lost."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of a ledger. The numbers are samples.

    `labels`: how many it has now; `of`: how many there were. `lost`: labelled, but the label or
    what was labelled could not be read; those of `again` are queued to be labelled again.
    `dropped`: waited for a label, and cannot be read. `copied`: how many labels the copy had.
    `aside`: the damaged file; None if the ledger was whole, and nothing was done. `certain`:
    whether there were no more labels than `of`, of which nothing can be read any more.
    """

    labels: int
    of: int
    copied: int | None = None
    lost: tuple[int, ...] = ()
    again: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    aside: Path | None = None
    certain: bool = True

    def lines(self) -> list[str]:
        """Say it to people."""
        if self.aside is None:
            return [f"the ledger is whole: {self.labels:,} labels, each read and checked"]
        copy = "there was no copy of it"
        if self.copied is not None:
            copy = f"its copy had {self.copied:,}"
        least = "" if self.certain else "at least "
        lines = [f"{self.labels:,} of {least}{self.of:,} labels saved ({copy})"]
        if not self.certain:
            lines.append(
                "how many there were can no longer be read: labels that came after the copy was "
                "renewed for the last time are missing"
            )
        for number in self.lost:
            then = "is queued again" if number in self.again else "cannot be read itself"
            lines.append(f"sample {number}: its label could not be read; the sample {then}")
        if unknown := self.of - self.labels - len(self.lost):
            lines.append(f"of {unknown:,} labels not even the numbers could be read")
        lines += [
            f"sample {number}: could not be read, and is dropped from the queue"
            for number in self.dropped
        ]
        return [*lines, f"the damaged ledger is kept as {self.aside}"]


def recover(directory: Path) -> Recovery:
    """Make the ledger of a claimed run directory whole.

    Each label and sample is read and checked, from the damaged file and from its copy. If this is
    cut off, the next call begins again; the damaged file is only ever renamed.

    Raises:
        LedgerDamagedError: nothing could be read.
        LedgerError: the disk refuses.
    """
    whole = _examine(directory)
    if whole is not None:
        return whole
    aside = _set_aside(directory)
    for path in directory.glob(f"{_NEW}*"):
        path.unlink()
    db = connect(directory / _NEW)
    try:
        with explained(directory / _NEW):
            db.execute("PRAGMA journal_mode = DELETE")  # one file, which is renamed at the end
            db.execute("BEGIN IMMEDIATE")
            found = _fill(db, directory / BACKUP, aside)
            db.execute("COMMIT")
            check(db, directory / _NEW)
    finally:
        db.close()
    os.replace(directory / _NEW, directory / LEDGER)
    sync_folder(directory)
    return found


def _examine(directory: Path) -> Recovery | None:
    """Read all that a ledger holds; None if something is wrong with it."""
    if not (directory / LEDGER).exists():
        return None
    try:
        db = connect_readonly(directory / LEDGER)
        try:
            check(db, directory / LEDGER)
            for table in tables(db).values():
                if not all(table.good(row) for rows in table.after(db, -1) for row in rows):
                    return None
        finally:
            db.close()
        with Ledger.open_readonly(directory) as ledger:
            counts = ledger.counts()
            labels = len(ledger.labelled_ids())
    except (LedgerDamagedError, sqlite3.DatabaseError):
        return None
    return Recovery(labels, labels) if counts[State.LABELLED] == labels else None


def _set_aside(directory: Path) -> Path:
    """Rename the damaged ledger; if that was begun before, what is left of it."""
    ledger = directory / LEDGER
    aside = directory / f"{DAMAGED}{time.strftime('%Y%m%d-%H%M%S')}.sqlite"
    if ledger.exists():
        ledger.rename(aside)
    else:
        earlier = sorted(directory.glob(f"{DAMAGED}*.sqlite"))
        aside = earlier[-1] if earlier else aside
    for ending in _BESIDE:
        beside = directory / f"{LEDGER}{ending}"
        if beside.exists():
            beside.rename(f"{aside}{ending}")
    sync_folder(directory)
    return aside


def _fill(db: sqlite3.Connection, backup: Path, aside: Path) -> Recovery:
    """Write what both files have; what the damaged one has is newer."""
    copied, counted, certain = None, _last_told(backup.parent), False
    most: dict[str, int] = {}
    for file in (backup, aside):
        with salvage.opened(file) as source:
            if source is None:
                continue
            count = salvage.count_of_labels(source)
            counted = max(counted, count or 0)
            certain = file == aside and count is not None
            for table in tables(db).values():
                most[table.name] = max(most.get(table.name, 0), most.get("samples", 0))
                _take(db, source, table, most)
            _take_meta(db, source)
        if file == backup:
            copied = int(_one(db, "SELECT count(*) FROM labels"))
    if not _one(db, "SELECT count(*) FROM sessions") and not _one(
        db, "SELECT count(*) FROM inputs"
    ):
        raise LedgerDamagedError(
            f"nothing could be read of {aside}, and there is no copy {backup.name}; put back a "
            "copy of your own as ledger.sqlite, or begin afresh with `pal run --fresh`"
        )
    return _settle(db, counted, certain, copied, aside)


def _last_told(directory: Path) -> int:
    """How many labels there were, as the campaign told whoever looked on."""
    try:
        return int(json.loads((directory / "status.json").read_text())["labelled"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def _take(
    db: sqlite3.Connection, source: sqlite3.Connection, table: Table, most: dict[str, int]
) -> None:
    theirs = salvage.shared(source, table)
    if not theirs.columns:
        return
    for row in salvage.readable(source, theirs, most[table.name]):
        theirs.put(db, [row])
        most[table.name] = max(most[table.name], row[0])


def _take_meta(db: sqlite3.Connection, source: sqlite3.Connection) -> None:
    try:
        rows = source.execute("SELECT key, value FROM meta").fetchall()
    except sqlite3.Error:
        return
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)


def _settle(
    db: sqlite3.Connection, counted: int, certain: bool, copied: int | None, aside: Path
) -> Recovery:
    """Make rows of different tables agree with each other, and tell what is missing."""
    db.execute(
        f"INSERT INTO samples (id, state, attempts, walker, version, uncertainty, created)"
        f" SELECT sample, 'queued', {_UNKNOWN} FROM inputs"
        " WHERE sample NOT IN (SELECT id FROM samples)"
    )
    known = "SELECT id FROM samples WHERE state = 'labelled' UNION SELECT sample FROM labels"
    labelled = {number for (number,) in db.execute(known)}
    db.execute("DELETE FROM labels WHERE sample NOT IN (SELECT sample FROM inputs)")
    saved = {number for (number,) in db.execute("SELECT sample FROM labels")}
    readable = {number for (number,) in db.execute("SELECT sample FROM inputs")}
    db.execute("UPDATE samples SET state = 'labelled' WHERE id IN (SELECT sample FROM labels)")
    lost = labelled - saved
    waiting = db.execute("SELECT id FROM samples WHERE state IN ('queued', 'running', 'returned')")
    unreadable = {number for (number,) in waiting} - readable
    _move(db, lost & readable, "queued", "its label could not be read after damage to the ledger")
    _move(db, lost - readable | unreadable, "dropped", "lost by damage to the ledger")
    found = Recovery(
        len(saved),
        max(len(labelled), counted),
        copied,
        tuple(sorted(lost)),
        tuple(sorted(lost & readable)),
        tuple(sorted(unreadable - lost)),
        aside,
        certain,
    )
    db.execute(
        "INSERT INTO notes (time, kind, text) VALUES (?, 'recovery', ?)",
        (_last_time(db), "; ".join(found.lines())),
    )
    return found


def _move(db: sqlite3.Connection, samples: set[int], state: str, why: str) -> None:
    now = _last_time(db)
    for number in sorted(samples):
        db.execute("UPDATE samples SET state = ? WHERE id = ?", (state, number))
        db.execute(
            "INSERT INTO history (time, sample, state, detail) VALUES (?, ?, ?, ?)",
            (now, number, state, why),
        )


def _last_time(db: sqlite3.Connection) -> float:
    found = _one(
        db,
        "SELECT max(t) FROM (SELECT max(time) t FROM history UNION SELECT max(time) FROM labels"
        " UNION SELECT max(time) FROM metrics)",
    )
    return float(found or 0.0)


def _one(db: sqlite3.Connection, query: str) -> float:
    value: float = db.execute(query).fetchone()[0]
    return value
