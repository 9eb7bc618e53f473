"""Label geometries.xyz with DFT, many at once, and write what is done as it comes.

    python label.py --processes 16 --seconds 480 --output labelled.extxyz

The oracle is that of pal.toml, so that the labels are those a campaign would make. The geometries
are taken in their order, see make_dynamics.py; what the output holds already is not made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from pal.errors import LabelFailure
from pal.kernels.atoms import to_sample
from pal.records import Label
from pal.roles import Context, Oracle

HERE = Path(__file__).parent
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def begin() -> None:
    """Make this process's oracle, and go to a scratch folder of its own."""
    global oracle
    from pal.kernels.oracles.pyscf import PySCF

    settings = tomllib.loads((HERE / "pal.toml").read_text())
    options = settings["oracle"]["options"]["oracle"]["options"]
    scratch = Path(tempfile.mkdtemp())
    os.chdir(HERE)
    oracle = PySCF(Context("oracle", 0, 1, 0, scratch), **options)
    os.chdir(scratch)


oracle: Oracle


def label(task: tuple[int, Atoms]) -> tuple[int, Label | str, float]:
    """Return the number of the frame, its label or why there is none, and the seconds it took."""
    number, atoms = task
    start = time.monotonic()
    try:
        found: Label | str = oracle.label(to_sample(atoms))
    except LabelFailure as error:
        found = str(error)
    return number, found, time.monotonic() - start


def main() -> None:
    """Label until all is done, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--geometries", type=Path, default=HERE / "geometries.xyz")
    parser.add_argument("--output", type=Path, default=HERE / "labelled.extxyz")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=3e6, help="stop after so long")
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    frames = read(given.geometries, index=":")
    kept = read(given.output, index=":") if given.output.exists() else []
    done = {int(atoms.info["number"]) for atoms in kept}
    tasks = [(number, atoms) for number, atoms in enumerate(frames) if number not in done]
    os.environ |= dict.fromkeys(ONE_THREAD, "1")
    with multiprocessing.get_context("spawn").Pool(given.processes, begin) as pool:
        results = pool.imap_unordered(label, tasks)
        while True:
            try:
                number, found, seconds = results.next(timeout=max(end - time.monotonic(), 0))
            except (StopIteration, multiprocessing.TimeoutError):
                break
            print(number, frames[number].symbols, frames[number].info, f"{seconds:.1f} s")
            if isinstance(found, str):
                print(f"  failed: {found}", flush=True)
            else:
                keep(given.output, number, frames[number], found)


def keep(path: Path, number: int, atoms: Atoms, found: Label) -> None:
    """Append a labelled frame, rounded to what a file need hold."""
    atoms.info["number"] = number
    energy, forces = round(float(found["energy"]), 5), np.round(found["forces"], 5) + 0.0
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    write(path, atoms, format="extxyz", append=True)
    print(f"  {energy:.4f} eV, largest force {np.abs(forces).max():.2f} eV/Å", flush=True)


if __name__ == "__main__":
    main()
