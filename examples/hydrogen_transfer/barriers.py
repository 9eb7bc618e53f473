"""Barriers of the unseen reactions: on the oracle's surface, and on a campaign's committee's.

    python barriers.py pal.toml                     # of its run: a table, barriers.json and .svg
    python barriers.py pal.toml --run run-compare/active-0 --run run-compare/random-0

On each surface the transition state is searched from the oracle's, so that both are of the same
conformer, and molecule and radical of donor and acceptor are relaxed on their own; barriers are
differences to these. The oracle's own results are in unseen.json, which make_reactions.py wrote.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms, units
from ase.constraints import FixBondLengths
from ase.io import read
from ase.optimize import BFGS, FIRE
from sella import Sella

from pal.building import nested
from pal.errors import LabelFailure
from pal.kernels.calculator import CommitteeCalculator
from pal.records import Feedback
from pal.roles import Context, Oracle
from pal.settings import load

HERE = Path(__file__).parent
KCAL = units.kcal / units.mol
ORACLE = {"kernel": "xtb", "options": {"spin_polarisation": True}}
KINDS = {"new pair": "o", "new position": "^"}
"""What is new of an unseen reaction, and its mark in the plot."""
FMAX, STEPS, LONGEST = 0.02, 200, 1.9
"""eV/Å; force calls of a search; and Å, of both bonds of a hydrogen in transit."""


@dataclass(frozen=True)
class Barrier:
    """Of one reaction, in kcal/mol: there and back. The transition state's two distances in Å."""

    donor: str
    acceptor: str
    kind: str
    forward: float
    reverse: float
    to_donor: float
    to_acceptor: float


class Surface:
    """A potential energy surface, of an oracle or of a committee that is asked like one."""

    def __init__(self, table: dict[str, Any], folder: Path = HERE) -> None:
        oracle: Oracle = nested("oracle", table, Context("oracle", 0, 1, 0, folder), "surface")
        self.label: Callable[[Any], Any] = oracle.label
        self._relaxed: dict[str, float] = {}

    def put(self, atoms: Atoms) -> Atoms:
        """Return a copy of atoms that has this surface as its calculator."""
        atoms = Atoms(atoms.numbers, atoms.positions)
        atoms.calc = CommitteeCalculator(lambda s: Feedback(self.label(s), {}, 0.0, True, 0))
        return atoms

    def minimum(self, atoms: Atoms, name: str) -> float:
        """Return the energy (eV) of a relaxed fragment."""
        if name not in self._relaxed:
            atoms = self.put(atoms)
            BFGS(atoms, logfile=None).run(fmax=FMAX, steps=300)
            self._relaxed[name] = atoms.get_potential_energy()
        return self._relaxed[name]

    def transition(self, guess: Atoms) -> Atoms | None:
        """Search the transition state from a guess; None where there is none of this reaction.

        At first the hydrogen's two distances are kept, while all else makes itself comfortable.
        """
        atoms = self.put(guess)
        try:
            atoms.set_constraint(FixBondLengths([[0, 1], [1, 2]]))
            FIRE(atoms, logfile=None).run(fmax=0.1, steps=100)
            atoms.set_constraint()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = Sella(atoms, order=1, internal=False, logfile=None).run(FMAX, STEPS)
        except (LabelFailure, np.linalg.LinAlgError, RuntimeError):
            return None
        return atoms if found and max(transit(atoms)) < LONGEST else None


def transit(atoms: Atoms) -> tuple[float, float]:
    """Return the distances (Å) of the hydrogen from donor and acceptor."""
    return float(atoms.get_distance(0, 1)), float(atoms.get_distance(1, 2))


def barrier(surface: Surface, guess: Atoms, top: Atoms, fragments: dict[str, Atoms]) -> Barrier:
    """Return the barrier of a reaction that has this transition state, reached from a guess."""
    donor, acceptor = guess.info["donor"], guess.info["acceptor"]
    energy = top.get_potential_energy()

    def height(molecule: str, radical: str) -> float:
        parts = [f"{molecule}, molecule", f"{radical}, radical"]
        below = [surface.minimum(fragments[name], name) for name in parts]
        return float((energy - sum(below)) / KCAL)

    forward, reverse = height(donor, acceptor), height(acceptor, donor)
    return Barrier(donor, acceptor, guess.info["kind"], forward, reverse, *transit(top))


