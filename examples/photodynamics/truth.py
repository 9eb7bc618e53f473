"""What the scripts of this example share: an oracle asked directly, and Wigner's distribution."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.optimize import BFGS

from pal.kernels.atoms import to_sample
from pal.kernels.calculator import CommitteeCalculator
from pal.kernels.generators.parts import vibrations
from pal.kernels.generators.parts.bounds import Bounds
from pal.records import Array, Feedback, Sample
from pal.roles import Oracle

STEP = 0.005
"""In Å, of the finite differences."""


def told(oracle: Oracle) -> Callable[[Sample], Feedback]:
    """Return the oracle as a committee that is never in doubt."""

    def ask(sample: Sample) -> Feedback:
        label = oracle.label(sample)
        return Feedback(label, label, 0.0, True, 0)

    return ask


def relaxed(atoms: Atoms, oracle: Oracle, fmax: float = 0.002) -> Atoms:
    """Return the minimum nearest to these atoms, centred."""
    atoms = atoms.copy()
    atoms.calc = CommitteeCalculator(told(oracle))
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=500):
        raise RuntimeError(f"{atoms.symbols} did not relax to {fmax} eV/Å in 500 steps")
    atoms.positions -= atoms.get_center_of_mass()
    atoms.calc = None
    return atoms


def second_derivatives(atoms: Atoms, oracle: Oracle) -> Array:
    """Return the Hessian (3 a, 3 a) in eV/Å^2."""
    sample = to_sample(atoms)

    def forces(positions: Array) -> Array:
        return np.asarray(oracle.label({**sample, "positions": positions})["forces"])

    return vibrations.finite_differences(forces, sample["positions"], STEP)


def wigner(
    atoms: Atoms, hessian: Array, count: int, kelvin: float, seed: int, softest: float = 50.0
) -> Iterator[Atoms]:
    """Yield geometries with momenta from the Wigner distribution of the harmonic vibrations.

    Positions and momenta of each mode are independent, with the widths sigma of
    `pal.kernels.generators.parts.vibrations.wigner_width` and omega sigma: kinetic and potential
    energy are the same on average. Modes below `softest` (1/cm) stay at rest.
    """
    wavenumbers, directions = vibrations.normal_modes(atoms, hessian)
    moving = wavenumbers >= softest
    wavenumbers, directions = wavenumbers[moving], directions[moving]
    width = vibrations.wigner_width(wavenumbers, kelvin)
    speed = width * wavenumbers * units.invcm / vibrations.HBAR
    bounds = Bounds(atoms, "wigner", min_distance=0.5)
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        away, pace = rng.normal(size=(2, len(width)))
        frame = atoms.copy()
        frame.positions += np.tensordot(width * away, directions, axes=1)
        frame.set_velocities(np.tensordot(speed * pace, directions, axes=1))
        if bounds.hold(frame.positions):
            made += 1
            yield frame


def rounded(path: Path, frames: Sequence[Atoms], digits: int = 5) -> None:
    """Write an extended xyz file with fewer digits than ASE writes."""
    write(path, frames, format="extxyz")
    text = re.sub(
        r" *-?\d+\.\d{8}", lambda number: f" {float(number[0]):.{digits}f}", path.read_text()
    )
    path.write_text(text)
