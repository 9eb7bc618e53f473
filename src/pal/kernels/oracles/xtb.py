"""Semi-empirical quantum chemistry in milliseconds: GFN-xTB through the tblite library."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import numpy as np
from ase.units import Bohr, Hartree, kB
from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
from tblite.interface import Calculator, Result
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import atomic
from pal.kernels.oracles.parts.electrons import Composition, Recent, composition
from pal.kernels.oracles.parts.sanity import sane
from pal.records import Array, Arrays, Label, Sample
from pal.roles import Context

HYDROGEN = {"numbers": np.array([1, 1]), "positions": np.diag([0.0, 0.0, 0.74])[1:]}
"""A molecule to try options with."""


class Xtb:
    """Semi-empirical energy and forces of molecules and crystals: GFN-xTB by tblite.

    Method: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019) for "GFN2-xTB";
    Grimme, Bannwarth, Shushkov, ibid. 13, 1989 (2017) for "GFN1-xTB"; solvation: Ehlert, Stahn,
    Spicher, Grimme, ibid. 17, 4250 (2021). Samples with `pbc` are calculated as crystals. The
    methods have no spin polarisation of their own, so that unpaired electrons only change the
    occupation; with it (Neugebauer et al., J. Comput. Chem. 44, 2120 (2023)) radicals, and the
    barriers of their reactions, are described better.

    Each calculation begins with the charges of the last one of the same composition, which
    saves cycles and leaves a trace of history within the threshold of convergence. Where the
    self-consistent field has several solutions, as it may for radicals and broken bonds, the
    beginning decides which one is found: with `restart = false` labels depend on the sample
    alone.

    Options:
        method: the parametrisation.
        charge: total charge in e, where the sample carries none.
        spin: number of unpaired electrons, where the sample carries none; by default the lowest.
        spin_polarisation: let the two spins differ where electrons are unpaired.
        solvent: name of an implicit solvent (ALPB), such as "water"; by default none.
        electronic_temperature: of the occupation, in K.
        accuracy: scales tblite's thresholds of convergence; smaller is tighter.
        max_iterations: cycles until the calculation is given up. Their cost rises steeply with
            their number, and what takes more than 100 is rarely a molecule.
        restart: begin with the charges of the last label of the same composition.
        max_force: in eV/Å; labels with a larger force component are refused.

    Example:
        [oracle]
        kernel = "xtb"
        workers = 2
        deadline = "1 min"
        options = { method = "GFN2-xTB", charge = 1.0, solvent = "water" }
    """

    def __init__(
        self,
        context: Context | None = None,
        *,
        method: Literal["GFN2-xTB", "GFN1-xTB", "IPEA1-xTB"] = "GFN2-xTB",
        charge: float = 0.0,
        spin: int | None = None,
        spin_polarisation: bool = False,
        solvent: str | None = None,
        electronic_temperature: float = 300.0,
        accuracy: float = 1.0,
        max_iterations: int = 125,
        restart: bool = True,
        max_force: float = 50.0,
    ) -> None:
        self._method = method
        self._charge = charge
        self._spin = spin
        self._spin_polarisation = spin_polarisation
        self._solvent = solvent
        self._settings = {
            "accuracy": accuracy,
            "max-iter": max_iterations,
            "temperature": electronic_temperature * kB / Hartree,
            "verbosity": 0,
        }
        self._max_force = max_force
        self._limited = _threads(context)
        self._recent: Recent[Result] = Recent(16 if restart else 0)
        self._try_options()

    def label(self, sample: Sample) -> Label:
        """Return `energy` (eV) and `forces` (atoms, 3) in eV/Å.

        Raises:
            LabelFailure: the calculation did not converge, or the forces exceed `max_force`.
        """
        atoms = atomic(sample)
        numbers = np.asarray(atoms["numbers"])
        system = composition(numbers, atoms, self._charge, self._spin, self._method)
        with self._limited():
            result = self._calculate(atoms, system)
        forces = -np.asarray(result.get("gradient")) * (Hartree / Bohr)
        label = {"energy": np.asarray(result.get("energy") * Hartree), "forces": forces}
        return sane(label, self._max_force, self._method)

    def _try_options(self) -> None:
        """Set a molecule up, so that wrong options are refused before any label."""
        try:
            self._calculator(HYDROGEN, Composition((1, 1), 0, 0))
        except (TBLiteRuntimeError, TBLiteValueError) as error:
            options = (
                f"method = {self._method!r}, solvent = {self._solvent!r}, "
                f"spin_polarisation = {self._spin_polarisation}"
            )
            raise ContractError(f"xtb: tblite refuses {options}: {error}") from error

    def _calculate(self, atoms: Arrays, system: Composition) -> Result:
        """Return a converged result; a bad start is no reason to fail."""
        try:
            calculator = self._calculator(atoms, system)
            before = self._recent.take(system)
            try:
                result = calculator.singlepoint(before)
            except TBLiteRuntimeError:
                if before is None:
                    raise
                result = self._calculator(atoms, system).singlepoint()
        except (TBLiteRuntimeError, TBLiteValueError) as error:
            raise LabelFailure(f"{self._method}: {error}") from error
        self._recent[system] = result
        return result

    def _calculator(self, atoms: Arrays, system: Composition) -> Calculator:
        calculator = Calculator(
            self._method,
            np.asarray(atoms["numbers"]),
            np.asarray(atoms["positions"]) / Bohr,
            charge=system.charge,
            uhf=system.spin,
            **self._lattice(atoms),
        )
        for name, value in self._settings.items():
            calculator.set(name, value)
        if self._spin_polarisation:
            calculator.add("spin-polarization", 1.0)
        if self._solvent is not None:
            calculator.add("alpb-solvation", self._solvent)
        return calculator

    def _lattice(self, atoms: Arrays) -> dict[str, Array]:
        """Tblite repeats cells in all directions, whatever it is told: do not let it pretend."""
        periodic = np.asarray(atoms.get("pbc", False))
        if not periodic.any():
            return {}
        if not periodic.all() or self._solvent is not None:
            raise ContractError(
                f"xtb: tblite knows crystals repeated in all directions, without solvent; got "
                f"pbc = {periodic.tolist()}, solvent = {self._solvent!r}. Give surfaces and "
                "wires a cell with vacuum, and pbc = [true, true, true]"
            )
        return {"lattice": np.asarray(atoms["cell"]) / Bohr, "periodic": periodic}


def _threads(context: Context | None) -> Callable[[], AbstractContextManager[Any]]:
    """Return what sets the threads for a calculation, as the runtime mostly did before.

    OpenMP read its environment when tblite was loaded; elsewhere it must be told.
    """
    openmp = ThreadpoolController().select(user_api="openmp")
    if context is None or {pool["num_threads"] for pool in openmp.info()} == {context.threads}:
        return nullcontext
    return partial(openmp.limit, limits=context.threads)
