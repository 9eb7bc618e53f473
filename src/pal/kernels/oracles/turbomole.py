"""Turbomole, for the ground state and for excited states with their gradients."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import to_atoms
from pal.kernels.oracles.parts.electrons import Composition, composition, isolated
from pal.kernels.oracles.parts.kept import Kept
from pal.kernels.oracles.parts.program import find_program, last_words, run_program, text_of
from pal.kernels.oracles.parts.sanity import sane
from pal.kernels.oracles.parts.turbomole_files import (
    groups,
    has_group,
    read_energy,
    read_excitations,
    read_gradient,
    with_group,
    without_group,
    write_coordinates,
)
from pal.records import Array, Label, Sample
from pal.roles import Context

UNCONVERGED = (
    "ended abnormally",
    "did not converge",
    "not converged",
    "convergence criteria cannot be satisfied",
)
"""What the modules print when they give up; some of them end with exit code 0 all the same."""

NAME = "turbomole"

ORBITALS = ("control", "mos", "alpha", "beta")
"""The programs note occupation and orbitals in the control file: it is kept with them."""

EXCITATIONS = ("$scfinstab", "$soes", "$exopt")

AGREEMENT = 1e-5
"""Hartree; egrad's list of states and its gradient file tell the same energy twice."""


class Turbomole:
    """Density functional theory by Turbomole, also for several electronic states.

    Program: Franzke et al., J. Chem. Theory Comput. 19, 6859 (2023). Excited states by TDDFT with
    analytic gradients: Furche, Ahlrichs, J. Chem. Phys. 117, 7433 (2002). The ground state is
    calculated by ridft and rdgrad, without density fitting by dscf and grad; then egrad gives
    energy and gradient of each excited state. Each calculation begins with the orbitals of the
    last one of the same molecule.

    One state makes labels `energy` and `forces`, several make `energies` and `state_forces`.

    Options:
        functional: as Turbomole names it, e.g. "pbe0", "b3-lyp", "wb97x-d"; "" for Hartree-Fock.
        basis: name of the basis set of all atoms, with its auxiliary basis and ECPs.
        grid: of the functional's integration.
        density_fitting: of the Coulomb energy ($rij), by the programs ridft and rdgrad.
        dispersion: keyword of the correction, e.g. "disp3 bj" or "disp4"; none by default.
        control: further text of the control file, e.g. "$cosmo\\n  epsilon=78.4".
        template: folder with a control file of yours, and basis and orbitals if it refers to such
            files; instead of the options above. It must read coord, and write energy and gradient
            under these names. Where it has no group $eht it holds for one charge and spin only.
        charge: total charge in e, where the sample carries none.
        spin: number of unpaired electrons, where the sample carries none; by default the lowest.
        states: number of electronic states, including the ground state.
        method: of the excited states.
        triplets: triplet instead of singlet excited states of a closed shell.
        max_cycles: of the self-consistent field.
        memory: in MB.
        restart: begin with the orbitals of the last label of the same molecule.
        programs: folder of Turbomole's programs; by default they are found on PATH. Their
            parallel version (PARA_ARCH=SMP) uses the oracle's threads.
        max_force: in eV/Å; labels with a larger force component are refused.

    Example:
        [oracle]
        kernel = "turbomole"
        workers = 2
        deadline = "1 h"
        options = { functional = "pbe0", basis = "def2-SVP", states = 3, method = "tda" }
    """

    def __init__(
        self,
        context: Context,
        *,
        functional: str = "pbe0",
        basis: str = "def2-SVP",
        grid: str = "m4",
        density_fitting: bool = True,
        dispersion: str = "",
        control: str = "",
        template: str | None = None,
        charge: int = 0,
        spin: int | None = None,
        states: int = 1,
        method: Literal["tddft", "tda"] = "tddft",
        triplets: bool = False,
        max_cycles: int = 200,
        memory: int = 500,
        restart: bool = True,
        programs: str = "",
        max_force: float = 50.0,
    ) -> None:
        if states < 1:
            raise ContractError(f"turbomole: states = {states}; expected 1 or more")
        if method not in ("tddft", "tda"):
            raise ContractError(f"turbomole: method = '{method}'; expected 'tddft' or 'tda'")
        self._template = None if template is None else _folder(template)
        if self._template is not None:
            self._control = text_of(self._template / "control")
        else:
            self._control = _written(
                functional, basis, grid, density_fitting, dispersion, max_cycles, memory
            )
        for group in _groups(control):
            self._control = with_group(self._control, group)
        self._charge, self._spin = charge, spin
        self._excited, self._tda, self._triplets = states - 1, method == "tda", triplets
        self._threads = context.threads
        fitted = has_group(self._control, "$rij")
        modules = ("ridft", "rdgrad") if fitted else ("dscf", "grad")
        self._modules = (*modules, *(["egrad"] if self._excited else []))
        self._paths = {name: _program(programs, name) for name in self._modules}
        self._kept = Kept(context.directory, ORBITALS if restart else [])
        self._max_force = max_force

    def label(self, sample: Sample) -> Label:
        """Return energy and forces of the ground state, or of each of several states.

        Of one state `energy` () in eV and `forces` (atoms, 3) in eV/Å; of several `energies`
        (states,) and `state_forces` (states, atoms, 3), lowest first.

        Raises:
            LabelFailure: a program failed or did not converge, with its last words.
            ContractError: the template was made for another charge or spin.
        """
        atoms = to_atoms(sample)
        isolated(atoms, "turbomole")
        system = composition(atoms.numbers, atoms.info, self._charge, self._spin, "turbomole")
        control = self._for(system, atoms)
        return self._kept.label(
            (system, control), lambda kept: self._calculated(atoms, system, control, kept)
        )

    def _for(self, system: Composition, atoms: Atoms) -> str:
        """Return the control file of this molecule."""
        if self._template is None or has_group(self._control, "$eht"):
            electrons = f"$eht charge={system.charge} unpaired={system.spin}"
            return with_group(self._control, electrons)
        expected = composition(atoms.numbers, {}, self._charge, self._spin, "turbomole")
        if expected != system:
            raise ContractError(
                f"turbomole: the sample has charge {system.charge} and {system.spin} unpaired "
                f"electrons; the template is for {expected.charge} and {expected.spin} (oracle "
                "options charge and spin). Give a template with the group $eht, or none"
            )
        return self._control

    def _calculated(self, atoms: Atoms, system: Composition, control: str, kept: bool) -> Label:
        if self._template is not None:
            _copy_missing(self._template)
        if not kept:
            Path("control").write_text(control)
        write_coordinates(Path("coord"), atoms.symbols, atoms.positions)
        for module in self._modules[:2]:
            self._run(module, module)
        outputs = [f"{module}.out" for module in self._modules[:2]]
        energy = read_energy(Path("energy"), "turbomole", *outputs)
        _, gradient = read_gradient(Path("gradient"), len(atoms), "turbomole", *outputs)
        energies, gradients = [energy], [gradient]
        for root in range(1, self._excited + 1):
            energy, gradient = self._excited_state(root, len(atoms), system)
            energies.append(energy)
            gradients.append(gradient)
        if self._excited:
            _without_excitations(Path("control"))
        return sane(self._as_label(np.array(energies), np.array(gradients)), self._max_force, NAME)

    def _excited_state(self, root: int, count: int, system: Composition) -> tuple[float, Array]:
        """Return energy and gradient of an excited state, from 1, in Hartree and Bohr."""
        kind = "u" + ("cis" if self._tda else "rpa")
        if not system.spin:
            kind = ("cis" if self._tda else "rpa") + ("t" if self._triplets else "s")
        path = Path("control")
        control = text_of(path)
        for group in (f"$scfinstab {kind}", f"$soes\n a  {self._excited}", f"$exopt {root}"):
            control = with_group(control, group)
        path.write_text(control)
        # Each program adds a cycle to the file: begin a new one, so that no old one is read.
        Path("gradient").unlink(missing_ok=True)
        self._run("egrad", f"egrad-{root}")
        output = f"egrad-{root}.out"
        told = read_excitations(Path(output), self._excited, "turbomole")[root - 1]
        energy, gradient = read_gradient(Path("gradient"), count, "turbomole", output)
        if abs(energy - told) > AGREEMENT:
            raise LabelFailure(
                f"turbomole: the gradient of excited state {root} belongs to energy {energy:.6f} "
                f"Hartree; egrad lists this state at {told:.6f}: {last_words(output)}"
            )
        return energy, gradient

    def _as_label(self, energies: Array, gradients: Array) -> dict[str, Array]:
        energies, forces = energies * Hartree, -gradients * (Hartree / Bohr)
        if not self._excited:
            return {"energy": np.asarray(energies[0]), "forces": forces[0]}
        order = np.argsort(energies, kind="stable")
        return {"energies": energies[order], "state_forces": forces[order]}

    def _run(self, module: str, name: str) -> None:
        """Run one of Turbomole's programs, and believe its words rather than its exit code."""
        output, errors = f"{name}.out", f"{name}.err"
        run_program(
            [self._paths[module]],
            f"turbomole: {module}",
            threads=self._threads,
            stdout=output,
            stderr=errors,
        )
        said = text_of(output) + text_of(errors)
        problem = next((words for words in UNCONVERGED if words in said), "")
        if Path(f"{module}_problem").exists():
            problem = f"it left a file {module}_problem"
        elif not problem and "all done" not in said and "ended normally" not in said:
            problem = "it did not end normally"
        if problem:
            raise LabelFailure(
                f"turbomole: {module} failed ({problem}): {last_words(output, errors)}"
            )


