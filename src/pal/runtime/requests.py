"""Requests: what operators ask of a campaign, as files in its run directory, and the answers.

A request is `requests/<id>.json`, with arrays beside it in `<id>.npz` where it brings a label.
The session that carries it out leaves `<id>.answer`, for whoever asked to read and delete. Files
do for operators on any host that sees the directory; they need neither a port nor a right beyond
that to write there.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from pal.errors import LedgerDiskError
from pal.ledger.directory import write_atomically
from pal.records import Array, Sample, named, unnamed

_LOOK: Final = 0.05
"""Seconds between two looks for an answer; another host's files come late anyway."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a deed with its arguments, by whom, and when by the wall clock.

    `pid`: only the session of this process is meant.
    """

    id: str
    deed: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    at: float = 0.0
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether it was done, and what came of it or why not.

    `code` is the exit code of the command that asked.
    """

    done: bool
    text: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A request that is no request."""

    id: str
    reason: str


def author() -> str:
    """Return who works here: "anna@login1"."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user number without a name, as in some containers
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


class Requests:
    """The folder of requests, from either side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: int | None = None

    # Who asks --------------------------------------------------------------------------------

    def leave(
        self,
        deed: str,
        arguments: Mapping[str, Any],
        arrays: Sample | None = None,
        pid: int | None = None,
    ) -> Request:
        """Leave a request.

        Raises:
            LedgerDiskError: the disk refuses.
        """
        now = time.time()
        # By their names, requests are in the order in which they came.
        name = f"{time.time_ns():020d}-{secrets.token_hex(3)}"
        request = Request(name, deed, arguments, author(), now, pid)
        try:
            self._folder.mkdir(exist_ok=True)
            if arrays is not None:
                _save(self._arrays(name), arrays)
        except OSError as error:
            raise LedgerDiskError(
                f"no request can be left in {self._folder}: {error.strerror or error}; ask the "
                "owner of the campaign for the right to write there"
            ) from error
        write_atomically(self._folder / f"{name}.json", json.dumps(asdict(request)).encode())
        return request

    def answer_to(self, request: Request, patience: float) -> Answer | None:
        """Wait for an answer at most so many seconds; None if none came."""
        path = self._answer(request.id)
        deadline = time.monotonic() + patience
        while not path.exists():
            if time.monotonic() >= deadline:
                return None
            time.sleep(_LOOK)
            _refresh(self._folder)
        found = Answer(**json.loads(path.read_text(encoding="utf-8")))
        path.unlink(missing_ok=True)
        return found

    def withdraw(self, request: Request) -> bool:
        """Take a request back; False if somebody has begun to carry it out."""
        try:
            (self._folder / f"{request.id}.json").unlink()
        except FileNotFoundError:
            return False
        self._arrays(request.id).unlink(missing_ok=True)
        return True

    # Who carries out -------------------------------------------------------------------------

    def open(self) -> None:
        """Forget the answers that nobody has read, and arrays without a request."""
        for path in (*self._folder.glob("*.answer"), *self._folder.glob("*.npz")):
            if path.suffix == ".answer" or not path.with_suffix(".json").exists():
                path.unlink(missing_ok=True)

    def stirred(self) -> bool:
        """Whether something has come or gone since the last call; costs a few microseconds.

        It may be missed, on file systems with a coarse clock: look at `news` now and then anyway.
        """
        try:
            before, self._seen = self._seen, self._folder.stat().st_mtime_ns
        except OSError:
            return False
        return before != self._seen

    def news(self) -> list[Request | Unreadable]:
        """Return the requests there are, in their order."""
        return list(self._read())

    def arrays(self, request: Request) -> Sample | None:
        """Return the arrays that came with a request.

        Raises:
            OSError, ValueError: they cannot be read.
        """
        path = self._arrays(request.id)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            return unnamed({key.removeprefix("array/"): file[key] for key in file.files})

    def finish(self, request: Request | Unreadable, answer: Answer | None = None) -> None:
        """Answer, and forget the request: in this order, so that none is lost."""
        if answer is not None:
            write_atomically(self._answer(request.id), json.dumps(asdict(answer)).encode())
        (self._folder / f"{request.id}.json").unlink(missing_ok=True)
        self._arrays(request.id).unlink(missing_ok=True)

    # Files -----------------------------------------------------------------------------------

    def _read(self) -> Iterator[Request | Unreadable]:
        for path in sorted(self._folder.glob("*.json")):
            with suppress(FileNotFoundError):  # it was taken back
                yield _parsed(path)

    def _answer(self, name: str) -> Path:
        return self._folder / f"{name}.answer"

    def _arrays(self, name: str) -> Path:
        return self._folder / f"{name}.npz"


def _parsed(path: Path) -> Request | Unreadable:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if "stop" in data and "deed" not in data:  # as programs wrote it by hand
            data = {"deed": "stop", "arguments": {"reason": str(data["stop"])}} | {
                key: data[key] for key in ("pid", "by") if key in data
            }
        return Request(**{"id": path.stem} | data)
    except (ValueError, TypeError) as error:
        return Unreadable(path.stem, str(error))


def _save(path: Path, record: Sample) -> None:
    arrays: dict[str, Array] = named(record)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        # A name of one's own for each array: `file` is an argument of savez.
        np.savez(file, **{f"array/{name}": array for name, array in arrays.items()})  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _refresh(folder: Path) -> None:
    """Have a network file system look at the folder anew."""
    with suppress(OSError), os.scandir(folder) as entries:
        next(entries, None)
