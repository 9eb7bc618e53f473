"""Weights of the committee as files: one folder per stored version, one npz per member."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Mapping
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
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise LedgerError(
                f"weights file {path} cannot be read: {error}; remove its folder to go on with "
                "an older version"
            ) from error
    if not found:
        raise LedgerError(f"{folder} holds no member-<k>.npz files")
    return found


def facts(folder: Path) -> dict[str, float]:
    """Read what was noted when these weights were stored."""
    result: dict[str, float] = json.loads((folder / "facts.json").read_text())
    return result


def stored(models: Path) -> list[Path]:
    """Return the folders of all stored versions, oldest first."""
    return sorted(path for path in models.glob("v*") if (path / "facts.json").exists())
