"""Files that one calculation leaves for the next of the same molecule: its orbitals, mostly.

They lie in the oracle's own directory, one folder for each molecule, and are copied into the
fresh scratch folder of its next label. A start from them is faster, never needed: whoever fails
with them forgets them and begins from scratch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pal.errors import LabelFailure
from pal.records import Label

CAPACITY = 16
"""Molecules whose files are kept; the one that was not used for longest goes first."""


class Kept:
    """The files that match `patterns` (globs, relative to the scratch folder), per molecule."""

    def __init__(self, directory: Path, patterns: Sequence[str]) -> None:
        # Absolute, because labels are made in another folder.
        self._folder = Path(os.path.abspath(directory)) / "kept"
        self._patterns = tuple(patterns)

    def label(self, key: object, compute: Callable[[bool], Label]) -> Label:
        """Return what `compute(True)` makes of kept files in the scratch folder, then keep anew.

        Without such files, or where it fails with them, `compute(False)` begins from scratch:
        maybe the old orbitals led it astray, and the sample deserves a start of its own.
        """
        if not self.give(key):
            label = compute(False)
        else:
            try:
                label = compute(True)
            except LabelFailure:
                self.forget(key)
                empty_scratch()
                label = compute(False)
        self.take(key)
        return label

    def give(self, key: object) -> bool:
        """Copy what was kept for `key` into the working directory; return whether there is any."""
        source = self._of(key)
        if not self._patterns or not source.is_dir():
            return False
        shutil.copytree(source, Path.cwd(), dirs_exist_ok=True)
        os.utime(source)
        return True

    def take(self, key: object) -> None:
        """Move the matching files of the working directory here, in place of older ones."""
        here = Path.cwd()
        found = [path for glob in self._patterns for path in here.glob(glob) if path.is_file()]
        if not found:
            return
        folder = self._of(key)
        making = folder.with_suffix(".part")
        shutil.rmtree(making, ignore_errors=True)
        for path in dict.fromkeys(found):
            target = making / path.relative_to(here)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
        self._bound()

    def forget(self, key: object) -> None:
        """Remove what was kept for `key`."""
        shutil.rmtree(self._of(key), ignore_errors=True)

    def _of(self, key: object) -> Path:
        return self._folder / hashlib.sha256(repr(key).encode()).hexdigest()[:16]

    def _bound(self) -> None:
        folders = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for folder in folders[:-CAPACITY]:
            shutil.rmtree(folder, ignore_errors=True)


def empty_scratch() -> None:
    """Remove everything from the working directory, which is the oracle's scratch folder."""
    for path in Path.cwd().iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
