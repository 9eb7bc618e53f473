"""ASE's integrators at constant volume, by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.andersen import Andersen
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.verlet import VelocityVerlet

from pal.errors import ContractError

CLASSES: Final[Mapping[str, type[MolecularDynamics]]] = {
    "langevin": Langevin,
    "langevin_baoab": LangevinBAOAB,
    "verlet": VelocityVerlet,
    "nose_hoover": NoseHooverChainNVT,
    "bussi": Bussi,
    "andersen": Andersen,
    "berendsen": NVTBerendsen,
}

_NOT_THEIRS: Final = frozenset(
    ("atoms", "rng", "comm", "logfile", "observers", "trajectory", "optimizable")
)
"""Attributes of an integrator that belong to its surroundings."""


@dataclass(frozen=True, slots=True)
class Integrator:
    """How an integrator is built, again and again: whenever a walker goes back somewhere.

    Units: fs, K, 1/ps; `arguments` are passed to ASE's class as they are.
    """

    name: str
    timestep_fs: float
    temperature_K: float  # noqa: N815 - the unit's symbol
    friction_per_ps: float
    time_constant_fs: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, atoms: Atoms, rng: np.random.Generator) -> MolecularDynamics:
        """Return ASE's integrator of these atoms."""
        with warnings.catch_warnings():
            # BAOAB warns of each of its defaults; ours are given.
            warnings.simplefilter("ignore")
            return CLASSES[self.name](
                atoms, self.timestep_fs * units.fs, **{**self._defaults(rng), **self.arguments}
            )

    def _defaults(self, rng: np.random.Generator) -> dict[str, Any]:
        friction = self.friction_per_ps / (1000.0 * units.fs)
        step, constant = self.timestep_fs * units.fs, self.time_constant_fs * units.fs
        kelvin = {"temperature_K": self.temperature_K}
        # Atoms drift as a whole, which no model minds; fixing them would bend the temperature.
        arguments: dict[str, dict[str, Any]] = {
            "langevin": {**kelvin, "friction": friction, "fixcm": False, "rng": rng},
            "langevin_baoab": {**kelvin, "T_tau": 1.0 / max(friction, 1e-12), "rng": rng},
            "verlet": {},
            "nose_hoover": {**kelvin, "tdamp": constant},
            "bussi": {**kelvin, "taut": constant, "rng": rng},
            "andersen": {
                **kelvin,
                "andersen_prob": -np.expm1(-friction * step),
                "fixcm": False,
                "rng": rng,
            },
            # The exception: this thermostat would feed the drift at the cost of all else.
            "berendsen": {**kelvin, "taut": constant, "fixcm": True},
        }
        return arguments[self.name]

    def check(self, atoms: Atoms, kernel: str) -> None:
        """Make one step with it, without forces.

        Raises:
            ContractError: naming `kernel` and what does not fit.
        """
        if self.name not in CLASSES:
            raise ContractError(
                f"{kernel}: integrator = '{self.name}' is not known; expected one of "
                f"{', '.join(CLASSES)}"
            )
        if not (
            self.timestep_fs > 0
            and self.temperature_K >= 0
            and self.friction_per_ps >= 0
            and self.time_constant_fs > 0
        ):
            raise ContractError(
                f"{kernel}: expected timestep_fs > 0, temperatures_K >= 0, friction_per_ps >= 0 "
                f"and time_constant_fs > 0; got {self.timestep_fs}, {self.temperature_K}, "
                f"{self.friction_per_ps}, {self.time_constant_fs}"
            )
        trial = atoms.copy()
        spread = np.sqrt(trial.get_masses() * units.kB * self.temperature_K)
        trial.set_momenta(np.repeat(spread[:, None], 3, axis=1))
        trial.calc = _Still()
        try:
            with np.errstate(all="raise"):
                self.build(trial, np.random.default_rng(0)).step()
        except Exception as error:
            raise ContractError(
                f"{kernel}: integrator = '{self.name}' makes no step at {self.temperature_K} K "
                f"with arguments = {dict(self.arguments)}: {type(error).__name__}: {error}; its "
                f"arguments are {', '.join(self._known())}"
            ) from error

    def _known(self) -> list[str]:
        known = list(inspect.signature(CLASSES[self.name]).parameters)
        return [name for name in known if name not in ("atoms", "timestep", "rng", "kwargs")]


class _Still(Calculator):  # type: ignore[misc]
    """No forces on any atom."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


def inner_state(dynamics: MolecularDynamics) -> dict[str, Any]:
    """Return what an integrator remembers beside the atoms, thermostat chains for example."""
    return {name: value for name, value in vars(dynamics).items() if name not in _NOT_THEIRS}


def set_inner_state(dynamics: MolecularDynamics, state: Mapping[str, Any]) -> None:
    """Give back what `inner_state` returned."""
    vars(dynamics).update(state)
