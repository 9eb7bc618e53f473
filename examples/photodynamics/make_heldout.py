"""Write what the campaign is judged by, from trajectories that direct.py has run.

    python make_heldout.py run-direct                              # heldout.npz, direct/
    python make_heldout.py run-direct --name heldout-small --count 80 --relabel

NAME.npz holds labelled geometries; --relabel labels them anew as small.toml does. They are spread
evenly over all steps of all trajectories after the first 5 fs. direct/trajectories.jsonl holds the
hops in the form in which walkers of a campaign write theirs, for
`pal.kernels.generators.populations`. A trajectory for which there was no more time, or
whose energy jumped, counts as long as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pal.kernels.generators.populations import FILE, FINISHED, record
from pal.kernels.oracles.pyscf import PySCF
from pal.records import Array
from pal.roles import Context
from pal.settings import load

HERE = Path(__file__).resolve().parent
NUMBERS = np.array([6, 7, 1, 1, 1, 1])
EARLIEST_FS = 5.0
SOUND = (FINISHED, "out of time", "running", "drift")


def read(folder: Path) -> list[dict[str, Array]]:
    """Read the trajectories of a folder."""
    found = []
    for path in sorted(folder.glob("trajectory-*.npz")):
        if path.stem.endswith(".part"):
            continue
        with np.load(path) as data:
            found.append({name: data[name] for name in data.files})
    return found


def heldout(trajectories: list[dict[str, Array]], count: int) -> dict[str, Array]:
    """Choose labelled geometries, evenly."""
    joined = {
        name: np.concatenate(
            [each[name][each["times_fs"] >= EARLIEST_FS] for each in trajectories]
        )
        for name in ("positions", "energies", "state_forces")
    }
    steps = len(joined["energies"])
    chosen = np.unique(np.linspace(0, steps - 1, min(count, steps)).round().astype(int))
    return {
        "sample/positions": joined["positions"][chosen].round(5),
        "sample/numbers": np.repeat(NUMBERS[None], len(chosen), axis=0),
        "sample/charge": np.ones(len(chosen)),
        "label/energies": joined["energies"][chosen].round(5),
        "label/state_forces": joined["state_forces"][chosen].round(4).astype(np.float32),
    }


def relabelled(chosen: Mapping[str, Array]) -> dict[str, Array]:
    """Return the labels of another oracle for the same geometries."""
    oracle = PySCF(Context("oracle", 0, 1, 0, HERE), **load(HERE / "small.toml").oracle.options)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        labels = [
            oracle.label({"positions": positions, "numbers": NUMBERS})
            for positions in chosen["sample/positions"]
        ]
    return {
        "label/energies": np.array([label["energies"] for label in labels]).round(5),
        "label/state_forces": np.array(
            [label["state_forces"] for label in labels], dtype=np.float32
        ).round(4),
    }


def hops(trajectory: Mapping[str, Array], number: int) -> dict[str, Any]:
    """Return the states of a trajectory over time as a walker writes them."""
    times, active = trajectory["times_fs"], trajectory["active"]
    changed = np.flatnonzero(np.diff(active, prepend=-1))
    end = str(trajectory["end"])
    return {
        "trajectory": number,
        "end": FINISHED if end in SOUND else end,
        "states": trajectory["energies"].shape[1],
        "fs": float(times[-1]),
        "visits": [[float(times[step]), int(active[step])] for step in changed],
    }


def main() -> None:
    """Read the command line, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where direct.py wrote")
    parser.add_argument("--name", default="heldout")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--relabel", action="store_true", help="with the oracle of small.toml")
    given = parser.parse_args()
    trajectories = read(given.folder)
    chosen = heldout(trajectories, given.count)
    if given.relabel:
        chosen |= relabelled(chosen)
    np.savez_compressed(HERE / f"{given.name}.npz", allow_pickle=False, **chosen)
    print(f"{given.name}.npz: {len(chosen['sample/charge'])} of {len(trajectories)} trajectories")
    if given.name == "heldout":
        folder = HERE / "direct"
        folder.mkdir(exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)
        for number, trajectory in enumerate(trajectories):
            record(folder, hops(trajectory, number))


if __name__ == "__main__":
    main()
