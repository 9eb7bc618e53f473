"""Write the reactions: which fragments there are, and every hydrogen transfer between two of them.

    python make_reactions.py

A site is a hydrogen atom of a closed-shell molecule, and what is left without it is the radical.
Two sites make a reaction, forth and back: D-H + A* -> D* + H-A. Each is written as a guess of
its transition state, both molecules as they are at rest, sharing the hydrogen on the straight
line between donor and acceptor. Donor, hydrogen and acceptor are always the first three atoms.

    reactions.xyz    those that the campaign explores
    unseen.xyz       those that no campaign ever sees: pairs of known sites, and new positions
    fragments.xyz    molecules and radicals alone, but for the new positions
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.io import write
from ase.optimize import BFGS
from tblite.ase import TBLite

HERE = Path(__file__).parent
FORMAMIDE = ("CONHHH", [[0, 0, 0], [1.21, 0, 0], [-0.74, 1.13, 0],
                        [-0.55, -0.95, 0], [-1.74, 1.03, 0], [-0.3, 2.04, 0]])  # fmt: skip
METHYLFORMAMIDE = ("CONHHCHHH", [[0, 0, 0], [1.21, 0, 0], [-0.74, 1.13, 0], [-0.55, -0.95, 0],
                   [-1.74, 1.03, 0], [-0.16, 2.46, 0], [0.93, 2.4, 0],
                   [-0.48, 3.01, 0.89], [-0.48, 3.01, -0.89]])  # fmt: skip
GLYCINE = ("CONHHCHHCONHH", [[0, 0, 0], [1.21, 0, 0], [-0.74, 1.13, 0], [-0.55, -0.95, 0],
           [-1.74, 1.03, 0], [-0.16, 2.46, 0], [0.46, 2.56, 0.89], [0.46, 2.56, -0.89],
           [-1.26, 3.5, 0], [-2.45, 3.2, 0], [-0.85, 4.78, 0], [0.13, 5.02, 0],
           [-1.54, 5.52, 0]])  # fmt: skip
"""N-formylglycinamide, H-CO-NH-CH2-CO-NH2: a glycine residue as it stands in a peptide."""

MOLECULES = {
    "methane": molecule("CH4"),
    "ethane": molecule("C2H6"),
    "methanol": molecule("CH3OH"),
    "methylamine": molecule("H3CNH2"),
    "dimethyl ether": molecule("CH3OCH3"),
    "acetamide": molecule("CH3CONH2"),
    "formamide": Atoms(*FORMAMIDE),
    "N-methylformamide": Atoms(*METHYLFORMAMIDE),
    "glycine": Atoms(*GLYCINE),
}

SITES = {
    "methane C": ("methane", 1),
    "ethane C": ("ethane", 2),
    "methanol C": ("methanol", 4),
    "methanol O": ("methanol", 3),
    "methylamine C": ("methylamine", 2),
    "methylamine N": ("methylamine", 3),
    "dimethyl ether C": ("dimethyl ether", 4),
    "acetamide C": ("acetamide", 5),
    "formamide C": ("formamide", 3),
}
NEW = {
    "N-methylformamide CA": ("N-methylformamide", 7),
    "glycine CA": ("glycine", 6),
}
STRETCH = 0.25
"""In Å: how much longer than a bond the hydrogen's two distances are in a guess."""


def relaxed(atoms: Atoms, fmax: float = 0.01) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=fmax, steps=500)
    return Atoms(atoms.numbers, atoms.positions)


def oriented(site: tuple[str, int], minima: dict[str, Atoms]) -> tuple[Atoms, Atoms]:
    """Return a site's heavy atom (first) with the rest, its hydrogen on the axis +z: at 0, 0, 0."""
    name, hydrogen = site
    atoms = minima[name].copy()
    heavy = int(np.argsort(atoms.get_distances(hydrogen, range(len(atoms))))[1])
    atoms.positions -= atoms.positions[heavy]
    atoms.rotate(atoms.positions[hydrogen], "z")
    rest = [i for i in range(len(atoms)) if i not in (heavy, hydrogen)]
    return atoms[[heavy]], atoms[rest]


def guess(donor: str, acceptor: str, minima: dict[str, Atoms]) -> Atoms:
    """Return the guess of a transition state: donor, hydrogen, acceptor, and all the others."""
    sites = SITES | NEW
    (one, others), (two, more) = (oriented(sites[name], minima) for name in (donor, acceptor))
    radius = covalent_radii[1] + STRETCH
    reach = [radius + covalent_radii[each.numbers[0]] for each in (one, two)]
    for part in (two, more):
        part.rotate(180, "x")
        part.positions += [0, 0, sum(reach)]

    def whole(turn: float) -> Atoms:
        turned = more.copy()
        turned.rotate(turn, "z")
        return one + Atoms("H", [[0, 0, reach[0]]]) + two + others + turned

    def room(turn: float) -> float:
        between = whole(turn).get_all_distances()[3 : 3 + len(others), 3 + len(others) :]
        return float(between.min())

    best = max(range(0, 360, 10), key=room)
    atoms = whole(best)
    atoms.info |= {"donor": donor, "acceptor": acceptor}
    return atoms
