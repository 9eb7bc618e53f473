"""Molecular dynamics of hundreds of walkers, advanced together as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np

from pal.errors import ContractError
from pal.kernels.atoms import starts
from pal.kernels.generators.parts.crowd import Course, Crowd
from pal.records import Feedback, Feedbacks, Sample
from pal.roles import Context

_INTEGRATORS: Final = ("langevin", "verlet")
_ALONE: Final = np.zeros(1, np.intp)


class BatchedDynamics:
    """Molecular dynamics of many walkers in one process, advanced together as arrays.

    For hundreds of walkers in the committee's process (`generator.placement = "committee"`) or in
    few hosts (`generator.hosts`). Their molecules may differ in size. A trajectory is the same, to
    the bit, whoever else is there: each walker has random numbers of its own.

    Integrators: "langevin" at constant temperature, by the splitting BAOAB (Leimkuhler and
    Matthews, Appl. Math. Res. Express 2013, 34), and "verlet" at constant energy with velocities
    drawn once (Swope, Andersen, Berens and Wilson, J. Chem. Phys. 76, 637 (1982)).

    Where the committee is not trusted for `patience` steps in a row, or at once where a force
    exceeds its bound, a walker goes back to its last trusted geometry, or, without a trusted step
    since the last return, to its start, and gets fresh velocities. For other integrators and
    bounds on distances use `dynamics`.

    Options:
        start: file of one or more geometries; walker k begins at geometry k, modulo their number.
        integrator: "langevin" or "verlet".
        temperatures_K: in K; walker k has temperature k, modulo their number. Velocities begin
            with it, whatever the integrator.
        timestep_fs: time step, in fs.
        friction_per_ps: friction of "langevin", in 1/ps.
        patience: untrusted steps in a row before the walker goes back.
        max_force: in eV/Å; a larger component of the mean forces sends it back at once.

    Example:
        [generator]
        kernel = "batched_dynamics"
        walkers = 256
        placement = "committee"

        [generator.options]
        start = "start.xyz"
        temperatures_K = [300, 400, 500, 600]
        timestep_fs = 0.5
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        integrator: Literal["langevin", "verlet"] = "langevin",
        temperatures_K: Sequence[float] = (300.0,),  # noqa: N803 - the unit's symbol
        timestep_fs: float = 1.0,
        friction_per_ps: float = 10.0,
        patience: int = 20,
        max_force: float = 30.0,
    ) -> None:
        if integrator not in _INTEGRATORS:
            raise ContractError(
                f"batched_dynamics: integrator = '{integrator}' is not known; expected one of "
                f"{', '.join(_INTEGRATORS)}; `dynamics` has more"
            )
        if not (
            temperatures_K
            and min(temperatures_K) >= 0
            and timestep_fs > 0
            and friction_per_ps >= 0
            and patience >= 1
            and max_force > 0
        ):
            raise ContractError(
                "batched_dynamics: expected temperatures_K, each >= 0, timestep_fs > 0, "
                "friction_per_ps >= 0, patience >= 1 and max_force > 0; got "
                f"{temperatures_K}, {timestep_fs}, {friction_per_ps}, {patience}, {max_force}"
            )
        geometries = starts(start, "batched_dynamics")
        self._course = Course(
            geometries[context.index % len(geometries)],
            context.seed,
            float(temperatures_K[context.index % len(temperatures_K)]),
            timestep_fs,
            friction_per_ps if integrator == "langevin" else 0.0,
            patience,
            max_force,
        )
        self._crowd = Crowd([self._course])

    @classmethod
    def ensemble(cls, walkers: Sequence[Self]) -> Crowd:
        """Join walkers in one set of arrays."""
        crowd = Crowd([walker._course for walker in walkers])
        for row, walker in enumerate(walkers):
            crowd.set_state(row, walker.get_state())
        return crowd

    def step(self, feedback: Feedback | None) -> Sample:
        """Return the next geometry of the trajectory; without feedback, the present one again."""
        return self._crowd.step(_ALONE, None if feedback is None else Feedbacks.of([feedback]))[0]

    def get_state(self) -> Any:
        """Return all that the trajectory depends on."""
        return self._crowd.get_state(0)

    def set_state(self, state: Any) -> None:
        """Go on from there: the first step asks for the same forces again."""
        self._crowd.set_state(0, state)
