"""The two buffer files of the published program: pickled lists, written beside the ledger.

`orcl_buffer_path` holds labelled data that wait for training, [[input, label], ...], and
`ml_buffer_path` inputs that wait for an oracle, [input, ...]: as SI S3 describes the two settings.
PAL keeps both in its ledger, too, and goes on from there; the files are for programs that read
them, and for campaigns that the published program began.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np

from pal.compat.settings import Published
from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.controller.rules import INITIAL
from pal.errors import LedgerError, SettingsError
from pal.ledger.directory import RunDirectory, write_atomically
from pal.ledger.entries import BY_HAND, Entry, NewLabel, NewSample, Note
from pal.ledger.ledger import Ledger
from pal.monitor.metrics import Snapshot
from pal.monitor.terminal import Level, View
from pal.records import Array


class BufferView:
    """A view that also keeps the buffer files up to date."""

    def __init__(self, view: View, given: Published, directory: Path) -> None:
        self._view = view
        self._given = given
        self._directory = directory
        self._untaught = 0
        self._begun = False
        self._write_at = time.monotonic() + given.progress_save_interval

    def update(self, snapshot: Snapshot) -> None:
        """Pass a snapshot on; write the files if it is time."""
        self._view.update(snapshot)
        self._untaught, self._begun = snapshot.untaught, True
        if time.monotonic() >= self._write_at:
            self._write()

    def message(self, text: str, level: Level = "info") -> None:
        """Pass a message on."""
        self._view.message(text, level)

    def close(self) -> None:
        """Write the files for the last time, and free the terminal."""
        try:
            if self._begun:
                self._write()
        finally:
            self._view.close()

    def _write(self) -> None:
        self._write_at = time.monotonic() + self._given.progress_save_interval
        try:
            write(self._given, self._directory, self._untaught)
        except LedgerError as error:
            self._view.message(f"the buffer files are not up to date: {error}", "warning")


def write(given: Published, directory: Path, untaught: int) -> None:
    """Write both files, each atomically. `untaught`: how many labels wait for training."""
    with Ledger.open_readonly(directory) as ledger:
        if given.ml_buffer_path is not None:
            rows = ledger.states(State.QUEUED, State.RUNNING, State.RETURNED)
            _put(given.ml_buffer_path, [ledger.sample(row.candidate.sample) for row in rows])
        if given.orcl_buffer_path is not None:
            numbers = ledger.labelled_ids()
            newest = numbers[len(numbers) - untaught :]
            pairs = [[item.sample, item.label] for item in ledger.labelled(newest)]
            _put(given.orcl_buffer_path, pairs)


def _put(path: Path, content: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, pickle.dumps(content))


def take_over(given: Published, directory: Path) -> str:
    """Begin a new campaign's ledger with what the files of an earlier program hold.

    Return what was taken, for the operator; "" where there is a ledger, or nothing in the files.

    Raises:
        SettingsError: a file is no buffer.
        LedgerError: the run directory cannot be used.
    """
    run = RunDirectory(directory)
    if run.ledger.exists():
        return ""
    waiting = [_vector(item, given.ml_buffer_path) for item in _read(given.ml_buffer_path)]
    labelled = [_pair(item, given.orcl_buffer_path) for item in _read(given.orcl_buffer_path)]
    if not (waiting or labelled):
        return ""
    entries: list[Entry] = []
    for number, (sample, label) in enumerate(labelled):
        entries.append(NewSample(0.0, Candidate(number, INITIAL, 0, np.inf), sample))
        entries.append(NewLabel(0.0, number, label, BY_HAND, "buffer file"))
    for number, sample in enumerate(waiting, len(labelled)):
        entries.append(NewSample(0.0, Candidate(number, INITIAL, 0, np.inf), sample))
    text = f"{len(labelled)} labels and {len(waiting)} inputs were taken from the buffer files"
    with run, Ledger.open(directory) as ledger:
        ledger.commit([*entries, Note(0.0, "buffers", text)])
    return text


def _read(path: Path | None) -> list[Any]:
    if path is None or not path.is_file():
        return []
    try:
        found = pickle.loads(path.read_bytes())
    except Exception as error:
        raise SettingsError(
            f"the buffer file {path} cannot be read ({type(error).__name__}: {error}); move it "
            "away to begin without it"
        ) from error
    if not isinstance(found, list):
        raise _wrong(path)
    return found


def _vector(item: Any, path: Path | None) -> Array:
    if not isinstance(item, np.ndarray):
        raise _wrong(path)
    return item


def _pair(item: Any, path: Path | None) -> tuple[Array, Array]:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise _wrong(path)
    return _vector(item[0], path), _vector(item[1], path)


def _wrong(path: Path | None) -> SettingsError:
    return SettingsError(
        f"the buffer file {path} holds something else than expected: orcl_buffer_path is for "
        "[[input, label], ...], ml_buffer_path for [input, ...], all of them numpy arrays; move "
        "it away to begin without it"
    )