def _written(
    functional: str,
    basis: str,
    grid: str,
    density_fitting: bool,
    dispersion: str,
    max_cycles: int,
    memory: int,
) -> str:
    """Return a control file from which the programs find orbitals and occupation themselves."""
    lines = ["$coord file=coord", "$symmetry c1", "$atoms", f"  basis = {basis}"]
    if density_fitting:
        lines.append(f"  jbas = {basis}")
    if functional:
        # Without `weight derivatives` the forces would not be the energy's gradient.
        lines += ["$dft", f"  functional {functional}", f"  gridsize {grid}"]
        lines.append("  weight derivatives")
    if density_fitting:
        lines += ["$rij", f"$ricore {memory}"]
    if dispersion:
        lines.append(f"${dispersion.removeprefix('$')}")
    lines += [
        "$scfconv 8",
        "$denconv 1d-7",
        f"$scfiterlimit {max_cycles}",
        f"$maxcor {memory}",
        f"$rpacor {memory}",
        "$energy file=energy",
        "$grad file=gradient",
        "$end",
    ]
    return "\n".join(lines) + "\n"


def _without_excitations(path: Path) -> None:
    """Undo `_excited_state` in the control file, which is kept for the next label."""
    control = text_of(path)
    for name in EXCITATIONS:
        control = without_group(control, name)
    path.write_text(control)


