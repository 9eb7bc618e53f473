"""Write alanine.xyz: the three minima of alanine dipeptide where the walkers start.

The extended chain is built from textbook bond lengths and angles, its two backbone dihedrals
are turned, and each conformer is relaxed with GFN2-xTB. Run it once: the result is in the
repository.
"""

from pathlib import Path

from ase import Atoms
from ase.io import write
from ase.optimize import BFGS
from tblite.ase import TBLite

EXTENDED = """\
H 2.000 1.000  0.000
C 2.000 2.090  0.000
H 1.486 2.454  0.890
H 1.486 2.454 -0.890
C 3.427 2.641  0.000
O 4.391 1.877  0.000
N 3.555 3.970  0.000
H 2.733 4.556  0.000
C 4.853 4.614  0.000
H 5.408 4.316  0.890
C 5.661 4.221 -1.232
H 5.123 4.521 -2.131
H 6.630 4.719 -1.206
H 5.809 3.141 -1.241
C 4.713 6.129  0.000
O 3.601 6.653  0.000
N 5.846 6.835  0.000
H 6.737 6.359  0.000
C 5.846 8.284  0.000
H 4.819 8.648  0.000
H 6.360 8.648  0.890
H 6.360 8.648 -0.890
"""
PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)
MINIMA = {"C7eq": (-83, 75), "C5": (-150, 160), "C7ax": (72, -55)}
"""Names and rough (phi, psi) in degrees, as in any textbook's Ramachandran plot."""


def conformer(name: str) -> Atoms:
    rows = [line.split() for line in EXTENDED.splitlines()]
    atoms = Atoms([row[0] for row in rows], [[float(x) for x in row[1:]] for row in rows])
    phi, psi = MINIMA[name]
    atoms.set_dihedral(*PHI, phi, indices=range(9, 22))
    atoms.set_dihedral(*PSI, psi, indices=range(15, 22))
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=500)
    atoms.positions -= atoms.get_center_of_mass()
    angles = [(atoms.get_dihedral(*four) + 180) % 360 - 180 for four in (PHI, PSI)]
    print(f"{name}: {atoms.get_potential_energy():.4f} eV, phi, psi = {angles}")
    bare = Atoms(atoms.numbers, atoms.positions)
    bare.info["name"] = name
    return bare


if __name__ == "__main__":
    frames = [conformer(name) for name in MINIMA]
    write(Path(__file__).with_name("alanine.xyz"), frames, format="extxyz")
