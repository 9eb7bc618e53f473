"""Write heldout.extxyz: 200 frames of xTB dynamics that no model ever learns from.

Langevin dynamics on the xTB forces themselves, from the three minima at two temperatures; the
frames are 100 fs apart. It takes about five minutes on one core; the result is in the
repository.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from tblite.ase import TBLite

from pal.kernels.atoms import to_label, to_sample, write_labelled
from pal.records import LabelledSample

HERE = Path(__file__).parent
TEMPERATURES_K = (300.0, 500.0)
FRAMES = 204
SETTLE_STEPS, APART_STEPS = 1000, 100


def trajectory(atoms: Atoms, kelvin: float, frames: int, seed: int) -> Iterator[Atoms]:
    rng = np.random.default_rng(seed)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(
        atoms,
        timestep=1.0 * units.fs,
        temperature_K=kelvin,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(SETTLE_STEPS)
    for _ in range(frames):
        dynamics.run(APART_STEPS)
        yield atoms


if __name__ == "__main__":
    starts = read(HERE / "alanine.xyz", index=":")
    runs = [(atoms.copy(), kelvin) for atoms in starts for kelvin in TEMPERATURES_K]
    dataset = [
        LabelledSample(0, to_sample(frame), to_label(frame))
        for seed, (atoms, kelvin) in enumerate(runs)
        for frame in trajectory(atoms, kelvin, FRAMES // len(runs), 900 + seed)
    ]
    write_labelled(HERE / "heldout.extxyz", dataset)