def _groups(text: str) -> list[str]:
    """Split the option `control` into groups.

    Raises:
        ContractError: it does not begin with one.
    """
    found = [group.strip() for group in groups(text) if group.strip() not in ("", "$end")]
    if not all(group.startswith("$") for group in found):
        raise ContractError(f"turbomole: control = {text!r}; expected groups that begin with $")
    return found


def _folder(template: str) -> Path:
    folder = Path(os.path.abspath(template))
    if not (folder / "control").is_file():
        raise ContractError(
            f"turbomole: template = '{template}'; expected a folder with a file control"
        )
    control = text_of(folder / "control")
    missing = [name for name in ("$coord", "$energy", "$grad") if not has_group(control, name)]
    if missing:
        raise ContractError(
            f"turbomole: '{folder / 'control'}' has no {', '.join(missing)}; expected "
            "'$coord file=coord', '$energy file=energy' and '$grad file=gradient'"
        )
    return folder


def _copy_missing(folder: Path) -> None:
    """Copy a template's files, other than those that an earlier label left."""
    for path in folder.iterdir():
        if path.is_file() and not Path(path.name).exists():
            shutil.copy(path, path.name)


def _program(folder: str, name: str) -> str:
    return find_program(os.path.join(folder, name) if folder else name, NAME, "programs")
