"""Write frames of GFN1-xTB dynamics of all sizes and charges, which nobody chose.

heldout-xtb.extxyz: Bi4 to Bi8, labelled by GFN1-xTB itself; nothing ever learns from it.
geometries.xyz: Bi2 to Bi4, to be labelled by DFT with label.py. Rounds for the held-out data (all
temperatures; of Bi4, the size left out, in every other one) and rounds of pre-training data (the
lowest isomers of Bi2 and Bi3 at 300 K) take turns, so that any first part is as balanced as all.

Langevin dynamics, 5 fs a step, frames 1 ps apart. It takes about three minutes on one core; the
results are in the repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from make_starts import calculator

from pal.kernels.atoms import to_sample
from pal.kernels.oracles.xtb import Xtb

HERE = Path(__file__).parent
CHARGES = (-1, 0, 1)
HOT_K = (300.0, 600.0, 900.0)
COLD_K = (300.0,)
STEP_FS, APART_STEPS = 5.0, 200
DFT_SIZES, DFT_LEFT_OUT = (2, 3, 4), 4
DFT_ROUNDS = {"held out": 6, "pre-training": 3}
DFT_SETTLE, XTB_SETTLE = 400, 200
XTB_SIZES, XTB_ISOMERS, XTB_FRAMES = (4, 5, 6, 7, 8), 2, 12


def trajectory(
    start: Atoms, kelvin: float, settle: int, rng: np.random.Generator
) -> Iterator[Atoms]:
    """Yield frames of one trajectory without end; where it fails it begins anew."""
    while True:
        atoms = start.copy()
        atoms.calc = calculator(start.info["charge"])
        thermalize_momenta(atoms, temperature_K=kelvin, rng=rng)
        dynamics = Langevin(
            atoms,
            timestep=STEP_FS * units.fs,
            temperature_K=kelvin,
            friction=0.005 / units.fs,
            fixcm=False,
            rng=rng,
        )
        try:
            dynamics.run(settle)
            while True:
                dynamics.run(APART_STEPS)
                yield _frame(atoms, kelvin)
        except CalculationFailed:
            continue


def frames(
    isomers: list[Atoms], kelvins: tuple[float, ...], settle: int, seed: int
) -> Iterator[Atoms]:
    """Yield frames of several trajectories in turn: each isomer, each temperature."""
    rng = np.random.default_rng(seed)
    runs = [trajectory(isomer, kelvin, settle, rng) for isomer in isomers for kelvin in kelvins]
    # Begin with the lowest isomer at each temperature, but not always with the coldest.
    shift = seed % len(runs)
    for run in cycle(runs[shift:] + runs[:shift]):
        yield next(run)


def _frame(atoms: Atoms, kelvin: float) -> Atoms:
    frame = Atoms(atoms.numbers, np.round(atoms.positions - atoms.get_center_of_mass(), 5))
    frame.info.update(charge=atoms.info["charge"], temperature_K=kelvin)
    return frame


def of(starts: list[Atoms], size: int, charge: int) -> list[Atoms]:
    """Return the isomers of one size and charge."""
    return [a for a in starts if len(a) == size and a.info["charge"] == charge]


def for_dft(starts: list[Atoms]) -> Iterator[Atoms]:
    """Yield rounds of all sizes and charges, for the two purposes in turn."""
    systems = [(size, charge) for size in DFT_SIZES for charge in CHARGES]
    hot, cold = {}, {}
    for i, system in enumerate(systems):
        isomers = of(starts, *system)
        hot[system] = frames(isomers, HOT_K, DFT_SETTLE, 100 + i)
        cold[system] = frames(isomers[:1], COLD_K, DFT_SETTLE, 200 + i)
    for number in range(max(DFT_ROUNDS.values())):
        for purpose, runs in (("held out", hot), ("pre-training", cold)):
            for system, run in runs.items():
                frame = next(run)
                wanted = system[0] != DFT_LEFT_OUT or (purpose == "held out" and number % 2 == 0)
                if wanted and number < DFT_ROUNDS[purpose]:
                    frame.info["purpose"] = purpose
                    yield frame


def for_xtb(starts: list[Atoms]) -> Iterator[Atoms]:
    """Yield held-out frames with the labels of GFN1-xTB."""
    oracle = Xtb(method="GFN1-xTB")
    for number, size in enumerate(XTB_SIZES):
        for charge in CHARGES:
            isomers = of(starts, size, charge)[:XTB_ISOMERS]
            runs = frames(isomers, HOT_K, XTB_SETTLE, 300 + 3 * number + charge)
            for frame in islice(runs, XTB_FRAMES):
                yield labelled(frame, oracle)


def labelled(frame: Atoms, oracle: Xtb) -> Atoms:
    """Return the frame with energy and forces, rounded to what a file need hold."""
    label = oracle.label(to_sample(frame))
    energy, forces = round(float(label["energy"]), 5), np.round(label["forces"], 5) + 0.0
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
    del frame.info["temperature_K"]  # What is no part of the sample would be one of the label.
    return frame


if __name__ == "__main__":
    clusters = read(HERE / "clusters.xyz", index=":")
    write(HERE / "geometries.xyz", list(for_dft(clusters)), format="extxyz")
    write(HERE / "heldout-xtb.extxyz", list(for_xtb(clusters)), format="extxyz")
