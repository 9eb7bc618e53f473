"""Write methaniminium.xyz, excited.xyz and apart.xyz: the molecule, and how light finds it.

CH2NH2+ is relaxed in its ground state, B3LYP/6-31G*; its second derivatives give the Wigner
distribution of its vibrations at 0 K, from which positions and momenta are drawn. Vertical
excitation leaves both as they are. The frames of apart.xyz are not for the campaign: trajectories
on the oracle itself begin there, by which it is judged. It takes about a minute on one core; the
results are in the repository.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from truth import relaxed, rounded, second_derivatives, wigner

from pal.kernels.generators.parts.vibrations import normal_modes
from pal.kernels.oracles.pyscf import PySCF
from pal.roles import Context

HERE = Path(__file__).parent
FRAMES, APART = 96, 12
SKETCH = Atoms(
    "CNH4",
    [
        [0.0, 0.0, 0.60],
        [0.0, 0.0, -0.68],
        [0.0, 0.94, 1.15],
        [0.0, -0.94, 1.15],
        [0.0, 0.87, -1.20],
        [0.0, -0.87, -1.20],
    ],
)


if __name__ == "__main__":
    oracle = PySCF(
        Context("oracle", 0, 1, 0, HERE),
        functional="B3LYP",
        basis="6-31G*",
        grid_level=3,
        charge=1,
    )
    minimum = relaxed(SKETCH, oracle)
    hessian = second_derivatives(minimum, oracle)
    wavenumbers, _ = normal_modes(minimum, hessian)
    print("wavenumbers, 1/cm:", np.round(wavenumbers).astype(int).tolist())
    minimum.info["charge"] = 1
    rounded(HERE / "methaniminium.xyz", [minimum])
    frames = list(wigner(minimum, hessian, FRAMES, kelvin=0.0, seed=1))
    rounded(HERE / "excited.xyz", frames[APART:])
    rounded(HERE / "apart.xyz", frames[:APART])
    kinetic = np.mean([frame.get_kinetic_energy() for frame in frames])
    print(f"{len(frames)} frames, mean kinetic energy {kinetic:.3f} eV")
