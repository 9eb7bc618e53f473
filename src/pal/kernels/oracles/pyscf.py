"""Density functional theory, Hartree-Fock and excited states through the PySCF library."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree, kB
from pyscf import dft, gto, lib, scf, tdscf
from pyscf.scf.addons import smearing

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import to_atoms
from pal.kernels.oracles.parts.electrons import Composition, Recent, composition, isolated
from pal.kernels.oracles.parts.program import last_words
from pal.kernels.oracles.parts.pyscf_names import BasisSet, fitting_basis, functional_name
from pal.kernels.oracles.parts.sanity import sane
from pal.records import Array, Label, Sample
from pal.roles import Context

LOG = "pyscf.log"
EXTRA_ROOTS = 3
"""Roots solved for beyond those asked for: the highest ones of a subspace converge last."""


class Orbitals(NamedTuple):
    """Occupied orbitals (functions, occupied) of each spin; one for both if restricted."""

    coefficients: tuple[Array, ...]
    occupation: float
    """Electrons in each orbital: 2 if restricted, else 1."""


class PySCF:
    """Density functional theory or Hartree-Fock with PySCF, also for excited states.

    Library: Sun et al., J. Chem. Phys. 153, 024109 (2020). Without unpaired electrons the
    orbitals are restricted, else unrestricted. With one state, labels hold `energy` and `forces`;
    with more, `energies` (states,) and `state_forces` (states, atoms, 3), lowest state first:
    the ground state and the lowest singlets of TDA (Hirata and Head-Gordon, Chem. Phys. Lett.
    314, 291 (1999)) or full TDDFT (Casida 1995). Of an open shell, they are the lowest states of
    the same number of unpaired electrons, however mixed in spin. TDA also finds states below
    the reference, beyond a crossing; they are then the first ones. Forces are exact derivatives
    but for the response of the integration grid, which meta-GGAs feel most.

    The first guess is made of the orbitals of the last label of the same composition. What does
    not converge from there begins anew, then goes on in second order, and then is refused.
    Old orbitals may keep a calculation in a state that is not the lowest, as where bonds break;
    `restart = false` begins each label anew. PySCF's log is `pyscf.log` in the scratch folder.

    Options:
        functional: any that PySCF knows, such as "B3LYP", "PBE0", "wB97X-V"; or "HF".
        basis: any that PySCF knows, such as "6-31G*" or "def2-SVP", more with the package
            basis-set-exchange installed; or a file in NWChem's format; or a table of them by
            element, such as { Bi = "dhf-tzvp.nw", default = "def2-TZVP" }.
        ecp: effective core potentials: "auto" takes those that belong to the basis, "none"
            keeps all electrons, else a name, such as "lanl2dz", or a file.
        charge: total charge in e, where the sample carries none.
        spin: number of unpaired electrons, where the sample carries none; by default the lowest.
        states: number of electronic states, including the ground state.
        method: of the excited states.
        density_fitting: fit the Coulomb integrals, or name the auxiliary basis to do it with, such
            as "def2-universal-jfit" for functionals without exact exchange, "def2-universal-jkfit"
            for others; faster, for the ground state only.
        grid_level: of the integration grid, 0 (coarse) to 9 (fine).
        electronic_temperature: of the occupation (Fermi-Dirac), in K; smooth surfaces where levels
            nearly cross, as in clusters of metals. Energies are then free energies, and there
            are neither excited states nor a second-order solver.
        convergence: of the energy between two cycles, in Hartree.
        max_cycles: of the self-consistent field, and of the excited states' solver.
        second_order: try a second-order solver before a calculation is refused.
        restart: begin with the orbitals of the last label of the same composition.
        memory_mb: what PySCF may use, in MB.
        max_force: in eV/Å; labels with a larger force component are refused.

    Example:
        [oracle]
        kernel = "pyscf"
        workers = 2
        threads = 4
        deadline = "1 h"

        [oracle.options]
        functional = "B3LYP"
        basis = "6-31G*"
        charge = 1
        states = 3                      # S0, S1, S2
        method = "TDA"
    """

    def __init__(
        self,
        context: Context,
        *,
        functional: str = "B3LYP",
        basis: str | Mapping[str, str] = "def2-SVP",
        ecp: str = "auto",
        charge: int = 0,
        spin: int | None = None,
        states: int = 1,
        method: Literal["TDA", "TDDFT"] = "TDA",
        density_fitting: bool | str = False,
        grid_level: int = 3,
        electronic_temperature: float = 0.0,
        convergence: float = 1e-9,
        max_cycles: int = 100,
        second_order: bool = True,
        restart: bool = True,
        memory_mb: int = 4000,
        max_force: float = 50.0,
    ) -> None:
        self._xc = functional_name(functional, states, bool(density_fitting))
        if states > 1 and electronic_temperature:
            raise ContractError(
                "pyscf: there are no excited states with a temperature of the occupation; set "
                "electronic_temperature = 0, or states = 1"
            )
        self._basis = BasisSet(basis, ecp)
        self._method = method
        self._charge = charge
        self._spin = spin
        self._excited = states - 1
        self._fitted = bool(density_fitting)
        self._fitting = fitting_basis(density_fitting)
        self._grid_level = grid_level
        self._smearing = electronic_temperature * kB / Hartree
        self._convergence = convergence
        self._max_cycles = max_cycles
        self._second_order = second_order and not self._smearing
        self._memory_mb = memory_mb
        self._max_force = max_force
        self._threads = context.threads
        self._recent: Recent[Orbitals] = Recent(16 if restart else 0)

    def label(self, sample: Sample) -> Label:
        """Return energy and forces of the ground state, or of each of several states.

        Raises:
            LabelFailure: something did not converge, the basis does not know an element,
                or a force exceeds `max_force`.
        """
        atoms = to_atoms(sample)
        isolated(atoms, "pyscf")
        system = composition(atoms.numbers, atoms.info, self._charge, self._spin, "pyscf")
        with _workplace(self._threads) as log:
            try:
                label = self._calculate(atoms, system, log)
            except (RuntimeError, np.linalg.LinAlgError) as error:
                raise _failure(f"{atoms.symbols}: {type(error).__name__}: {error}", log) from error
        return sane(label, self._max_force, "pyscf")

    def get_state(self) -> Any:
        """Return the orbitals that later labels begin with."""
        return {"basis": self._basis.key, "orbitals": list(self._recent)}

    def set_state(self, state: Any) -> None:
        """Take them over, if they were made in the same basis."""
        if state["basis"] == self._basis.key:
            for system, orbitals in state["orbitals"]:
                self._recent[Composition(*system)] = orbitals

    def _calculate(self, atoms: Atoms, system: Composition, log: IO[str]) -> dict[str, Array]:
        molecule = self._molecule(atoms, system, log)
        field = self._converged(self._field(molecule, system), system, log)
        self._recent[system] = _occupied(field)
        if self._excited:
            energies, gradients = self._states(field, log)
            return {"energies": energies * Hartree, "state_forces": -gradients * (Hartree / Bohr)}
        gradient = field.nuc_grad_method().kernel()
        # Forces are derivatives of the free energy, where there is a temperature.
        energy = np.asarray(field.e_free if self._smearing else field.e_tot, dtype=float)
        return {"energy": energy * Hartree, "forces": -gradient * (Hartree / Bohr)}

    def _molecule(self, atoms: Atoms, system: Composition, log: IO[str]) -> gto.Mole:
        molecule = gto.Mole()
        molecule.atom = list(zip(atoms.symbols, atoms.positions / Bohr, strict=True))
        molecule.unit = "Bohr"
        molecule.basis, molecule.ecp = self._basis.of(set(atoms.symbols))
        molecule.charge, molecule.spin = system.charge, system.spin
        molecule.max_memory = self._memory_mb
        molecule.stdout, molecule.verbose = log, lib.logger.INFO
        molecule.build(dump_input=False, parse_arg=False)
        if max(molecule.nelec) > molecule.nao:
            raise LabelFailure(
                f"pyscf: {molecule.nelectron} electrons of {atoms.symbols} do not fit "
                f"{molecule.nao} basis functions; the basis asks for an effective core "
                "potential (oracle option ecp)"
            )
        return molecule

    def _field(self, molecule: gto.Mole, system: Composition) -> Any:
        """Return the self-consistent field, not yet converged."""
        if self._xc is None:
            field = scf.UHF(molecule) if system.spin else scf.RHF(molecule)
        else:
            field = (dft.UKS if system.spin else dft.RKS)(molecule, xc=self._xc)
            field.grids.level = self._grid_level
        if self._fitted:
            field = field.density_fit(auxbasis=self._fitting)
        field.conv_tol = self._convergence
        field.max_cycle = self._max_cycles
        field.chkfile = None
        if self._smearing:
            field = smearing(field, self._smearing, "fermi", fix_spin=True)
        return field

    def _converged(self, field: Any, system: Composition, log: IO[str]) -> Any:
        """Converge, from the nearest guess to the most patient solver."""
        orbitals = self._recent.take(system)
        if orbitals is not None:
            field.kernel(dm0=_density(orbitals, field.get_ovlp()))
            if field.converged:
                return field
        field.kernel(dm0=field.get_init_guess())
        if not field.converged and self._second_order:
            solver = field.newton()
            solver.kernel(field.mo_coeff, field.mo_occ)
            field = solver.undo_soscf()
        if not field.converged:
            raise _failure(
                f"the self-consistent field of {field.mol.nelectron} electrons did not converge "
                f"in {self._max_cycles} cycles (oracle option max_cycles)",
                log,
            )
        return field

    def _states(self, field: Any, log: IO[str]) -> tuple[Array, Array]:
        """Return energies (states,) and gradients (states, atoms, 3), lowest state first."""
        response = (tdscf.TDA if self._method == "TDA" else tdscf.TDDFT)(field)
        response.nstates = self._excited + EXTRA_ROOTS
        response.max_cycle = self._max_cycles
        if self._method == "TDA":
            # By default, states below the reference would be left out: the order would be wrong.
            response.positive_eig_threshold = -np.inf
        response.kernel()
        if len(response.e) < self._excited:
            raise _failure(
                f"only {len(response.e)} excited states exist in this basis, or are stable; "
                f"expected {self._excited} (oracle option states)",
                log,
            )
        roots = np.argsort(response.e)[: self._excited]
        failed = [int(root) + 1 for root in roots if not response.converged[root]]
        if failed:
            raise _failure(f"the excited states {failed} did not converge", log)
        gradients = [
            field.nuc_grad_method().kernel(),
            *(response.nuc_grad_method().kernel(state=int(root) + 1) for root in roots),
        ]
        energies = field.e_tot + np.array([0.0, *np.asarray(response.e)[roots]])
        order = np.argsort(energies)
        return energies[order], np.array(gradients)[order]


@contextmanager
def _workplace(threads: int) -> Iterator[IO[str]]:
    """Keep PySCF's threads, its temporary files and all it says here; yield its log."""
    before, lib.param.TMPDIR = lib.param.TMPDIR, str(Path.cwd())
    try:
        with (
            Path(LOG).open("w", encoding="utf-8") as log,
            redirect_stderr(log),
            warnings.catch_warnings(action="always"),
            lib.with_omp_threads(threads),
        ):
            yield log
    finally:
        lib.param.TMPDIR = before


def _failure(what: str, log: IO[str]) -> LabelFailure:
    log.flush()
    return LabelFailure(f"pyscf: {what}: {last_words(LOG)}")


def _occupied(field: Any) -> Orbitals:
    """Return the orbitals that are occupied by half or more: all that a density is made of."""
    coefficients, occupations = field.mo_coeff, field.mo_occ
    if np.ndim(occupations) == 1:
        return Orbitals((coefficients[:, occupations > 1],), 2.0)
    return Orbitals(
        tuple(c[:, o > 0.5] for c, o in zip(coefficients, occupations, strict=True)), 1.0
    )


def _density(orbitals: Orbitals, overlap: Array) -> Array:
    """Return the density matrix of orbitals made orthonormal where the atoms are now.

    With orbitals C and overlap S, it is n C (C^T S C)^-1 C^T: a projector with the right number
    of electrons, as close to the old one as can be.
    """
    densities = [
        orbitals.occupation * c @ np.linalg.solve(c.T @ overlap @ c, c.T)
        for c in orbitals.coefficients
    ]
    return np.array(densities) if len(densities) > 1 else densities[0]
