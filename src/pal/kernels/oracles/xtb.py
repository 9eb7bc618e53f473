"""Semi-empirical quantum chemistry in milliseconds: GFN-xTB through the tblite library."""

from __future__ import annotations

import numpy as np
from ase.units import Bohr, Hartree
from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
from tblite.interface import Calculator

from pal.errors import LabelFailure
from pal.kernels.atoms import to_atoms
from pal.kernels.oracles.sanity import sane
from pal.records import Array, Label, Sample


class Xtb:
    """Oracle: energy and forces of an isolated molecule.

    Method: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019) for the default
    "GFN2-xTB"; "GFN1-xTB" and "IPEA1-xTB" are known, too. `charge` (e) is used where the sample
    carries none. Labels with a force component beyond `max_force` (eV/Å) are refused: such a
    geometry is not physical, and would only spoil the fit. `accuracy` scales tblite's
    thresholds of convergence (smaller is tighter); `max_iterations` bounds them.
    """

    def __init__(
        self,
        method: str = "GFN2-xTB",
        charge: float = 0.0,
        max_force: float = 50.0,
        accuracy: float = 1.0,
        max_iterations: int = 250,
    ) -> None:
        self._method = method
        self._charge = charge
        self._max_force = max_force
        self._settings = {"accuracy": accuracy, "max-iter": max_iterations, "verbosity": 0}

    def label(self, sample: Sample) -> Label:
        """Return `energy` (eV) and `forces` (atoms, 3) in eV/Å.

        Raises:
            LabelFailure: the calculation did not converge, or the forces exceed `max_force`.
        """
        atoms = to_atoms(sample)
        charge = float(atoms.info.get("charge", self._charge))
        energy, forces = self._single_point(atoms.numbers, atoms.positions, charge)
        label = {"energy": np.asarray(energy), "forces": forces}
        return sane(label, self._max_force, self._method)

    def _single_point(
        self, numbers: Array, positions: Array, charge: float
    ) -> tuple[float, Array]:
        try:
            calculator = Calculator(self._method, numbers, positions / Bohr, charge=charge)
            for name, value in self._settings.items():
                calculator.set(name, value)
            result = calculator.singlepoint()
        except (TBLiteRuntimeError, TBLiteValueError) as error:
            raise LabelFailure(f"{self._method}: {error}") from error
        gradient = np.asarray(result.get("gradient"))
        return float(result.get("energy")) * Hartree, -gradient * (Hartree / Bohr)
