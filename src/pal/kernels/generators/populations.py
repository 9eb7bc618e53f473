"""What surface hopping leaves for later: one line a trajectory, and populations from them.

Each walker appends to `trajectories.jsonl` in its directory, when a trajectory ends, one line of
JSON, such as
{"trajectory": 3, "end": "finished", "states": 2, "fs": 200.0, "visits": [[0.0, 1], [31.5, 0]]}.
`visits` holds the time in fs and the active state at the beginning and at each hop; `end` tells
why it ended: "finished", "untrusted" or "drift". After a crash a walker may write a trajectory a
second time; the later line counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from pal.errors import ContractError
from pal.records import Array

FILE: Final = "trajectories.jsonl"
FINISHED: Final = "finished"


@dataclass(frozen=True, slots=True)
class Populations:
    """Share of the trajectories in each state over time.

    `times_fs`: (t,). `mean` and its standard `error`: (t, states), NaN where no trajectory is as
    long. `trajectories`: how many were counted at each time, int (t,). `abandoned`: how many did
    not finish and were left out; many of them may mean that the populations are biased.
    """

    times_fs: Array
    mean: Array
    error: Array
    trajectories: Array
    abandoned: int


def populations(
    directories: Iterable[Path | str] | Path | str, times_fs: Sequence[float] | Array
) -> Populations:
    """Average the finished trajectories of walkers over time.

    `directories`: of the walkers, or one above them, such as the campaign's.

    Raises:
        ContractError: there is no finished trajectory.
    """
    roots = [directories] if isinstance(directories, Path | str) else directories
    files = sorted({file for root in roots for file in Path(root).rglob(FILE)})
    records = [record for file in files for record in recorded(file)]
    finished = [record for record in records if record["end"] == FINISHED]
    if not finished:
        raise ContractError(
            f"found {len(files)} files {FILE} with {len(records)} trajectories, none of them "
            "finished; name the directories of surface hopping walkers, or wait for them"
        )
    times = np.asarray(times_fs, dtype=float)
    states = max(int(record["states"]) for record in finished)
    occupied = np.array([_occupied(record, times, states) for record in finished])
    count = np.isfinite(occupied[..., 0]).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(occupied, axis=0) / count[:, None]
        error = np.sqrt(mean * (1 - mean) / count[:, None])
    return Populations(times, mean, error, count, len(records) - len(finished))


def _occupied(record: Any, times: Array, states: int) -> Array:
    """Which state one trajectory is in, as 0 and 1 in (t, states); NaN after its end."""
    since, state = np.array(record["visits"]).T
    visit = np.searchsorted(since, times + 1e-9, side="right") - 1
    occupied: Array = np.eye(states)[state.astype(int)[visit]]
    occupied[(times > record["fs"] + 1e-9) | (visit < 0)] = np.nan
    return occupied


def recorded(file: Path) -> list[dict[str, Any]]:
    """Read the trajectories of one walker; lines that were cut short are left out."""
    found: dict[int, dict[str, Any]] = {}
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
            found[record["trajectory"]] = record
        except (ValueError, TypeError, KeyError):
            continue
    return list(found.values())


def record(directory: Path, entry: dict[str, Any]) -> None:
    """Append one trajectory in a single write, on a line of its own."""
    file = directory / FILE
    with file.open("ab+") as handle:
        # A crash may have cut the last line short; what follows must not hang on to it.
        torn = handle.tell() > 0 and not _ends_with_newline(handle)
        handle.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")


def _ends_with_newline(handle: BinaryIO) -> bool:
    handle.seek(-1, os.SEEK_END)
    return handle.read(1) == b"\n"
