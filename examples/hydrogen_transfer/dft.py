"""What some dozens of DFT labels are good for, on reactions that no campaign sees.

python dft.py label        # writes heldout-dft.extxyz: minutes on one core; it is there already
python dft.py dft.toml     # compares xTB, and xTB with what the campaign has learnt, with DFT
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from barriers import HERE, KCAL, ORACLE, Surface, committee
from make_reactions import TIMES_FS

from pal.settings import load

REACTIONS = 10
TIMES = (0, 30, 80)
"""In fs after the top of the barrier: what is labelled of the smallest reactions' dynamics."""


def label() -> None:
    """Label some of the held-out geometries with the oracle of dft.toml."""
    oracle = load(HERE / "dft.toml").oracle
    surface = Surface({"kernel": oracle.kernel, "options": oracle.options})
    frames = read(HERE / "heldout.extxyz", ":")
    falls = [frames[n : n + len(TIMES_FS)] for n in range(0, len(frames), len(TIMES_FS))]
    done: list[Atoms] = []
    for fall in sorted(falls, key=lambda fall: len(fall[0]))[:REACTIONS]:
        for time in TIMES:
            atoms = surface.put(fall[TIMES_FS.index(time)])
            with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
                energy, forces = atoms.get_potential_energy(), atoms.get_forces().round(5)
            frame = Atoms(atoms.numbers, atoms.positions)
            frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
            done.append(frame)
            print(frame.symbols, time, "fs", energy, flush=True)
    write(HERE / "heldout-dft.extxyz", done, format="extxyz")


def compare(settings: Path) -> None:
    """Print the errors of forces, and of energies below the top of each barrier."""
    frames = read(HERE / "heldout-dft.extxyz", ":")
    learnt = committee(settings, load(settings).directory)
    print("| surface | forces, meV/Å | energies below the top, kcal/mol |")
    print("|---|---|---|")
    for name, surface in (("xTB", Surface(ORACLE)), ("xTB and what was learnt", learnt)):
        puts = [surface.put(frame) for frame in frames]
        forces = [p.get_forces() - f.get_forces() for p, f in zip(puts, frames, strict=True)]
        off = [
            p.get_potential_energy() - f.get_potential_energy()
            for p, f in zip(puts, frames, strict=True)
        ]
        groups = [off[n : n + len(TIMES)] for n in range(0, len(off), len(TIMES))]
        below = np.abs([other - top for top, *others in groups for other in others]).mean()
        force = np.abs(np.concatenate(forces)).mean()
        print(f"| {name} | {1000 * force:.0f} | {below / KCAL:.2f} |")


if __name__ == "__main__":
    if sys.argv[1] == "label":
        label()
    else:
        compare(Path(sys.argv[1]))