def unseen() -> tuple[list[Atoms], dict[str, Atoms], dict[tuple[str, str], Barrier]]:
    """Return the oracle's transition states, the fragments by name, and its barriers."""
    guesses = read(HERE / "unseen.xyz", index=":")
    fragments = {atoms.info["name"]: atoms for atoms in read(HERE / "unseen_fragments.xyz", ":")}
    known = [Barrier(**item) for item in json.loads((HERE / "unseen.json").read_text())]
    return guesses, fragments, {(b.donor, b.acceptor): b for b in known}


@cache
def committee(settings: Path, run: Path) -> Surface:
    """Return the surface of a campaign's newest weights, the same throughout a process."""
    model = load(settings).model
    options = {name: value for name, value in model.options.items() if name != "checkpoint"}
    table = {"kernel": model.kernel, "options": options}
    return Surface({"kernel": "teacher", "options": {"model": table, "weights": run}})


def own(settings: Path, run: Path, guess: Atoms) -> Barrier | None:
    """Return a reaction's barrier on the surface of a campaign's committee, if there is one."""
    surface = committee(settings, run)
    top = surface.transition(guess)
    return None if top is None else barrier(surface, guess, top, unseen()[1])


def compared(
    settings: Path, run: Path, processes: int = 1
) -> list[tuple[Barrier, Barrier | None]]:
    """Return the oracle's barrier of each unseen reaction, with that of a campaign's committee."""
    guesses, _, known = unseen()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        found = list(pool.map(partial(own, settings, run), guesses))
    told = [known[guess.info["donor"], guess.info["acceptor"]] for guess in guesses]
    return list(zip(told, found, strict=True))


def errors(pairs: list[tuple[Barrier, Barrier | None]], kind: str) -> np.ndarray:
    """Return the errors (kcal/mol) of the barriers there and back of all reactions of a kind."""
    both = [(mine, own) for mine, own in pairs if mine.kind == kind and own is not None]
    parts = ("forward", "reverse")
    return np.array([getattr(own, p) - getattr(mine, p) for mine, own in both for p in parts])


def tell(pairs: list[tuple[Barrier, Barrier | None]]) -> None:
    print("| donor | acceptor | oracle, there and back | committee, there and back |")
    print("|---|---|---|---|")
    for mine, own in pairs:
        found = "no transition state" if own is None else f"{own.forward:.1f}, {own.reverse:.1f}"
        names = f"| {mine.donor} | {mine.acceptor}"
        print(f"{names} | {mine.forward:.1f}, {mine.reverse:.1f} | {found} |")
    for kind in KINDS:
        off = errors(pairs, kind)
        lost = sum(own is None for mine, own in pairs if mine.kind == kind)
        if off.size:
            print(
                f"{kind}: {off.size} barriers, mean error {np.abs(off).mean():.2f}, median "
                f"{np.median(np.abs(off)):.2f}, largest {np.abs(off).max():.2f} kcal/mol; "
                f"{lost} transition states not found"
            )


def draw(pairs: list[tuple[Barrier, Barrier | None]], path: Path) -> None:
    """Write the parity plot."""
    figure, axes = plt.subplots(figsize=(4.6, 4.4))
    ends = np.array([-40.0, 40.0])
    axes.fill_between(ends, ends - 1, ends + 1, color="0.9", label="± 1 kcal/mol")
    for kind, mark in KINDS.items():
        both = [(mine, own) for mine, own in pairs if mine.kind == kind and own is not None]
        x = [value for mine, _ in both for value in (mine.forward, mine.reverse)]
        y = [value for _, own in both for value in (own.forward, own.reverse)]
        mean = np.abs(errors(pairs, kind)).mean()
        axes.plot(x, y, mark, ms=5, alpha=0.8, label=f"{kind}: {mean:.2f} kcal/mol")
    axes.set(xlabel="oracle, kcal/mol", ylabel="committee, kcal/mol", title="Barriers never seen")
    values = [v for mine, own in pairs if own for b in (mine, own) for v in (b.forward, b.reverse)]
    axes.set(xlim=(min(values) - 2, max(values) + 2), ylim=(min(values) - 2, max(values) + 2))
    axes.legend(frameon=False, loc="lower right", fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("settings", type=Path, help="the settings file of the campaign")
    parser.add_argument("--run", type=Path, action="append", help="its directory, or several")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    for run in given.run or [load(given.settings).directory]:
        print(f"\n{run}")
        pairs = compared(given.settings, run, given.processes)
        tell(pairs)
        rows = [[asdict(mine), own and asdict(own)] for mine, own in pairs]
        (run / "barriers.json").write_text(json.dumps(rows, indent=1) + "\n")
        draw(pairs, run / "barriers.svg")


if __name__ == "__main__":
    main()
