"""Molecular dynamics on the committee's mean forces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pal.errors import ContractError
from pal.kernels.atoms import starts, to_atoms
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.integrators import Integrator
from pal.kernels.generators.parts.trajectory import NoInfluence, Plan, Trajectory
from pal.records import Feedback, Sample
from pal.roles import Context, Stop


class Dynamics:
    """Molecular dynamics with any of ASE's integrators at constant volume.

    Integrators: "langevin" (Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429, 310 (2006)),
    "langevin_baoab" (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)), "verlet"
    (constant energy, velocities drawn once), "nose_hoover" (chains; Martyna, Klein and Tuckerman,
    J. Chem. Phys. 97, 2635 (1992)), "bussi" (velocity rescaling; Bussi, Donadio and Parrinello,
    J. Chem. Phys. 126, 014101 (2007)), "andersen" (J. Chem. Phys. 72, 2384 (1980)) and
    "berendsen" (J. Chem. Phys. 81, 3684 (1984); not canonical).

    Where the committee is not trusted for `patience` steps in a row, or at once where forces or
    distances leave their bounds, the walker goes back to its last trusted geometry, or, without a
    trusted step since the last return, to its start, and gets fresh velocities.

    Options:
        start: file of one or more geometries; walker k begins at geometry k, modulo their number.
        integrator: name of the integrator, see above.
        temperatures_K: in K; walker k has temperature k, modulo their number. Velocities begin
            with it, whatever the integrator.
        timestep_fs: time step, in fs.
        friction_per_ps: in 1/ps; friction of the two Langevin integrators, and rate of the
            collisions of "andersen".
        time_constant_fs: of the thermostats "nose_hoover", "bussi" and "berendsen", in fs.
        arguments: more arguments of ASE's class, such as { tchain = 5 } for "nose_hoover", in
            ASE's own units.
        patience: untrusted steps in a row before the walker goes back.
        max_force: in eV/Å; a larger component of the mean forces sends it back at once.
        min_distance: fraction of the sum of two atoms' covalent radii; closer ones send it back
            at once. 0: no bound.
        max_distance: in Å; an atom farther from its nearest neighbour sends it back at once.

    Example:
        [generator]
        kernel = "dynamics"
        walkers = 4

        [generator.options]
        start = "start.xyz"
        integrator = "bussi"
        temperatures_K = [300, 600]
        timestep_fs = 0.5
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        integrator: Literal[
            "langevin",
            "langevin_baoab",
            "verlet",
            "nose_hoover",
            "bussi",
            "andersen",
            "berendsen",
        ] = "langevin",
        temperatures_K: Sequence[float] = (300.0,),  # noqa: N803 - the unit's symbol
        timestep_fs: float = 1.0,
        friction_per_ps: float = 10.0,
        time_constant_fs: float = 100.0,
        arguments: Mapping[str, Any] | None = None,
        patience: int = 20,
        max_force: float = 30.0,
        min_distance: float = 0.5,
        max_distance: float = np.inf,
    ) -> None:
        if not temperatures_K:
            raise ContractError("dynamics: temperatures_K is empty; give one temperature or more")
        geometries = starts(start, "dynamics")
        home = to_atoms(geometries[context.index % len(geometries)])
        chosen = Integrator(
            integrator,
            timestep_fs,
            float(temperatures_K[context.index % len(temperatures_K)]),
            friction_per_ps,
            time_constant_fs,
            arguments or {},
        )
        chosen.check(home, "dynamics")
        bounds = Bounds(home, "dynamics", min_distance=min_distance, max_distance=max_distance)
        self.plan = Plan(home, chosen, bounds, context.seed, patience, max_force)
        self._trajectory = Trajectory(self.plan, NoInfluence())

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry of the trajectory; without feedback, the present one again."""
        return self._trajectory.step(feedback)

    def get_state(self) -> Any:
        """Return all that the trajectory depends on."""
        return self._trajectory.get_state()

    def set_state(self, state: Any) -> None:
        """Go on from there: the first step asks for the same forces again."""
        self._trajectory.set_state(state)
