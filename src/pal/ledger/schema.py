"""The tables of the ledger, their version, and how SQLite is told to keep them safe."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pal.errors import (
    LedgerDamagedError,
    LedgerDiskError,
    LedgerError,
    LedgerLockedError,
    LedgerVersionError,
)
from pal.ledger.directory import BACKUP, LEDGER

FORMAT: Final = 1
_BUSY_SECONDS: Final = 30.0

_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE samples (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    walker INTEGER NOT NULL, version INTEGER NOT NULL, uncertainty REAL, created REAL NOT NULL);
CREATE TABLE inputs (sample INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE labels (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, sample INTEGER NOT NULL UNIQUE,
    oracle INTEGER NOT NULL, host TEXT NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL,
    data BLOB NOT NULL);
CREATE TABLE history (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, sample INTEGER NOT NULL, state TEXT NOT NULL,
    detail TEXT NOT NULL);
CREATE INDEX history_of_sample ON history (sample);
CREATE TABLE metrics (seq INTEGER PRIMARY KEY, time REAL NOT NULL, json TEXT NOT NULL);
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY, start REAL NOT NULL, "end" REAL, began REAL NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, version TEXT NOT NULL, settings TEXT NOT NULL,
    reason TEXT NOT NULL);
CREATE TABLE failures (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, role TEXT NOT NULL, idx INTEGER NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, host TEXT NOT NULL, sample INTEGER,
    traceback TEXT NOT NULL);
CREATE TABLE notes (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
"""
# A sample's arrays have a table of their own because SQLite writes a whole row again when one
# value of it changes, and `state` changes often.

_LOCAL: Final = frozenset(
    {"apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs"}
    | {"reiserfs", "tmpfs", "xfs", "zfs"}
)


def connect(file: Path) -> sqlite3.Connection:
    """Open the ledger for writing, and make its tables if there are none.

    Raises:
        LedgerError: the file is damaged, of another format, or the disk refuses.
    """
    _expect_campaign(file)
    with explained(file):
        db = _connection(f"{file.resolve().as_uri()}?mode=rwc")
        try:
            _check_version(db, file)
            mode = journal_mode(file.parent)
            db.execute(f"PRAGMA journal_mode = {mode}")
            # FULL: a commit is on the disk when it returns, in either journal mode.
            db.execute("PRAGMA synchronous = FULL")
            # On macOS a plain fsync leaves data in the drive's cache; elsewhere without effect.
            db.execute("PRAGMA fullfsync = ON")
            db.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            if not _format(db):
                db.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;"
                )
        except BaseException:
            db.close()
            raise
        return db


def connect_readonly(file: Path) -> sqlite3.Connection:
    """Open the ledger for reading only; a writer may run, or have been killed.

    Raises:
        LedgerError: there is no ledger, it is damaged or of another format.
    """
    _expect_campaign(file)
    if not file.is_file():
        raise LedgerError(
            f"there is no campaign in {file.parent}: {file.name} is missing; "
            "name the directory of a campaign"
        )
    with explained(file):
        try:
            db = _connection(f"{file.resolve().as_uri()}?{_reading(file)}")
        except OSError as error:
            raise LedgerDiskError(
                f"{file} cannot be read: {error.strerror}; ask its owner for the right to"
            ) from error
        try:
            _check_version(db, file)
            db.execute("PRAGMA query_only = ON")
            if not _format(db):
                raise LedgerError(f"{file} holds no campaign yet; try again once it has started")
        except BaseException:
            db.close()
            raise
        return db


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Turn what SQLite raises into ledger errors that name the file and the fix."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LedgerLockedError(
                f"{file} was kept busy by another process for {_BUSY_SECONDS:g} s; "
                "close programs that have it open, such as the sqlite3 shell"
            ) from error
        if name in ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY"):
            raise LedgerDiskError(
                f"{file} was left by a killed process and must be brought in order by someone "
                "who may write it: ask its owner for `pal status`, or copy the directory"
            ) from error
        if name.startswith(
            ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")
        ):
            raise LedgerDiskError(
                f"the disk refused {file}: {error} ({name}); free some space or make the "
                "directory writable, then go on"
            ) from error
        raise LedgerDamagedError(
            f"{file} is damaged, or no ledger: {error} ({name or type(error).__name__}); "
            f"{way_out(file.parent)}"
        ) from error


