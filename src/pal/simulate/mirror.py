"""The same schedule on the real ledger: what a simulated disk keeps, SQLite must keep, too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from pal.controller.rules import Restored
from pal.ledger import entries
from pal.ledger.ledger import Ledger
from pal.ledger.restore import restore
from pal.ledger.rows import Prepared, prepare
from pal.simulate.broken import Broken


class Mirror:
    """A ledger in a folder that dies with each session, by copying its files as they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        self._ledger = Ledger.open(self._next())

    def _next(self) -> Path:
        self._lives += 1
        folder = self._folder / str(self._lives)
        folder.mkdir(parents=True)
        return folder

    def commit(self, batch: Sequence[entries.Entry]) -> None:
        """Write entries."""
        self._ledger.commit(batch)

    def tear(self, batch: Sequence[entries.Entry]) -> None:
        """Break off a commit after its last entry has been written."""
        unwritable = Prepared(entries.Metric(0.0, {}), b"\xff")
        try:
            self._ledger.commit([*(prepare(entry) for entry in batch), unwritable])
        except UnicodeDecodeError:
            return
        raise Broken("the real ledger", "it has committed what was broken off")

    def die(self) -> None:
        """Be killed: what another process finds is the files as they lie there."""
        before = self._ledger.file.parent
        after = self._next()
        for file in before.iterdir():
            shutil.copy(file, after / file.name)
        self._ledger.close()
        shutil.rmtree(before)
        self._ledger = Ledger.open(after)

    def agrees(self, expected: Restored) -> None:
        """Compare where the campaign stands, and check the file."""
        found = restore(self._ledger)
        for field in fields(Restored):
            wanted, got = getattr(expected, field.name), getattr(found, field.name)
            if wanted != got:
                raise Broken("the real ledger", f"{field.name}: expected {wanted}, restored {got}")
        self._ledger.check()

    def close(self) -> None:
        """Close the file."""
        self._ledger.close()
