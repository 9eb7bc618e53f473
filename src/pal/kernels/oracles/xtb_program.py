"""Semi-empirical quantum chemistry by the program xtb."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from scipy.spatial.transform import Rotation

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import to_atoms
from pal.kernels.oracles.electrons import Composition, composition, isolated
from pal.kernels.oracles.kept import Kept
from pal.kernels.oracles.program import find_program, last_words, run_program, text_of
from pal.kernels.oracles.sanity import sane
from pal.records import Array, Label, Sample
from pal.roles import Context

LOG, ERRORS = "xtb.log", "xtb.err"
TURN = Rotation.from_rotvec([0.3, 0.5, 0.7]).as_matrix()
"""Molecules are turned by this for the program, and forces turned back: its gradients are wrong,
by some 0.1 eV/Å, where two atoms agree exactly in a coordinate, as they do in many a file."""


class XtbProgram:
    """Semi-empirical energy and forces of molecules: GFN-xTB by the program xtb.

    Program: Bannwarth, Caldeweyher, Ehlert, Hansen, Pracht, Seibert, Spicher, Grimme, WIREs
    Comput. Mol. Sci. 11, e1493 (2021). For what only the program has; the oracle "xtb" gives the
    same numbers faster, as it starts no process per label. Each calculation begins with the
    charges of the last one of the same composition, kept in the oracle's own folder.

    Options:
        method: 0, 1 or 2 for GFN0-xTB, GFN1-xTB, GFN2-xTB.
        charge: total charge in e, where the sample carries none.
        spin: number of unpaired electrons, where the sample carries none; by default the lowest.
        solvent: name of an implicit solvent (ALPB), such as "water"; by default none.
        electronic_temperature: of the occupation, in K.
        accuracy: scales the thresholds of convergence; smaller is tighter.
        max_iterations: cycles until the calculation is given up.
        restart: begin with the charges of the last label of the same composition.
        program: name of the executable on PATH, or its path.
        max_force: in eV/Å; labels with a larger force component are refused.

    Example:
        [oracle]
        kernel = "xtb_program"
        workers = 4
        deadline = "1 min"
        options = { method = 2, charge = 1, solvent = "water" }
    """

    def __init__(
        self,
        context: Context,
        *,
        method: Literal[0, 1, 2] = 2,
        charge: int = 0,
        spin: int | None = None,
        solvent: str | None = None,
        electronic_temperature: float = 300.0,
        accuracy: float = 1.0,
        max_iterations: int = 250,
        restart: bool = True,
        program: str = "xtb",
        max_force: float = 50.0,
    ) -> None:
        if method not in (0, 1, 2):
            raise ContractError(f"xtb_program: method = {method!r}; expected 0, 1 or 2")
        arguments: dict[str, object] = {
            "--gfn": method,
            "--etemp": electronic_temperature,
            "--acc": accuracy,
            "--iterations": max_iterations,
        }
        if solvent is not None:
            arguments["--alpb"] = solvent
        self._arguments = [str(part) for pair in arguments.items() for part in pair]
        self._charge = charge
        self._spin = spin
        self._program = find_program(program, "xtb_program", "program")
        self._max_force = max_force
        self._threads = context.threads
        # Where there is such a file, the program begins with it.
        self._kept = Kept(context.directory, ["xtbrestart"] if restart else [])

    def label(self, sample: Sample) -> Label:
        """Return `energy` (eV) and `forces` (atoms, 3) in eV/Å.

        Raises:
            LabelFailure: the program ended without a result, or the forces exceed `max_force`.
        """
        atoms = to_atoms(sample)
        isolated(atoms, "xtb_program")
        system = composition(atoms, self._charge, self._spin, "xtb_program")
        return self._kept.label(
            (system, self._arguments),
            lambda restart: sane(self._calculate(atoms, system), self._max_force, "xtb_program"),
        )

    def _calculate(self, atoms: Atoms, system: Composition) -> dict[str, Array]:
        write_coordinates(Path("coord"), atoms.symbols, atoms.positions @ TURN)
        electrons = ["--chrg", str(system.charge), "--uhf", str(system.spin)]
        run_program(
            [self._program, "coord", "--grad", *electrons, *self._arguments],
            "xtb",
            threads=self._threads,
            stdout=LOG,
            stderr=ERRORS,
        )
        energy, gradient = read_gradient(Path("gradient"), len(atoms))
        return {
            "energy": np.asarray(energy * Hartree),
            "forces": -gradient @ TURN.T * (Hartree / Bohr),
        }


def write_coordinates(path: Path, symbols: Iterable[str], positions: Array) -> None:
    """Write positions (atoms, 3) in Å to a coordinate file.

    It is in Bohr, so that no program's own idea of the Bohr gets in between.
    """
    lines = [
        f"{x:22.14f} {y:22.14f} {z:22.14f}  {symbol.lower()}"
        for symbol, (x, y, z) in zip(symbols, positions / Bohr, strict=True)
    ]
    path.write_text("\n".join(["$coord", *lines, "$end", ""]), encoding="ascii")


def read_gradient(path: Path, count: int) -> tuple[float, Array]:
    """Return energy (Hartree) and gradient (atoms, 3) in Hartree/Bohr of the last cycle.

    The format is Turbomole's: a line `cycle = ... SCF energy = ...`, a line of coordinates per
    atom, then a line of the gradient per atom.

    Raises:
        LabelFailure: the file is cut short, or something else.
    """
    lines = text_of(path).splitlines()
    heads = [n for n, line in enumerate(lines) if "energy =" in line]
    try:
        head = heads[-1]
        energy = re.search(r"energy =\s*(\S+)", lines[head])
        rows = [_numbers(line) for line in lines[head + 1 + count : head + 1 + 2 * count]]
        gradient = np.array(rows, dtype=float).reshape(count, 3)
        return float(energy[1]), gradient  # type: ignore[index]
    except (IndexError, TypeError, ValueError) as error:
        raise LabelFailure(
            f"xtb: the file '{path}' holds no energy and gradient of {count} atoms: "
            f"{last_words(LOG, ERRORS)}"
        ) from error


def _numbers(line: str) -> list[float]:
    return [float(word.replace("D", "E")) for word in line.split()]
