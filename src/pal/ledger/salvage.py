"""Reading what can be read of a damaged SQLite file, row by row."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pal.ledger.directory import LEDGER
from pal.ledger.schema import connect
from pal.ledger.tables import Row, Table, columns

_LOWEST: Final = -(1 << 62)
_FAR: Final = 100_000
"""How many numbers are tried, one by one, beyond a place that cannot be read."""


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection | None]:
    """Open a file that may be damaged; None if nothing at all can be read of it.

    Where its first page is damaged, which says what lies where, a copy gets that of an empty
    ledger: the tables of all ledgers begin at the same places.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{LEDGER}.") as folder:
        db = _usable(file)
        if db is None and _with_another_first_page(file, Path(folder) / LEDGER):
            db = _usable(Path(folder) / LEDGER)
        try:
            yield db
        finally:
            if db is not None:
                db.close()


def _usable(file: Path) -> sqlite3.Connection | None:
    if not file.exists():
        return None
    db = sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA query_only = ON")
        if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'labels'").fetchone()[0]:
            return db
    except sqlite3.Error:
        pass
    db.close()
    return None


def _with_another_first_page(file: Path, copy: Path) -> bool:
    """Copy a ledger under an empty one's first page (https://sqlite.org/fileformat.html)."""
    if not file.exists() or not file.stat().st_size:
        return False
    connect(copy).close()
    with copy.open("rb") as fresh:
        head = bytearray(fresh.read(100))
        size = struct.unpack_from(">H", head, 16)[0]
        page = head + fresh.read(size - 100)
    page[18:20] = b"\x01\x01"  # no journal beside it
    page[24:28] = page[92:96]
    struct.pack_into(">I", page, 28, file.stat().st_size // size)
    copy.unlink()
    shutil.copyfile(file, copy)
    with copy.open("r+b") as damaged:
        damaged.write(page)
        # A page that is cut short is no page.
        damaged.truncate(os.path.getsize(copy) // size * size)
    return True


def shared(db: sqlite3.Connection, table: Table) -> Table:
    """Return a table with those of its columns that this file has."""
    try:
        known = columns(db, table.name)
    except sqlite3.Error:
        known = ()
    return Table(table.name, tuple(name for name in table.columns if name in known))


def readable(db: sqlite3.Connection, table: Table, most: int = 0) -> Iterator[Row]:
    """Yield all rows of a table that can be read and whose arrays are good, by their numbers.

    `most`: a number that the table is known to reach, where its end cannot be read.
    """
    most = max(most, _end_of(db, table))
    number = _LOWEST
    while True:
        try:
            for (row,) in table.after(db, number, 1):
                if row[0] <= number:
                    raise sqlite3.DatabaseError("a damaged page leads back")
                number = row[0]
                if table.good(row):
                    yield row
            return
        except sqlite3.Error:
            following = _beyond(db, table, max(number, -1), most)
        if following is None:
            return
        number = following[0]
        if table.good(following):
            yield following


def _end_of(db: sqlite3.Connection, table: Table) -> int:
    try:
        return table.last(db)
    except sqlite3.Error:
        return 0


def _beyond(db: sqlite3.Connection, table: Table, number: int, most: int) -> Row | None:
    """Return the next row that can be read."""
    far = number + _FAR  # what a damaged page says is the end may be anything
    for following in range(number + 1, min(most or far, far) + 1):
        try:
            rows = table.rows(db, f'"{table.columns[0]}" = ?', following)
        except sqlite3.Error:
            continue
        if rows and rows[0][0] == following:
            return rows[0]
    return None


def count_of_labels(db: sqlite3.Connection) -> int | None:
    """Return how many labels a ledger ever had, as SQLite counts them; None if it cannot tell."""
    try:
        found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'labels'").fetchone()
    except sqlite3.Error:
        return None
    return int(found[0]) if found else 0
