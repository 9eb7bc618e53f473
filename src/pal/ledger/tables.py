"""The tables of a ledger as rows that are copied: into its backup, and out of a damaged file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pal.errors import LedgerError
from pal.transport.layout import unpack

Row: TypeAlias = tuple[Any, ...]

CHUNK: Final = 256
"""Rows read at once: a reader holds no lock longer than such a read takes."""

_PACKED: Final = "data"


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column is the number of a row."""

    name: str
    columns: tuple[str, ...]

    def rows(self, db: sqlite3.Connection, where: str = "1", *values: Any) -> list[Row]:
        """Return the rows for which a condition holds."""
        return db.execute(
            f"SELECT {self._listed} FROM {self.name} WHERE {where}", values
        ).fetchall()

    def after(
        self, db: sqlite3.Connection, number: int, at_once: int = CHUNK
    ) -> Iterator[list[Row]]:
        """Yield the rows with a higher number, in their order, some at once."""
        key = f'"{self.columns[0]}"'
        while rows := self.rows(db, f"{key} > ? ORDER BY {key} LIMIT {at_once}", number):
            yield rows
            number = rows[-1][0]

    def last(self, db: sqlite3.Connection) -> int:
        """Return the highest number; -1 if there is no row."""
        query = f'SELECT coalesce(max("{self.columns[0]}"), -1) FROM {self.name}'
        return int(db.execute(query).fetchone()[0])

    def put(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Write rows; one of the same number gives way."""
        marks = ",".join("?" * len(self.columns))
        query = f"INSERT OR REPLACE INTO {self.name} ({self._listed}) VALUES ({marks})"
        db.executemany(query, rows)

    def good(self, row: Row) -> bool:
        """Whether the arrays of a row, if it has any, can be read and are those once written."""
        if _PACKED not in self.columns:
            return True
        try:
            unpack(row[self.columns.index(_PACKED)])
        except (LedgerError, TypeError):
            return False
        return True

    @property
    def _listed(self) -> str:
        return ", ".join(f'"{name}"' for name in self.columns)


def tables(db: sqlite3.Connection) -> dict[str, Table]:
    """Return the tables of a ledger by their names, without `meta`, whose rows have no numbers."""
    names = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        " AND name <> 'meta'"
    ).fetchall()
    return {name: Table(name, columns(db, name)) for (name,) in names}


def columns(db: sqlite3.Connection, table: str) -> tuple[str, ...]:
    """Return the names of a table's columns; none if there is no such table."""
    return tuple(row[1] for row in db.execute(f"PRAGMA table_info({table})"))
