"""Molecular dynamics at constant temperature on the committee's mean forces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.md.langevin import Langevin as Dynamics

from pal.kernels.atoms import starts, to_atoms
from pal.kernels.calculator import CommitteeCalculator
from pal.kernels.direct import Ask, Direct
from pal.kernels.generators.caution import Caution
from pal.records import Array, Feedback, Sample
from pal.roles import Context, Stop


class Langevin:
    """Walker: Langevin dynamics (Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429, 310 (2006)).

    What it does where the committee is not trusted is told by
    `pal.kernels.generators.caution.Caution`; whenever it goes back, it gets fresh velocities.

    Options:
        start: file of one or more geometries; walker k begins at geometry k, modulo their number.
        temperatures_K: in kelvin; walker k has temperature k, modulo their number.
        timestep_fs, friction_per_ps: of the dynamics.
        patience: untrusted steps in a row before it goes back.
        max_force: in eV/Å, component of the mean forces that sends it back at once.
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        temperatures_K: Sequence[float] = (300.0,),  # noqa: N803 - the unit's symbol
        timestep_fs: float = 1.0,
        friction_per_ps: float = 10.0,
        patience: int = 20,
        max_force: float = 30.0,
    ) -> None:
        geometries = starts(start, "langevin")
        self._home = to_atoms(geometries[context.index % len(geometries)])
        self._temperature_K = float(temperatures_K[context.index % len(temperatures_K)])
        self._timestep = timestep_fs * units.fs
        self._friction = friction_per_ps / (1000.0 * units.fs)
        self._rng = np.random.default_rng(context.seed)
        self._atoms = self._home.copy()
        self._forces: Array | None = None
        self._caution = Caution(self._home.positions, patience=patience, max_force=max_force)
        self._thermalise()
        self._moment = self._look()
        self._direct = Direct(self._run)

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry of the trajectory; without feedback, the present one again."""
        if feedback is None:
            self.set_state(self._moment)
        return self._direct.step(feedback)

    def get_state(self) -> Any:
        """Return the walker as it was before the step whose forces it waits for."""
        return self._moment

    def set_state(self, state: Any) -> None:
        """Go on from there: the first step asks for the same forces again."""
        self._moment = state
        self._atoms = self._home.copy()
        self._atoms.positions[:] = state["positions"]
        self._atoms.set_momenta(state["momenta"])
        self._forces = state["forces"]
        self._caution.set_state(state["caution"])
        self._rng.bit_generator.state = state["random"]

    def _run(self, ask: Ask) -> None:
        atoms = self._atoms
        calculator = CommitteeCalculator(ask)
        atoms.calc = calculator
        dynamics = Dynamics(
            atoms,
            self._timestep,
            temperature_K=self._temperature_K,
            friction=self._friction,
            # Atoms drift as a whole, which no model minds; fixing them would bend the temperature.
            fixcm=False,
            rng=self._rng,
        )
        while True:
            self._moment = self._look()
            self._forces = dynamics.step(self._forces)
            assert calculator.feedback is not None
            back = self._caution.heed(
                calculator.feedback, self._forces, self._atoms.get_positions()
            )
            if back is not None:
                self._forces = None
                self._atoms.positions[:] = back
                self._thermalise()

    def _thermalise(self) -> None:
        """Draw momenta from the Maxwell-Boltzmann distribution."""
        spread = np.sqrt(self._atoms.get_masses() * units.kB * self._temperature_K)
        self._atoms.set_momenta(spread[:, None] * self._rng.standard_normal((len(spread), 3)))

    def _look(self) -> dict[str, Any]:
        return {
            "positions": self._atoms.get_positions(),
            "momenta": self._atoms.get_momenta(),
            "forces": self._forces,
            "caution": self._caution.get_state(),
            "random": self._rng.bit_generator.state,
        }
