"""The committee as an ASE calculator, for algorithms that ask `Atoms` for forces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from pal.errors import ContractError
from pal.kernels.atoms import to_sample
from pal.kernels.direct import Ask
from pal.records import Array, Feedback


class CommitteeCalculator(Calculator):  # type: ignore[misc]
    """Energy (eV) and forces (eV/Å) are the committee's mean.

    `feedback` is the whole last answer: deviation, uncertainty, trust, version of the weights.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self._ask = ask
        self._sample: dict[str, Array] = {}
        self.feedback: Feedback | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Ask the committee about the atoms as they are now."""
        self._about(self.atoms if atoms is None else atoms)
        self.feedback = self._ask(self._sample)
        self.results: dict[str, Any] = {"forces": mean_forces(self.feedback)}
        mean = self.feedback.mean
        if isinstance(mean, Mapping) and "energy" in mean:
            self.results["energy"] = float(np.asarray(mean["energy"]).item())

    def recall(self, atoms: Atoms, results: Mapping[str, Any]) -> None:
        """Take these results for the committee's answer about these atoms."""
        self._about(atoms)
        self.results = dict(results)

    def _about(self, atoms: Atoms) -> None:
        self.atoms, self._sample = atoms, to_sample(atoms)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Say whether the atoms are others than those asked about; in bits, which is quickest.

        ASE compares with a copy that it makes of the atoms; the sample is one already.
        """
        sample = to_sample(atoms)
        same = sample.keys() == self._sample.keys() and all(
            np.array_equal(array, self._sample[name]) for name, array in sample.items()
        )
        return [] if same else list(all_changes)


def mean_forces(feedback: Feedback) -> Array:
    """Return the committee's mean forces (atoms, 3) in eV/Å, float64.

    Raises:
        ContractError: the models do not predict them.
    """
    mean = feedback.mean
    if not (isinstance(mean, Mapping) and "forces" in mean):
        raise ContractError(
            "CommitteeCalculator needs a model that predicts the named array 'forces' "
            f"(and 'energy'); got {sorted(mean) if isinstance(mean, Mapping) else 'an array'}"
        )
    return np.asarray(mean["forces"], dtype=float)
