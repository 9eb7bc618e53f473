"""Molecular dynamics with a bias along a coordinate."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pal.building import check_names
from pal.errors import ContractError
from pal.kernels.generators.dynamics import Dynamics
from pal.kernels.generators.parts.biases import Bias, Law, Metadynamics, Restraint
from pal.kernels.generators.parts.coordinates import Coordinate
from pal.kernels.generators.parts.trajectory import Trajectory
from pal.records import Feedback, Sample
from pal.roles import Context, Stop


class BiasedDynamics:
    """Molecular dynamics that a bias drives along a distance, an angle or a dihedral angle.

    Biases: "restraint", a spring of its own for each walker (umbrella windows); "moving", a
    spring whose centre goes from one end of a path to the other, and back, for ever (steered
    dynamics); "metadynamics", well-tempered: Barducci, Bussi and Parrinello, Phys. Rev. Lett.
    100, 020603 (2008). The committee sees, and judges, the geometry without the bias; the forces
    on the atoms are its mean plus the bias. Where the walker goes back, see `dynamics`, a moving
    spring goes back with it, and hills stay where they are.

    Hills are also written into hills.txt in the walker's directory: number, centre, width,
    height. Where the numbers begin again, the walker was restored; the later lines count. The
    free energy is about -bias_factor / (bias_factor - 1) times the sum of the hills.

    Options:
        dynamics: options of the kernel `dynamics`, as a table: start, temperatures_K and so on.
        coordinate: "distance" (2 atoms), "difference" of two distances (4 atoms: a-b minus c-d;
            atoms may repeat), "angle" (3 atoms, the corner second) or "dihedral" (4 atoms).
        atoms: indices of the atoms that define it.
        bias: "restraint", "moving" or "metadynamics".
        centres: of the springs, in Å or degrees. "restraint": walker k has centre k, modulo
            their number; "moving": the path, two or more.
        stiffness: of the springs, in eV/Å^2 or eV/rad^2.
        moving_steps: steps from one end of the path to the other.
        height: of the first hill, in eV.
        width: standard deviation of a hill, in Å or degrees.
        pace: steps from one hill to the next.
        bias_factor: how much flatter the biased free energy is in the end, > 1; inf: hills do
            not become smaller.

    Example:
        [generator]
        kernel = "biased_dynamics"
        walkers = 8

        [generator.options]
        coordinate = "dihedral"
        atoms = [4, 6, 8, 14]
        bias = "metadynamics"
        height = 0.05
        width = 15.0
        dynamics = { start = "start.xyz", temperatures_K = [300] }
    """

    def __init__(
        self,
        context: Context,
        *,
        dynamics: Mapping[str, Any],
        coordinate: Literal["distance", "difference", "angle", "dihedral"],
        atoms: Sequence[int],
        bias: Literal["restraint", "moving", "metadynamics"] = "metadynamics",
        centres: Sequence[float] = (),
        stiffness: float = 5.0,
        moving_steps: int = 10000,
        height: float = 0.05,
        width: float = 0.0,
        pace: int = 100,
        bias_factor: float = 10.0,
    ) -> None:
        known = inspect.signature(Dynamics).parameters
        check_names(known, dynamics, "biased_dynamics: dynamics: ")
        plan = Dynamics(context, **dynamics).plan
        along = Coordinate(coordinate, atoms, plan.home, "biased_dynamics")
        size = along.kind.size
        law: Law
        if bias == "metadynamics":
            _check_hills(height, width, pace, bias_factor, along.kind.unit)
            law = Metadynamics(
                along,
                height=height,
                width=width * size,
                pace=pace,
                bias_factor=bias_factor,
                temperature_K=plan.integrator.temperature_K,
                file=context.directory / "hills.txt",
            )
        else:
            _check_springs(bias, centres, stiffness, moving_steps)
            own = centres if bias == "moving" else [centres[context.index % len(centres)]]
            law = Restraint(along, stiffness, size * np.array(own, dtype=float), moving_steps)
        self._trajectory = Trajectory(plan, Bias(along, law))

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry of the trajectory; without feedback, the present one again."""
        return self._trajectory.step(feedback)

    def get_state(self) -> Any:
        """Return all that the trajectory depends on, hills included."""
        return self._trajectory.get_state()

    def set_state(self, state: Any) -> None:
        """Go on from there: the first step asks for the same forces again."""
        self._trajectory.set_state(state)


def _check_springs(bias: str, centres: Sequence[float], stiffness: float, steps: int) -> None:
    if bias not in ("restraint", "moving"):
        raise ContractError(
            "biased_dynamics: expected bias = 'restraint', 'moving' or 'metadynamics'; "
            f"got {bias!r}"
        )
    needed = 2 if bias == "moving" else 1
    if len(centres) < needed or not stiffness > 0 or steps < 1:
        raise ContractError(
            f"biased_dynamics: bias = '{bias}' needs {needed} or more centres, stiffness > 0 and "
            f"moving_steps >= 1; got centres = {list(centres)}, stiffness = {stiffness}, "
            f"moving_steps = {steps}"
        )


def _check_hills(height: float, width: float, pace: int, factor: float, unit: str) -> None:
    if not (height > 0 and width > 0 and pace >= 1 and factor > 1):
        raise ContractError(
            f"biased_dynamics: metadynamics needs height > 0 (eV), width > 0 ({unit}), pace >= 1 "
            f"(steps) and bias_factor > 1; got height = {height}, width = {width}, "
            f"pace = {pace}, bias_factor = {factor}"
        )
