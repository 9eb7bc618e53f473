"""Weights of the committee as files: one folder per stored version, one npz per member."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import LedgerError
from pal.ledger.directory import write_atomically
from pal.records import Weights


def store(folder: Path, members: Mapping[int, Weights], facts: Mapping[str, float]) -> None:
    """Write weights so that the folder appears whole or not at all."""
    making = folder.with_name(folder.name + ".part")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for member, weights in members.items():
        data = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(array) for name, array in weights.items()}
        np.savez(data, **arrays)
        write_atomically(making / f"member-{member}.npz", data.getvalue())
    write_atomically(making / "facts.json", json.dumps(dict(facts)).encode())
    shutil.rmtree(folder, ignore_errors=True)
    making.rename(folder)


def fetch(folder: Path) -> dict[int, Weights]:
    """Read the weights of all members stored in a folder.

    Raises:
        LedgerError: there are none, or a file is damaged; names it.
    """
    found: dict[int, Weights] = {}
    for path in sorted(folder.glob("member-*.npz")):
        try:
            # numpy leaves a damaged file open that it has opened itself.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found[int(path.stem.removeprefix("member-"))] = dict(arrays)
        except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
            raise LedgerError(
                f"weights file {path} ({path.stat().st_size} bytes) is damaged or cut short: "
                f"{error}"
            ) from error
    if not found:
        raise LedgerError(f"{folder} holds no member-<k>.npz files")
    return found


def facts(folder: Path) -> dict[str, float]:
    """Read what was noted when these weights were stored.

    Raises:
        LedgerError: the note is damaged.
    """
    path = folder / "facts.json"
    try:
        found: dict[str, float] = json.loads(path.read_text())
        if not all(isinstance(found[name], int | float) for name in ("version", "labels")):
            raise ValueError("version or labels is no number")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LedgerError(f"{path} is damaged or cut short: {error}") from error
    return found


@dataclass(frozen=True, slots=True)
class Stored:
    """Weights from the disk: `version` 0 where there were none. `remarks`: what was damaged."""

    members: Mapping[int, Weights]
    version: int = 0
    labels: int = 0
    remarks: tuple[str, ...] = ()


def newest(models: Path) -> Stored:
    """Read the weights stored last that are whole; what is damaged is told, and passed over."""
    remarks: list[str] = []
    for folder in reversed(stored(models)):
        try:
            members, known = fetch(folder), facts(folder)
        except LedgerError as error:
            remarks.append(str(error))
            continue
        found = f"{remarks[-1]}; going on from {folder.name}" if remarks else ""
        remarks = [*remarks[:-1], found] if remarks else []
        return Stored(members, int(known["version"]), int(known["labels"]), tuple(remarks))
    if remarks:
        remarks.append("no weights could be read: the models learn all labels anew")
    return Stored({}, remarks=tuple(remarks))


def last_version(models: Path) -> int:
    """Return the highest number that was given to weights, whether they can be read or not."""
    numbers = [int(f.name[1:]) for f in stored(models) if f.name[1:].isdecimal()]
    return max(numbers, default=0)


def stored(models: Path) -> list[Path]:
    """Return the folders of all stored versions, oldest first."""
    return sorted(path for path in models.glob("v*") if (path / "facts.json").exists())
