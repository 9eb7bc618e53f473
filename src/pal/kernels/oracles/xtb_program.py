"""Semi-empirical quantum chemistry by the program xtb."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from scipy.spatial.transform import Rotation

from pal.errors import ContractError
from pal.kernels.atoms import to_atoms
from pal.kernels.oracles.parts.electrons import Composition, composition, isolated
from pal.kernels.oracles.parts.kept import Kept
from pal.kernels.oracles.parts.program import find_program, run_program
from pal.kernels.oracles.parts.sanity import sane
from pal.kernels.oracles.parts.turbomole_files import read_gradient, write_coordinates
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
        system = composition(atoms.numbers, atoms.info, self._charge, self._spin, "xtb_program")
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
        energy, gradient = read_gradient(Path("gradient"), len(atoms), "xtb", LOG, ERRORS)
        return {
            "energy": np.asarray(energy * Hartree),
            "forces": -gradient @ TURN.T * (Hartree / Bohr),
        }
