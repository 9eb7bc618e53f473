"""Write the reactions: which fragments there are, and every hydrogen transfer between two of them.

    python make_reactions.py        # a few minutes on one core; the results are in the repository

A site is a hydrogen atom of a closed-shell molecule, and what is left without it is the radical.
Two sites make a reaction, there and back: D-H + A* -> D* + H-A. Each is written as a guess of
its transition state, both molecules as they are at rest, sharing the hydrogen on the straight
line between donor and acceptor. Donor, hydrogen and acceptor are always the first three atoms.

    reactions.xyz         those that campaigns explore
    unseen.xyz            those that no campaign sees, pairs of known sites and new positions:
                          their transition states by the oracle
    unseen.json           the barriers of the latter, by the oracle
    heldout.extxyz        labelled geometries of the latter, from dynamics off their barriers
    fragments.xyz         molecules and radicals on their own, but not the new radicals
    unseen_fragments.xyz  all of them, for the barriers
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from barriers import ORACLE, Barrier, Surface, barrier

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
METHYLACETAMIDE = ("CONCHHHHCHHH", [[0, 0, 0], [1.21, 0, 0], [-0.74, 1.13, 0], [-0.75, -1.3, 0],
                   [-0.09, -2.16, 0], [-1.39, -1.35, 0.88], [-1.39, -1.35, -0.88],
                   [-1.74, 1.03, 0], [-0.16, 2.46, 0], [0.93, 2.4, 0],
                   [-0.48, 3.01, 0.89], [-0.48, 3.01, -0.89]])  # fmt: skip
AMINOETHANAL = ("COHCHHNHH", [[0, 0.46, 0], [1.22, 0.36, 0], [-0.48, 1.47, 0], [-0.95, -0.7, 0],
                [-1.6, -0.65, 0.88], [-1.6, -0.65, -0.88], [-0.25, -1.98, 0],
                [0.35, -2.02, 0.82], [0.35, -2.02, -0.82]])  # fmt: skip
GLYCINAMIDE = ("CONHHCHHNHH", [[0, 0, 0], [1.21, 0, 0], [-0.74, 1.13, 0], [-1.74, 1.03, 0],
               [-0.3, 2.04, 0], [-0.75, -1.32, 0], [-1.39, -1.38, 0.88], [-1.39, -1.38, -0.88],
               [0.15, -2.47, 0], [0.77, -2.42, 0.8], [0.77, -2.42, -0.8]])  # fmt: skip
FORMYLAMINOETHANAL = ("CONHHCHHCOH", [*GLYCINE[1][:10], [-0.92, 4.55, 0]])
"""N-formylaminoethanal, H-CO-NH-CH2-CHO."""

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
    "acetaldehyde": molecule("CH3CHO"),
    "N-methylacetamide": Atoms(*METHYLACETAMIDE),
    "aminoethanal": Atoms(*AMINOETHANAL),
    "glycinamide": Atoms(*GLYCINAMIDE),
    "ethanol": molecule("CH3CH2OH"),
    "N-formylaminoethanal": Atoms(*FORMYLAMINOETHANAL),
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
MORE = {
    "acetaldehyde CA": ("acetaldehyde", 5),
    "N-methylacetamide CA": ("N-methylacetamide", 10),
    "aminoethanal CA": ("aminoethanal", 4),
    "glycinamide CA": ("glycinamide", 6),
    "ethanol O": ("ethanol", 3),
    "N-formylaminoethanal CA": ("N-formylaminoethanal", 6),
}
"""Radicals next to a carbonyl group, a nitrogen atom, or both: a peptide's are stabilised so. And
a second hydroxyl group, for transfers between two oxygen atoms that are not held out."""
NEW = {
    "N-methylformamide CA": ("N-methylformamide", 7),
    "glycine CA": ("glycine", 6),
}
"""Radical positions that no campaign sees: the alpha carbon of a peptide's backbone."""
STRETCH = 0.25
"""In Å: how much longer than a bond the hydrogen's two distances are in a guess."""
HELD_OUT = 12
"""How many pairs of known sites nobody trains on."""
KELVIN, TIMES_FS = 400.0, (0, 8, 16, 30, 50, 80)
"""Of the dynamics that begins at each barrier: its temperature, and when geometries are kept."""


def relaxed(surface: Surface, atoms: Atoms) -> Atoms:
    atoms = surface.put(atoms)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    return Atoms(atoms.numbers, atoms.positions)


def oriented(site: tuple[str, int], minima: dict[str, Atoms]) -> tuple[Atoms, Atoms]:
    """Return a site's heavy atom, at 0, 0, 0 with its hydrogen on the axis +z, and the rest."""
    name, hydrogen = site
    atoms = minima[name].copy()
    heavy = int(np.argsort(atoms.get_distances(hydrogen, range(len(atoms))))[1])
    atoms.positions -= atoms.positions[heavy]
    atoms.rotate(atoms.positions[hydrogen], "z")
    rest = [i for i in range(len(atoms)) if i not in (heavy, hydrogen)]
    return atoms[[heavy]], atoms[rest]


