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
from pal.records import Feedback


class CommitteeCalculator(Calculator):  # type: ignore[misc]
    """Energy (eV) and forces (eV/Å) are the committee's mean.

    `feedback` is the whole last answer: deviation, uncertainty, trust, version of the weights.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self._ask = ask
        self.feedback: Feedback | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Ask the committee about the atoms as they are now."""
        super().calculate(atoms, properties, system_changes)
        self.feedback = self._ask(to_sample(self.atoms))
        mean = self.feedback.mean
        if not (isinstance(mean, Mapping) and "forces" in mean):
            raise ContractError(
                "CommitteeCalculator needs a model that predicts the named array 'forces' "
                f"(and 'energy'); got {sorted(mean) if isinstance(mean, Mapping) else 'an array'}"
            )
        self.results: dict[str, Any] = {"forces": np.asarray(mean["forces"], dtype=float)}
        if "energy" in mean:
            self.results["energy"] = float(np.asarray(mean["energy"]).item())