def check(db: sqlite3.Connection, file: Path, seconds: float | None = None) -> None:
    """Read the file and verify it; at most for so long, beyond which it counts as good.

    Raises:
        LedgerDamagedError: it is damaged; says where.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    if deadline is not None:
        db.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
    try:
        with explained(file):
            problems = [text for (text,) in db.execute("PRAGMA integrity_check") if text != "ok"]
    except LedgerError as error:
        if getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            return
        raise
    finally:
        db.set_progress_handler(None, 0)
    if problems:
        lines = [line for text in problems for line in text.splitlines()]
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        raise LedgerDamagedError(
            f"{file} is damaged: {'; '.join(lines[:2])}{more}; {way_out(file.parent)}"
        )


def way_out(directory: Path) -> str:
    """Say how to go on with a damaged ledger, and what its copy has."""
    advice = f"`pal recover {directory}` saves what can be read"
    copy = directory / BACKUP
    try:
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(copy.stat().st_mtime))
        db = sqlite3.connect(f"{copy.resolve().as_uri()}?mode=ro", uri=True)
        try:
            labels = int(db.execute("SELECT count(*) FROM labels").fetchone()[0])
        finally:
            db.close()
    except (OSError, sqlite3.Error):
        return advice
    return f"{advice}; its copy of {changed} has {labels:,} labels"


def _expect_campaign(file: Path) -> None:
    """Refuse to begin anew where there was a campaign: its copy is still there."""
    gone = not file.exists()
    empty = not gone and not file.stat().st_size and not Path(f"{file}-wal").exists()
    if (gone or empty) and file.name == LEDGER and (file.parent / BACKUP).exists():
        raise LedgerDamagedError(
            f"{file} is {'missing' if gone else 'empty'}, and there was a campaign in this "
            f"directory; {way_out(file.parent)}"
        )


def journal_mode(directory: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Choose SQLite's journal for the file system of a directory.

    WAL lets readers look on while the writer commits, with one fsync a commit, but it needs
    memory shared between all processes that have the file open, which only a local file
    system gives (https://sqlite.org/wal.html). Everywhere else, and wherever the file system
    is not known to be local (also on macOS, which has no list of mounts to read), the rollback
    journal is used: right on every file system, at the price of some more fsyncs.
    """
    return "WAL" if file_system(directory, mounts) in _LOCAL else "TRUNCATE"


def file_system(directory: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Name the type of the file system a directory is on, e.g. "ext4"; "" if unknown."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, found = directory.resolve(), -1, ""
    for line in lines:
        _, point, kind, *_ = f"{line}   ".split(" ")
        # The kernel writes blanks and such in a mount point as octal numbers.
        folder = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        # Of two mounts on the same point the later one covers the earlier.
        if place.is_relative_to(folder) and len(folder.parts) >= best:
            best, found = len(folder.parts), kind
    return found


def _connection(uri: str) -> sqlite3.Connection:
    # The connection is handed from the thread that opens it to the one that writes.
    return sqlite3.connect(
        uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _format(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check_version(db: sqlite3.Connection, file: Path) -> None:
    tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    found = _format(db)
    if found == FORMAT or not (found or tables):
        return
    if not found:
        raise LedgerError(
            f"{file} is an SQLite file that PAL did not write; name another directory"
        )
    raise LedgerVersionError(
        f"{file} has format {found}, this PAL reads format {FORMAT}; use the PAL that wrote it "
        "(`SELECT version FROM sessions` in the file tells), or start in a new directory"
    )


def _reading(file: Path) -> str:
    """Choose how a reader opens the file.

    After a writer was killed, the first who comes must bring the file in order with the journal
    it left, and readers of a WAL note beside it what they read: a reader writes too, if it can.
    """
    if os.access(file.parent, os.W_OK) and os.access(file, os.W_OK):
        return "mode=rw"
    if _in_wal_mode(file) and not file.with_name(f"{file.name}-wal").exists():
        # No writer is at work, and a reader who may not write cannot begin a WAL either.
        return "mode=ro&immutable=1"
    return "mode=ro"


def _in_wal_mode(file: Path) -> bool:
    """Read it from the header, byte 18 (https://sqlite.org/fileformat.html)."""
    with file.open("rb") as opened:
        return opened.read(19)[18:] == b"\x02"
