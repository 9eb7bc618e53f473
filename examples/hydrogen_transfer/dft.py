"""What some dozens of DFT labels are good for, on reactions that no campaign sees.

python dft.py label        # writes heldout-dft.extxyz: minutes on one core; it is there already
python dft.py folds        # learns from two thirds of these reactions, judges by the others
python dft.py dft.toml     # compares xTB, and xTB with what the campaign has learnt, with DFT
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from barriers import HERE, KCAL, ORACLE, Surface, committee
from make_reactions import TIMES_FS

from pal.building import nested
from pal.kernels.atoms import to_label, to_sample
from pal.records import Batch, LabelledSample
from pal.roles import Context
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
        for moment in TIMES:
            atoms = surface.put(fall[TIMES_FS.index(moment)])
            with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
                energy, forces = atoms.get_potential_energy(), atoms.get_forces().round(5)
            frame = Atoms(atoms.numbers, atoms.positions)
            frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
            done.append(frame)
            print(frame.symbols, moment, "fs", energy, flush=True)
    write(HERE / "heldout-dft.extxyz", done, format="extxyz")


def folds(seconds: float = 12.0) -> None:
    """Print the errors of xTB, and of xTB with a correction that has learnt other reactions."""
    frames = read(HERE / "heldout-dft.extxyz", ":")
    dataset = [LabelledSample(n, to_sample(f), to_label(f)) for n, f in enumerate(frames)]
    model = load(HERE / "dft.toml").model
    for fold in range(3):
        other = [n // len(TIMES) % 3 == fold for n in range(len(frames))]
        with tempfile.TemporaryDirectory() as folder:
            context = Context("model", 0, 1, 0, Path(folder), training=True)
            learner = nested(
                "model", {"kernel": model.kernel, "options": model.options}, context, ""
            )
        until = time.process_time() + seconds
        for _ in learner.train(
            [item for item, out in zip(dataset, other, strict=True) if not out]
        ):
            if time.process_time() > until:
                break
        kept = [frame for frame, out in zip(frames, other, strict=True) if out]
        print(
            f"fold {fold}: {len(frames) - len(kept)} labels to learn from, {len(kept)} to judge by"
        )
        tell({"xTB": Surface(ORACLE), "xTB and what was learnt": asked(learner)}, kept)


def asked(learner: Any) -> Surface:
    """Return the surface of a model."""
    surface = Surface(ORACLE)
    surface.label = lambda sample: {k: a[0] for k, a in learner.predict(Batch([sample])).items()}
    return surface


def tell(surfaces: dict[str, Surface], frames: list[Atoms]) -> None:
    """Print the errors of forces, and of energies below the top of each barrier."""
    print("| surface | forces, meV/Å | energies below the top, kcal/mol |")
    print("|---|---|---|")
    for name, surface in surfaces.items():
        puts = list(zip([surface.put(frame) for frame in frames], frames, strict=True))
        force = np.concatenate([np.abs(p.get_forces() - f.get_forces()) for p, f in puts]).mean()
        off = np.array([p.get_potential_energy() - f.get_potential_energy() for p, f in puts])
        below = off.reshape(-1, len(TIMES))
        height = np.abs(below[:, 1:] - below[:, :1]).mean()
        print(f"| {name} | {1000 * force:.0f} | {height / KCAL:.2f} |")


def compare(settings: Path) -> None:
    """Print the errors of xTB and of a campaign's committee."""
    learnt = committee(settings, load(settings).directory)
    frames = read(HERE / "heldout-dft.extxyz", ":")
    tell({"xTB": Surface(ORACLE), "xTB and what was learnt": learnt}, frames)


if __name__ == "__main__":
    if sys.argv[1] == "label":
        label()
    elif sys.argv[1] == "folds":
        folds()
    else:
        compare(Path(sys.argv[1]))