def guess(donor: str, acceptor: str, minima: dict[str, Atoms]) -> Atoms:
    """Return the guess of a transition state: donor, hydrogen, acceptor, and all the others."""
    sites = SITES | MORE | NEW
    (one, others), (two, more) = (oriented(sites[name], minima) for name in (donor, acceptor))
    radius = covalent_radii[1] + STRETCH
    reach = [radius + covalent_radii[each.numbers[0]] for each in (one, two)]
    for part in (two, more):
        part.rotate(180, "x", center=(0, 0, 0))
        part.positions += [0, 0, sum(reach)]

    def whole(turn: float) -> Atoms:
        turned = more.copy()
        turned.rotate(turn, "z", center=(0, 0, 0))
        return one + Atoms("H", [[0, 0, reach[0]]]) + two + others + turned

    def room(turn: float) -> float:
        between = whole(turn).get_all_distances()[3 : 3 + len(others), 3 + len(others) :]
        return float(between.min())

    atoms = whole(max(range(0, 360, 10), key=room))
    atoms.info |= {"donor": donor, "acceptor": acceptor}
    atoms.info["kind"] = "new position" if {donor, acceptor} & set(NEW) else "new pair"
    return atoms


def fragments(surface: Surface, minima: dict[str, Atoms]) -> dict[str, Atoms]:
    """Return molecule and radical of each site, relaxed, by their names."""
    found = {}
    for site, (name, hydrogen) in (SITES | MORE | NEW).items():
        radical = minima[name].copy()
        del radical[hydrogen]
        for kind, atoms in (("molecule", minima[name]), ("radical", relaxed(surface, radical))):
            named = Atoms(atoms.numbers, atoms.positions)
            named.info["name"] = f"{site}, {kind}"
            found[named.info["name"]] = named
    return found


def fall(surface: Surface, top: Atoms, seed: int) -> Iterator[Atoms]:
    """Yield labelled geometries of dynamics that begins at the top of a barrier."""
    rng = np.random.default_rng(seed)
    atoms = surface.put(top)
    thermalize_momenta(atoms, temperature_K=KELVIN, rng=rng)
    dynamics = Langevin(
        atoms,
        timestep=0.5 * units.fs,
        temperature_K=KELVIN,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=rng,
    )
    for time, before in zip(TIMES_FS, (0, *TIMES_FS), strict=False):
        dynamics.run(2 * (time - before))
        frame = Atoms(atoms.numbers, atoms.positions.round(5))
        exact = surface.put(frame)
        frame.calc = SinglePointCalculator(
            frame, energy=exact.get_potential_energy(), forces=exact.get_forces().round(5)
        )
        yield frame


def main() -> None:
    surface = Surface(ORACLE)
    minima = {name: relaxed(surface, atoms) for name, atoms in MOLECULES.items()}
    parts = fragments(surface, minima)
    pairs = list(combinations_with_replacement(SITES, 2))
    order = np.random.default_rng(7).permutation(len(pairs))
    further = [p for p in combinations_with_replacement(SITES | MORE, 2) if set(p) & set(MORE)]
    known: list[Barrier] = []
    frames: dict[str, list[Atoms]] = {"reactions.xyz": [], "unseen.xyz": [], "heldout.extxyz": []}
    for donor, acceptor in [pairs[i] for i in order] + [
        (new, site) for new in NEW for site in SITES
    ]:
        start = guess(donor, acceptor, minima)
        pair = start.info["kind"] == "new pair"
        found = None
        if not (pair and len(known) >= HELD_OUT):
            top = surface.transition(start)
            found = None if top is None else barrier(surface, start, top, parts)
        if found is not None:
            print(found, flush=True)
            known.append(found)
            frames["unseen.xyz"].append(Atoms(top.numbers, top.positions, info=start.info))
            frames["heldout.extxyz"] += fall(surface, top, len(known))
        elif pair:
            frames["reactions.xyz"].append(start)
    frames["reactions.xyz"] += [guess(*pair, minima) for pair in further]
    radicals = {f"{site}, radical" for site in NEW}
    frames["unseen_fragments.xyz"] = list(parts.values())
    frames["fragments.xyz"] = [a for name, a in parts.items() if name not in radicals]
    for name, atoms in frames.items():
        for each in atoms:
            each.positions = each.positions.round(5)
        write(HERE / name, atoms, format="extxyz")
    (HERE / "unseen.json").write_text(json.dumps([asdict(b) for b in known], indent=1) + "\n")


if __name__ == "__main__":
    main()
