"""Write sulfone.xyz: 3-methyl-4'-phenyl-diphenylsulfone, with which the cluster's walkers begin.

The molecule is built from textbook bond lengths and angles and relaxed with GFN2-xTB; the second
derivatives of the same method give the Wigner distribution of its vibrations at 300 K, from which
positions and momenta are drawn. Modes below 100 1/cm, in which whole
rings and the methyl group turn, are not harmonic and stay at rest: the softest are zero within the
noise of the differences. It takes about a minute on one core; the result is in the repository.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from truth import relaxed, rounded, second_derivatives, wigner

from pal.kernels.generators.parts.vibrations import normal_modes
from pal.kernels.oracles.xtb import Xtb
from pal.records import Array

HERE = Path(__file__).parent
FRAMES = 89
SOFTEST = 100.0
"""In 1/cm."""
BENZENE, CH, CC, CS, SO, METHYL = 1.39, 1.09, 1.48, 1.77, 1.44, 1.51
"""Bond lengths in Å."""


def unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))


def ring(anchor: Array, axis: Array, across: Array) -> tuple[Array, Array]:
    """Return six carbons of a ring, the first one at `anchor`, and the directions outwards.

    The axis leads from the first carbon to the fourth one; `across` lies in the ring's plane.
    """
    across = unit(across - axis * (across @ axis))
    angles = np.pi + np.arange(6) * np.pi / 3
    outwards = np.cos(angles)[:, None] * axis + np.sin(angles)[:, None] * across
    return anchor + BENZENE * (axis + outwards), outwards


def sketch() -> Atoms:
    """Build the molecule: sulphur, two oxygens, tolyl, and biphenyl."""
    half = np.radians(104.0) / 2
    left = np.array([-np.sin(half), 0.0, np.cos(half)])
    right = np.array([np.sin(half), 0.0, np.cos(half)])
    up = np.array([0.0, 1.0, 0.0])
    symbols, places = ["S", "O", "O"], [np.zeros(3)]
    tilt = np.radians(120.0) / 2
    places += [SO * np.array([0.0, side * np.sin(tilt), -np.cos(tilt)]) for side in (1, -1)]

    def add(symbol: str, place: Array) -> None:
        symbols.append(symbol)
        places.append(place)

    def decorate(carbons: Array, outwards: Array, bare: set[int]) -> None:
        for number, (carbon, out) in enumerate(zip(carbons, outwards, strict=True)):
            add("C", carbon)
            if number not in bare:
                add("H", carbon + CH * out)

    tolyl, out = ring(CS * left, left, up)
    decorate(tolyl, out, {0, 2})
    methyl = tolyl[2] + METHYL * out[2]
    add("C", methyl)
    normal = np.cross(left, up)
    aside = np.cross(out[2], normal)
    for turn in np.radians([0.0, 120.0, 240.0]):
        sideways = np.cos(turn) * normal + np.sin(turn) * aside
        add("H", methyl + CH * (out[2] / 3 + sideways * np.sqrt(8) / 3))
    inner, out = ring(CS * right, right, up)
    decorate(inner, out, {0, 3})
    twisted = np.cos(np.radians(40.0)) * up + np.sin(np.radians(40.0)) * np.cross(right, up)
    outer, out = ring(inner[3] + CC * right, right, twisted)
    decorate(outer, out, {0})
    # Shaken, so that no symmetry of the drawing keeps it on a saddle.
    return Atoms(symbols, np.array(places) + np.random.default_rng(0).normal(0, 0.05, (38, 3)))


if __name__ == "__main__":
    oracle = Xtb()
    minimum = relaxed(sketch(), oracle, fmax=0.001)
    hessian = second_derivatives(minimum, oracle)
    wavenumbers, _ = normal_modes(minimum, hessian)
    moving = int((wavenumbers >= SOFTEST).sum())
    print(f"{minimum.get_chemical_formula()}, {len(minimum)} atoms; lowest wavenumbers, 1/cm:")
    print(np.round(wavenumbers[:14]).astype(int).tolist(), f"{moving} modes at {SOFTEST} or above")
    frames = list(wigner(minimum, hessian, FRAMES, kelvin=300.0, seed=2, softest=SOFTEST))
    rounded(HERE / "sulfone.xyz", frames)
    kinetic = np.mean([frame.get_kinetic_energy() for frame in frames])
    print(f"{len(frames)} frames, mean kinetic energy {kinetic:.3f} eV")
