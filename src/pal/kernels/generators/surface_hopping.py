"""Nonadiabatic dynamics of an excited molecule by surface hopping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import units

from pal.errors import ContractError
from pal.kernels.atoms import start_frames, to_sample
from pal.kernels.generators.parts import hopping
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.caution import Caution
from pal.kernels.generators.parts.hopping import Moment
from pal.kernels.generators.populations import FINISHED, record
from pal.records import Array, Feedback, Sample
from pal.roles import STOP, Context, Stop


class SurfaceHopping:
    """Nonadiabatic dynamics of an excited molecule by surface hopping.

    The atoms move on the committee's mean `state_forces` of one electronic state (velocity
    Verlet) and hop to another one by chance. No couplings between states are needed, because
    both methods read them from the gaps:

    - "curvature": fewest switches (Tully, J. Chem. Phys. 93, 1061 (1990)) with couplings from the
      curvature of the gaps (Shu, Zhang, Chen, Sun, Huang and Truhlar, J. Chem. Theory Comput. 18,
      1320 (2022)). The electronic amplitudes are propagated with them. Their sign is not known,
      so interference between two crossings has no meaning; and where gaps level off right after
      a crossing, as in Tully's models, it transfers too little.
    - "landau_zener": hops between neighbouring states where their gap has a minimum (Belyaev,
      Lasser and Trigila, J. Chem. Phys. 140, 224108 (2014)). The step after the minimum, which
      shows that it was one, is taken back when it hops.

    A hop conserves the energy by a change of the momenta; one that costs more than there is does
    not happen. Predicted states are put in the order of their energies. Both methods are exact for
    a linear crossing with constant coupling, if `timestep_fs` resolves it.

    Where the committee is not trusted, a trajectory goes on with patience, then goes back to its
    last trusted step, `returns` times at most; then, or without one, a new one begins (see
    `pal.kernels.generators.parts.caution.Caution`). When the models change during a trajectory,
    the energy to be conserved changes with them. Each trajectory that ends leaves a line in
    `trajectories.jsonl` in the walker's directory; `populations` in
    `pal.kernels.generators.populations` averages them over time.

    Options:
        start: file of one or more geometries, with momenta and masses if wanted. Trajectory t of
            walker k of n begins at geometry k + t n, modulo their number.
        initial_state: the state in which trajectories begin; 0 is the lowest.
        method: "curvature" or "landau_zener".
        timestep_fs: of the atoms, in fs.
        substeps: steps of the amplitudes for each step of the atoms.
        velocities: "file" takes the momenta of the file, "thermal" draws them from the
            Maxwell-Boltzmann distribution, "zero" begins at rest.
        temperature_K: of thermal velocities, in K.
        decoherence: "energy" damps the amplitudes of the other states (Granucci and Persico,
            J. Chem. Phys. 126, 134114 (2007)); "none" leaves them alone.
        decoherence_eV: the constant of that correction, in eV; 0.1 Hartree as recommended.
        rescale: what pays for a hop: the momentum along the "gradient_difference" of both states,
            which keeps the states in thermal equilibrium, or along the "velocity", by which the
            larger a molecule is, the more hops go up.
        frustrated: what a hop that costs too much does to that momentum: "keep" or "reverse".
        max_time_fs: length of a trajectory, in fs; then a new one begins.
        trajectories: finished trajectories after which the walker asks the campaign to stop;
            without it, it never does.
        max_drift_eV: a trajectory whose total energy is off by more begins anew, in eV.
        patience: untrusted steps in a row before it goes back.
        max_force: component of the forces that sends it back at once, in eV/Å.
        min_distance: two atoms closer than this send it back at once, as a fraction of the sum
            of their covalent radii; 0: no bound.
        returns: how often a trajectory may go back before it is given up.

    Example:
        [generator]
        kernel = "surface_hopping"
        options = { start = "excited.xyz", initial_state = 1, timestep_fs = 0.25 }
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        initial_state: int = 1,
        method: Literal["curvature", "landau_zener"] = "curvature",
        timestep_fs: float = 0.5,
        substeps: int = 20,
        velocities: Literal["file", "thermal", "zero"] = "file",
        temperature_K: float = 300.0,  # noqa: N803 - the unit's symbol
        decoherence: Literal["energy", "none"] = "energy",
        decoherence_eV: float = 2.7211,  # noqa: N803 - the unit's symbol
        rescale: Literal["gradient_difference", "velocity"] = "gradient_difference",
        frustrated: Literal["keep", "reverse"] = "keep",
        max_time_fs: float = 200.0,
        trajectories: int | None = None,
        max_drift_eV: float = 0.5,  # noqa: N803 - the unit's symbol
        patience: int = 10,
        max_force: float = 50.0,
        min_distance: float = 0.4,
        returns: int = 3,
    ) -> None:
        _one_of("method", method, "curvature", "landau_zener")
        _one_of("velocities", velocities, "file", "thermal", "zero")
        _one_of("decoherence", decoherence, "energy", "none")
        _one_of("rescale", rescale, "velocity", "gradient_difference")
        _one_of("frustrated", frustrated, "keep", "reverse")
        _at_least("initial_state", initial_state, 0)
        _at_least("substeps", substeps, 1)
        _at_least("returns", returns, 0)
        _at_least("trajectories", 1 if trajectories is None else trajectories, 1)
        if not (timestep_fs > 0 and max_time_fs >= timestep_fs and max_drift_eV > 0):
            raise ContractError(
                "surface_hopping needs timestep_fs > 0, max_time_fs >= timestep_fs and "
                f"max_drift_eV > 0; got {timestep_fs}, {max_time_fs} and {max_drift_eV}"
            )
        self._frames = start_frames(start, "surface_hopping")
        bare = [k for k, atoms in enumerate(self._frames) if not atoms.has("momenta")]
        if velocities == "file" and bare:
            raise ContractError(
                f"surface_hopping: geometry {bare[0]} in start = '{start}' has no momenta; write "
                'them into the file, or set velocities = "thermal" or "zero"'
            )
        self._bounds = [
            Bounds(atoms, "surface_hopping", min_distance=min_distance) for atoms in self._frames
        ]
        self._context = context
        self._initial_state = initial_state
        self._curvature = method == "curvature"
        self._timestep_fs = timestep_fs
        self._dt = timestep_fs * units.fs
        self._substeps = substeps
        self._velocities = velocities
        self._temperature_K = temperature_K
        self._decoherence = decoherence_eV if decoherence == "energy" else None
        self._along_difference = rescale == "gradient_difference"
        self._reverse = frustrated == "reverse"
        self._steps = round(max_time_fs / timestep_fs)
        self._wanted = trajectories
        self._max_drift = max_drift_eV
        self._most_returns = returns
        self._rng = np.random.default_rng(context.seed)
        self._limits: dict[str, Any] = {"patience": patience, "max_force": max_force}
        self._caution = self._cautious()
        self._number, self._finished, self._version = -1, 0, 0
        self._here: Moment | None
        self._begin()

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry of the trajectory; without feedback, the present one again."""
        if feedback is not None:
            self._hear(feedback)
        if self._wanted is not None and self._finished >= self._wanted:
            return STOP
        return {**self._sample, "positions": self._asked.copy()}

    def get_state(self) -> Any:
        """Return the trajectory as it was before the geometry whose forces it waits for."""
        return {
            "here": self._here,
            "fresh": self._fresh,
            "number": self._number,
            "finished": self._finished,
            "returns": self._returns,
            "version": self._version,
            "caution": self._caution.get_state(),
            "random": self._rng.bit_generator.state,
        }

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self._take(state["number"])
        self._here, self._fresh = state["here"], state["fresh"]
        self._finished, self._returns = state["finished"], state["returns"]
        self._version = state["version"]
        self._caution.set_state(state["caution"])
        self._rng.bit_generator.state = state["random"]

    @property
    def _asked(self) -> Array:
        """Positions whose energies and forces it waits for."""
        if self._here is None:
            return self._home
        return hopping.ahead(self._here, self._masses, self._dt)

    def _cautious(self) -> Caution[tuple[Moment, ...]]:
        """Return a fresh rule: a refuge is a moment, home is none, a new trajectory."""
        return Caution((), **self._limits)

    def _take(self, number: int) -> None:
        """Load the geometry at which this trajectory begins."""
        index = self._context.index + number * self._context.count
        self._number, self._frame = number, index % len(self._frames)
        atoms = self._frames[self._frame]
        self._sample = to_sample(atoms)
        self._home = self._sample["positions"]
        self._masses = atoms.get_masses()[:, None]

    def _begin(self) -> None:
        """Start the next trajectory."""
        self._take(self._number + 1)
        self._here = None
        self._returns = 0
        self._fresh = np.zeros_like(self._home)
        if self._velocities == "thermal":
            spread = np.sqrt(units.kB * self._temperature_K / self._masses)
            self._fresh = spread * self._rng.standard_normal(self._home.shape)
        elif self._velocities == "file":
            self._fresh = self._frames[self._frame].get_velocities()

    def _hear(self, feedback: Feedback) -> None:
        energies, forces = _states(feedback, self._initial_state, self._home.shape)
        arrived = self._arrive(energies, forces, feedback.version)
        moment = self._hop(arrived)
        sound = self._bounds[self._frame].hold(arrived.positions)
        pull = arrived.forces[arrived.active]
        back = self._caution.heed(feedback, pull, (moment,), sound=sound)
        drift = self._energy(arrived) - arrived.total
        if back is not None:
            self._go_back(back)
        elif not abs(drift) <= self._max_drift:
            self._end("drift", moment)
        elif moment.step >= self._steps:
            self._end(FINISHED, moment)
        else:
            self._here = moment

    def _arrive(self, energies: Array, forces: Array, version: int) -> Moment:
        """Return the trajectory where the sample was, before it may hop."""
        here, known = self._here, version == self._version
        self._version = version
        if here is None:
            active = self._initial_state
            return Moment(
                step=0,
                positions=self._home,
                velocities=self._fresh,
                active=active,
                amplitudes=hopping.pure(len(energies), active),
                energies=energies,
                forces=forces,
                earlier=None,
                visits=((0, active),),
                total=hopping.kinetic(self._fresh, self._masses) + float(energies[active]),
            )
        moment = replace(
            here,
            step=here.step + 1,
            positions=self._asked,
            velocities=hopping.arrived(here, forces, self._masses, self._dt),
            energies=energies,
            forces=forces,
            earlier=here.energies,
        )
        change = 0.0 if known else self._energy(moment) - self._energy(here)
        return replace(moment, total=here.total + change)

    def _energy(self, moment: Moment) -> float:
        """Total energy in eV."""
        kinetic = hopping.kinetic(moment.velocities, self._masses)
        return kinetic + float(moment.energies[moment.active])

    def _hop(self, moment: Moment) -> Moment:
        """Return the trajectory after it had its chance to hop."""
        if self._here is None:
            return moment
        if self._curvature:
            return self._fewest_switches(self._here, moment)
        return self._landau_zener(self._here, moment)

    def _fewest_switches(self, before: Moment, moment: Moment) -> Moment:
        rates = tuple(
            -(each.forces * each.velocities).sum(axis=(1, 2)) for each in (before, moment)
        )
        coupling = hopping.couplings(
            (before.energies, moment.energies), (rates[0], rates[1]), self._dt
        )
        amplitudes, hazards = hopping.propagated(
            before, moment.energies, coupling, self._dt, self._substeps
        )
        moment = replace(moment, amplitudes=amplitudes)
        target = hopping.drawn(hopping.from_hazards(hazards), self._rng.random())
        if target is not None:
            moment = self._switch(moment, target)
        if self._decoherence is None:
            return moment
        kinetic = hopping.kinetic(moment.velocities, self._masses)
        return replace(
            moment,
            amplitudes=hopping.decohered(
                moment.amplitudes,
                moment.energies,
                moment.active,
                kinetic,
                self._dt,
                self._decoherence,
            ),
        )

    def _landau_zener(self, before: Moment, moment: Moment) -> Moment:
        """Hop where the step `before` was at a minimum of a gap, and go on from there."""
        if before.earlier is None:
            return moment
        active = before.active
        gaps = [abs(e - e[active]) for e in (before.earlier, before.energies, moment.energies)]
        probabilities = hopping.landau_zener(gaps[0], gaps[1], gaps[2], self._dt)
        neighbours = abs(np.arange(len(gaps[0])) - active) == 1
        target = hopping.drawn(np.where(neighbours, probabilities, 0.0), self._rng.random())
        if target is None:
            return moment
        hopped = self._switch(before, target)
        if hopped.active == active and not self._reverse:
            return moment
        amplitudes = hopping.pure(len(gaps[0]), hopped.active)
        return replace(hopped, amplitudes=amplitudes, earlier=None)

    def _switch(self, moment: Moment, target: int) -> Moment:
        """Hop if the momenta can pay for it."""
        active, energies = moment.active, moment.energies
        direction = None
        if self._along_difference:
            direction = moment.forces[target] - moment.forces[active]
        cost = float(energies[target] - energies[active])
        velocities = hopping.rescaled(moment.velocities, self._masses, cost, direction)
        if velocities is not None:
            visits = (*moment.visits, (moment.step, target))
            return replace(moment, active=target, velocities=velocities, visits=visits)
        if self._reverse:
            turned = hopping.turned(moment.velocities, self._masses, direction)
            return replace(moment, velocities=turned)
        return moment

    def _go_back(self, refuge: tuple[Moment, ...]) -> None:
        self._returns += 1
        if refuge and self._returns <= self._most_returns:
            self._here = refuge[0]
        else:
            self._end("untrusted", self._here)

    def _end(self, why: str, moment: Moment | None) -> None:
        """Write the trajectory down and begin another one."""
        if moment is not None:
            self._write(why, moment)
        self._finished += why == FINISHED
        self._caution = self._cautious()
        self._begin()

    def _write(self, why: str, moment: Moment) -> None:
        fs = self._timestep_fs
        entry = {
            "trajectory": self._number,
            "end": why,
            "states": len(moment.energies),
            "fs": round(moment.step * fs, 6),
            "visits": [[round(step * fs, 6), state] for step, state in moment.visits],
        }
        record(self._context.directory, entry)


def _one_of(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise ContractError(
            f"surface_hopping: {name} = {value!r} is not known; expected {' or '.join(known)}"
        )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ContractError(f"surface_hopping needs {name} >= {least}; got {value}")


def _states(feedback: Feedback, initial: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return energies (s,) and forces (s, a, 3) of the states, lowest first."""
    mean = feedback.mean
    if not (isinstance(mean, Mapping) and {"energies", "state_forces"} <= mean.keys()):
        came = sorted(mean) if isinstance(mean, Mapping) else "a bare array"
        raise ContractError(
            "surface_hopping needs a model that predicts the named arrays 'energies' (states,) "
            f"and 'state_forces' (states, atoms, 3); got {came}"
        )
    energies = np.asarray(mean["energies"], dtype=float)
    forces = np.asarray(mean["state_forces"], dtype=float)
    if energies.ndim != 1 or forces.shape != (len(energies), *shape) or initial >= len(energies):
        raise ContractError(
            "surface_hopping expected energies (states,) and state_forces (states, "
            f"{shape[0]}, 3) of at least {initial + 1} states, as initial_state = {initial}; "
            f"got {energies.shape} and {forces.shape}"
        )
    order = np.argsort(energies, kind="stable")
    return energies[order], forces[order]
