"""Surface hopping on the oracle itself, without any model: what the campaign is judged by.

    python direct.py --trajectories 12 --processes 12 --seconds 480 --folder run-direct

Each trajectory is a file FOLDER/trajectory-<n>.npz, written anew every few steps, so that whatever
ends the script leaves what was done: for each step `times_fs` (t,), `positions` and `velocities`
(t, atoms, 3), `active` (t,), `energies` (t, states) in eV, `state_forces` (t, states, atoms, 3) in
eV/Å, and how the trajectory came to its `end`. The same command goes on where trajectories were
out of time: what the files know is not calculated again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import multiprocessing
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from truth import told

from pal.errors import LabelFailure
from pal.kernels.direct import Ask
from pal.kernels.generators.parts.hopping import Moment
from pal.kernels.generators.populations import recorded
from pal.kernels.generators.surface_hopping import SurfaceHopping
from pal.kernels.oracles.pyscf import PySCF
from pal.records import Array, Feedback, Sample
from pal.roles import Context, Stop

HERE = Path(__file__).resolve().parent
FLUSH_STEPS = 5
OUTDATED, FAILED = "out of time", "label failed"


def known(path: Path) -> list[dict[str, Array]]:
    """Return the labels that an earlier run has left, one a step."""
    if not path.exists():
        return []
    with np.load(path) as data:
        columns = {name: data[name] for name in ("positions", "energies", "state_forces")}
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def remembering(ask: Ask, steps: list[dict[str, Array]]) -> Ask:
    """Answer from memory as long as it reaches, in the order of the steps."""
    left = iter(steps)

    def answer(sample: Sample) -> Feedback:
        step = next(left, None)
        if step is None:
            return ask(sample)
        if not np.allclose(step["positions"], sample["positions"], atol=1e-3):
            raise SystemExit("the files are of other trajectories: give another --folder")
        label = {name: step[name] for name in ("energies", "state_forces")}
        return Feedback(label, label, 0.0, True, 0)

    return answer


@dataclass
class Record:
    """The steps of one trajectory, and its file."""

    path: Path
    timestep_fs: float
    frame: int
    known: int = 0
    """Steps that the file had before."""
    moments: list[Moment] = field(default_factory=list)

    def note(self, moment: Moment | None) -> None:
        """Keep a step, once; steps taken back are forgotten."""
        if moment is None or (self.moments and moment is self.moments[-1]):
            return
        self.moments = [*self.moments[: moment.step], moment]
        if moment.step % FLUSH_STEPS == 0 and moment.step >= self.known:
            self.write("running")

    def write(self, end: str) -> None:
        """Write all steps; a file that exists is always whole."""
        if not self.moments:
            return
        unfinished = self.path.with_suffix(".part.npz")
        np.savez_compressed(
            unfinished,
            end=end,
            frame=self.frame,
            times_fs=np.array([m.step * self.timestep_fs for m in self.moments]),
            positions=np.array([m.positions for m in self.moments]),
            velocities=np.array([m.velocities for m in self.moments]),
            active=np.array([m.active for m in self.moments]),
            energies=np.array([m.energies for m in self.moments]),
            state_forces=np.array([m.forces for m in self.moments], dtype=np.float32),
        )
        unfinished.replace(self.path)


def fly(number: int, given: argparse.Namespace, deadline: float) -> str:
    """Run one trajectory, and say how it ended."""
    folder = given.folder.resolve() / f"walker-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context = Context("generator", number, given.trajectories, given.seed + number, folder)
    walker = SurfaceHopping(
        context,
        start=given.start,
        initial_state=given.initial_state,
        method=given.method,
        timestep_fs=given.timestep,
        max_time_fs=given.max_time_fs,
        max_drift_eV=given.max_drift_eV,
        trajectories=1,
        max_force=np.inf,
        min_distance=0.0,
    )
    ask = told(
        PySCF(
            context,
            functional=given.functional,
            basis=given.basis,
            grid_level=given.grid_level,
            charge=1,
            states=given.states,
            max_force=np.inf,
        )
    )
    path = folder.with_name(f"trajectory-{number:03}.npz")
    before = known(path)
    ask = remembering(ask, before)
    record = Record(path, given.timestep, number, len(before))
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        end = _steps(walker, ask, record, folder, deadline)
    record.write(end)
    return f"trajectory {number}: {end} after {len(record.moments) - 1} steps"


def _steps(walker: SurfaceHopping, ask: Ask, record: Record, folder: Path, deadline: float) -> str:
    sample = walker.step(None)
    while not isinstance(sample, Stop) and time.time() < deadline:
        try:
            sample = walker.step(ask(sample))
        except LabelFailure as failure:
            print(f"trajectory {record.frame}: {failure}", flush=True)
            return FAILED
        written = [entry for file in folder.glob("*.jsonl") for entry in recorded(file)]
        if written:
            return str(written[0]["end"])
        record.note(walker.get_state()["here"])
    return OUTDATED


def work(given: argparse.Namespace, deadline: float, counter: Any) -> None:
    """Take trajectories, one after the other, until there is none or no time."""
    while time.time() < deadline:
        with counter.get_lock():
            number = counter.value
            counter.value += 1
        if number >= given.trajectories:
            return
        try:
            print(fly(number, given, deadline), flush=True)
        except Exception:
            print(f"trajectory {number}:\n{traceback.format_exc()}", flush=True)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=12)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=np.inf, help="stop after this wall time")
    parser.add_argument("--folder", type=Path, default=Path("run-direct"))
    parser.add_argument("--start", type=Path, default=HERE / "apart.xyz")
    parser.add_argument("--initial-state", type=int, default=2)
    parser.add_argument("--states", type=int, default=3)
    parser.add_argument("--method", default="curvature")
    parser.add_argument("--max-time-fs", type=float, default=100.0)
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs")
    parser.add_argument("--max-drift-eV", type=float, default=0.5)
    parser.add_argument("--functional", default="B3LYP")
    parser.add_argument("--basis", default="6-31G*")
    parser.add_argument("--grid-level", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1000)
    return parser.parse_args()


def main() -> None:
    """Run the trajectories, one process per core."""
    given = options()
    given.folder.mkdir(parents=True, exist_ok=True)
    given.start = given.start.resolve()
    deadline = time.time() + given.seconds
    context = multiprocessing.get_context("spawn")
    counter = context.Value("i", 0)
    workers = [
        context.Process(target=work, args=(given, deadline, counter))
        for _ in range(min(given.processes, given.trajectories))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    steps = 0
    for path in sorted(given.folder.glob("trajectory-*.npz")):
        with np.load(path) as data:
            steps += len(data["times_fs"])
            print(f"{path.name}: {data['times_fs'][-1]:.1f} fs, {data['end']}")
    print(f"{steps} steps")


if __name__ == "__main__":
    main()
