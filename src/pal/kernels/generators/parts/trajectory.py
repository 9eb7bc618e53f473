"""A trajectory of molecular dynamics as a walker: the engine of `dynamics` and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

from pal.kernels.calculator import CommitteeCalculator
from pal.kernels.direct import Ask
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.caution import Caution
from pal.kernels.generators.parts.guard import Guard, Lost
from pal.kernels.generators.parts.integrators import Integrator, inner_state, set_inner_state
from pal.kernels.generators.parts.journal import Journal
from pal.records import Array, Feedback, Sample
from pal.roles import Stop

ANSWERS: Final = 20
"""Answers after which the trajectory is marked: few enough to retrace, many enough to be free."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a trajectory is made of: checked, and ready to run. `home`: where it begins."""

    home: Atoms
    integrator: Integrator
    bounds: Bounds
    seed: int
    patience: int
    max_force: float


class Influence(Protocol):
    """What acts on the atoms beside the committee, and may change as time goes by.

    `clock` counts steps. It goes back with the walker, whatever else is remembered does not.
    """

    clock: int

    def over(self, calculator: Calculator) -> Calculator:
        """Return a calculator that adds this influence, as it is then, to another's forces."""
        ...

    def advance(self, positions: Array) -> None:
        """Note that a step was made, to these positions."""
        ...

    def record(self) -> None:
        """Write down what users want to see; called now and then, never twice for a step."""
        ...

    def get_state(self) -> Any:
        """Return what it remembers."""
        ...

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        ...


class NoInfluence:
    """The committee's forces, and nothing else."""

    def __init__(self) -> None:
        self.clock = 0

    def over(self, calculator: Calculator) -> Calculator:
        """Return the same calculator."""
        return calculator

    def advance(self, positions: Array) -> None:
        """Do nothing."""

    def record(self) -> None:
        """Do nothing."""

    def get_state(self) -> Any:
        """Return nothing."""
        return None

    def set_state(self, state: Any) -> None:
        """Do nothing."""


class Trajectory:
    """Walker: dynamics that goes back where it is lost, with fresh velocities.

    The integrator may be any of ASE's: it is built anew from positions and momenta, and what
    else it remembers is carried over.
    """

    def __init__(self, plan: Plan, influence: Influence) -> None:
        self._plan = plan
        self._influence = influence
        home = plan.home.positions.copy()
        self._caution: Caution[tuple[Array, int]] = Caution(
            (home, 0), patience=plan.patience, max_force=plan.max_force
        )
        rng = np.random.default_rng(plan.seed)
        mark = {
            "positions": home,
            "momenta": self._thermal(rng),
            "answer": {},
            "inner": {},
            "rng": rng,
            "caution": self._caution.get_state(),
            "clock": 0,
            "influence": influence.get_state(),
        }
        self._journal = Journal(self._run, mark)

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry; without feedback, the present one again."""
        return self._journal.step(feedback)

    def get_state(self) -> Any:
        """Return all that the trajectory depends on."""
        return self._journal.get_state()

    def set_state(self, state: Any) -> None:
        """Go on from there, bit for bit."""
        self._journal.set_state(state)

    def _run(self, mark: dict[str, Any], ask: Ask) -> None:
        rng, influence = mark["rng"], self._influence
        self._caution.set_state(mark["caution"])
        influence.set_state(mark["influence"])
        influence.clock = mark["clock"]
        atoms, committee = self._place(mark["positions"], mark["momenta"], mark["answer"], ask)
        dynamics = self._plan.integrator.build(atoms, rng)
        set_inner_state(dynamics, mark["inner"])
        while True:
            try:
                dynamics.step()
                influence.advance(atoms.positions)
            except Lost as lost:
                positions, influence.clock = lost.place
                atoms, committee = self._place(positions, self._thermal(rng), {}, ask)
                dynamics = self._plan.integrator.build(atoms, rng)
            if len(self._journal) >= ANSWERS:
                influence.record()
                self._journal.mark(
                    {
                        "positions": atoms.get_positions(),
                        "momenta": atoms.get_momenta(),
                        "answer": committee.results,
                        "inner": inner_state(dynamics),
                        "rng": rng,
                        "caution": self._caution.get_state(),
                        "clock": influence.clock,
                        "influence": influence.get_state(),
                    }
                )

    def _place(
        self, positions: Array, momenta: Array, answer: dict[str, Any], ask: Ask
    ) -> tuple[Atoms, CommitteeCalculator]:
        """Put the atoms there; `answer` is what the committee said of this geometry, if it did."""
        atoms = self._plan.home.copy()
        atoms.positions[:] = positions
        atoms.set_momenta(momenta)
        guard = Guard(
            ask,
            self._caution,
            self._plan.bounds,
            lambda here: (here, self._influence.clock),
            fresh=not answer,
        )
        committee = CommitteeCalculator(guard)
        if answer:
            committee.recall(atoms, answer)
        atoms.calc = self._influence.over(committee)
        return atoms, committee

    def _thermal(self, rng: np.random.Generator) -> Array:
        """Draw momenta from the Maxwell-Boltzmann distribution."""
        masses = self._plan.home.get_masses()
        spread = np.sqrt(masses * units.kB * self._plan.integrator.temperature_K)
        momenta: Array = spread[:, None] * rng.standard_normal((len(spread), 3))
        return momenta
