"""Many trajectories in one set of arrays: the engine of `batched_dynamics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase import units
from ase.data import atomic_masses
from numpy.typing import NDArray

from pal.errors import ContractError, ShapeError
from pal.records import Array, Batch, Feedbacks, Label, signature

_BLOCK_ATOMS: Final = 8192
"""Random vectors that a walker draws at a time: seeding is rare, and the memory bounded."""
_LONGEST_BLOCK: Final = 64
_KICKS, _VELOCITIES = 0, 1
"""What a stream of random numbers is for."""


@dataclass(frozen=True, slots=True)
class Course:
    """One trajectory: where it begins, and its rules. `geometry` is a sample of atoms."""

    geometry: Mapping[str, Array]
    seed: int
    temperature_K: float  # noqa: N815 - the unit's symbol
    timestep_fs: float
    friction_per_ps: float
    patience: int
    max_force: float


class Crowd:
    """Trajectories of molecules of any sizes, a step of all of them in a few array operations.

    Velocity Verlet in its leapfrog form; with friction BAOAB (Leimkuhler and Matthews, Appl.
    Math. Res. Express 2013, 34): kick, half a drift, Ornstein-Uhlenbeck, half a drift, kick.
    The kick that ends a step and the one that begins the next have the same forces and are made
    as one; `_fresh` trajectories, with velocities just drawn, get the second half only.

    The atoms of all walkers lie one behind the other in arrays (atoms of all, 3). All operations
    are element by element, and random numbers depend on a walker's seed and on how often it was
    answered (`_clock`) or sent back (`_returns`): company changes no bit of a trajectory.
    """

    def __init__(self, courses: Sequence[Course]) -> None:
        self._courses = courses
        self._uniform = len({signature(course.geometry) for course in courses}) == 1
        self._counts = np.array([len(course.geometry["numbers"]) for course in courses])
        self._ends = np.cumsum(self._counts)
        self._home = np.concatenate([course.geometry["positions"] for course in courses])
        self._constants: dict[str, Array] = {}
        if self._uniform:
            names = [name for name in courses[0].geometry if name != "positions"]
            self._constants = {
                name: np.stack([course.geometry[name] for course in courses]) for name in names
            }
        self._patience = np.array([course.patience for course in courses])
        self._max_force = np.array([course.max_force for course in courses])
        self._set_coefficients()
        self._positions = self._home.copy()
        self._velocities = np.zeros_like(self._home)
        self._refuge = self._home.copy()
        count = len(courses)
        self._seeds = [course.seed for course in courses]
        self._clock = np.zeros(count, np.int64)
        self._returns = np.zeros(count, np.int64)
        self._untrusted = np.zeros(count, np.int64)
        self._fresh = np.ones(count, bool)
        self._noise = Noise(self._counts, self._ends)
        for row in range(count):
            self._thermalise(row)

    def _set_coefficients(self) -> None:
        """Of each coordinate of each atom, (atoms of all, 3), in the units of ASE."""
        masses = atomic_masses[np.concatenate([c.geometry["numbers"] for c in self._courses])]

        def spread(values: Sequence[float]) -> Array:
            return np.repeat(values, self._counts)

        def column(values: Array) -> Array:
            return np.repeat(values[:, None], 3, axis=1)

        steps = spread([course.timestep_fs * units.fs for course in self._courses])
        frictions = spread([c.friction_per_ps / (1000 * units.fs) for c in self._courses])
        thermal = np.sqrt(spread([units.kB * c.temperature_K for c in self._courses]) / masses)
        self._kick = column(steps / masses)
        self._half_step = column(steps / 2)
        self._thermal = column(thermal)
        self._memory = column(np.exp(-frictions * steps))
        self._agitation = column(thermal * np.sqrt(-np.expm1(-2 * frictions * steps)))
        self._damped = bool(frictions.any())

    def step(self, rows: NDArray[np.intp], feedback: Feedbacks | None) -> Batch:
        """Move these walkers by the mean forces; without feedback, return where they are."""
        atoms = self._atoms(rows)
        if feedback is None:
            return self._samples(rows, self._positions[atoms].copy())
        forces = self._forces(rows, feedback.mean)
        back = self._judge(rows, atoms, forces, feedback.trusted)
        moved = self._move(rows, atoms, forces)
        self._positions[atoms] = moved
        self._fresh[rows] = False
        self._clock[rows] += 1
        if back.any():
            self._send_back(rows[back])
            moved = self._positions[atoms].copy()
        return self._samples(rows, moved)

    def _atoms(self, rows: NDArray[np.intp]) -> Any:
        """Where the atoms of these walkers are: an index into arrays (atoms of all, ...)."""
        if len(rows) == len(self._counts):
            return slice(None)
        if len(rows) == 1:
            return self._slice(int(rows[0]))
        chosen = np.zeros(len(self._counts), bool)
        chosen[rows] = True
        return np.flatnonzero(np.repeat(chosen, self._counts))

    def _slice(self, row: int) -> slice:
        return slice(int(self._ends[row] - self._counts[row]), int(self._ends[row]))

    def _samples(self, rows: NDArray[np.intp], positions: Array) -> Batch:
        if self._uniform:
            whole = len(rows) == len(self._counts)
            constants = {n: c if whole else c[rows] for n, c in self._constants.items()}
            shaped = positions.reshape(len(rows), -1, 3)
            return Batch.stacked({"positions": shaped, **constants})
        parts = np.split(positions, np.cumsum(self._counts[rows])[:-1])
        return Batch(
            [
                {**self._courses[row].geometry, "positions": part}
                for row, part in zip(rows.tolist(), parts, strict=True)
            ]
        )

    def _forces(self, rows: NDArray[np.intp], mean: Batch) -> Array:
        """Return the mean forces, (atoms of these walkers, 3) in eV/Å.

        Raises:
            ContractError: the models predict none. ShapeError: not those of these atoms.
        """
        counts = self._counts[rows]
        if mean.uniform and (counts == counts[0]).all():
            if "forces" not in mean.columns:
                raise _no_forces(mean[0])
            forces = mean["forces"]
            if forces.shape == (len(rows), counts[0], 3):
                return np.ascontiguousarray(forces, dtype=float).reshape(-1, 3)
        parts = []
        for label, count in zip(mean, counts.tolist(), strict=True):
            if not (isinstance(label, Mapping) and "forces" in label):
                raise _no_forces(label)
            parts.append(np.asarray(label["forces"], dtype=float))
            if parts[-1].shape != (count, 3):
                raise ShapeError(
                    f"batched_dynamics: the models returned forces of shape {parts[-1].shape} "
                    f"for a molecule of {count} atoms; expected ({count}, 3)"
                )
        return np.concatenate(parts)

    # -- the rules of `pal.kernels.generators.parts.caution.Caution`, for many

    def _judge(
        self, rows: NDArray[np.intp], atoms: Any, forces: Array, trusted: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Note who may be trusted here, and return who has to go back: bool (rows,).

        As in `pal.kernels.generators.parts.guard.Guard`, an answer for the very geometry that a
        walker goes on from is not judged.
        """
        counts, heeded = self._counts[rows], ~self._fresh[rows]
        starts = 3 * (np.cumsum(counts) - counts)
        largest = np.maximum.reduceat(np.abs(forces).reshape(-1), starts)
        sound = largest <= self._max_force[rows]
        calm = sound & trusted & heeded
        untrusted = np.where(calm, 0, self._untrusted[rows] + heeded)
        self._untrusted[rows] = untrusted
        if calm.all():
            self._refuge[atoms] = self._positions[atoms]
        elif calm.any():
            here = self._atoms(rows[calm])
            self._refuge[here] = self._positions[here]
        return heeded & (~sound | (untrusted >= self._patience[rows]))

    def _send_back(self, rows: NDArray[np.intp]) -> None:
        """Put walkers to their refuges, with fresh velocities; from now on these are home."""
        for row in rows.tolist():
            atoms = self._slice(row)
            self._positions[atoms] = self._refuge[atoms]
            self._refuge[atoms] = self._home[atoms]
            self._untrusted[row] = 0
            self._returns[row] += 1
            self._fresh[row] = True
            self._thermalise(row)

    def _thermalise(self, row: int) -> None:
        """Draw velocities from the Maxwell-Boltzmann distribution."""
        atoms = self._slice(row)
        rng = _stream(self._seeds[row], _VELOCITIES, int(self._returns[row]))
        drawn = rng.standard_normal((int(self._counts[row]), 3))
        self._velocities[atoms] = self._thermal[atoms] * drawn

    # -- the step

    def _move(self, rows: NDArray[np.intp], atoms: Any, forces: Array) -> Array:
        """Return where these walkers go, (their atoms, 3) in Å, and change their velocities."""
        velocities, half = self._velocities[atoms], self._half_step[atoms]
        kick = forces * self._kick[atoms]
        if self._fresh[rows].any():
            kick *= np.repeat(np.where(self._fresh[rows], 0.5, 1.0), self._counts[rows])[:, None]
        velocities = velocities + kick
        drift = velocities * half
        moved: Array = self._positions[atoms] + drift
        if self._damped:
            velocities *= self._memory[atoms]
            noise = self._noise.take(rows, atoms, self._seeds, self._clock)
            velocities += np.multiply(noise, self._agitation[atoms], out=kick)
            np.multiply(velocities, half, out=drift)
        moved += drift
        self._velocities[atoms] = velocities
        return moved

    # -- states

    def get_state(self, row: int) -> dict[str, Any]:
        """Return all that one trajectory depends on, but for its settings."""
        atoms = self._slice(row)
        return {
            "positions": self._positions[atoms].copy(),
            "velocities": self._velocities[atoms].copy(),
            "refuge": self._refuge[atoms].copy(),
            "seed": self._seeds[row],
            "clock": int(self._clock[row]),
            "returns": int(self._returns[row]),
            "untrusted": int(self._untrusted[row]),
            "fresh": bool(self._fresh[row]),
        }

    def set_state(self, row: int, state: Any) -> None:
        """Continue one trajectory from `get_state`.

        Raises:
            ContractError: it is that of a molecule of another size.
        """
        atoms, count = self._slice(row), int(self._counts[row])
        if state["positions"].shape != (count, 3):
            raise ContractError(
                f"batched_dynamics: the saved state is that of {len(state['positions'])} atoms, "
                f"this walker's start has {count}; use the same start, or a fresh directory"
            )
        self._positions[atoms] = state["positions"]
        self._velocities[atoms] = state["velocities"]
        self._refuge[atoms] = state["refuge"]
        self._seeds[row] = state["seed"]
        self._clock[row] = state["clock"]
        self._returns[row] = state["returns"]
        self._untrusted[row] = state["untrusted"]
        self._fresh[row] = state["fresh"]
        self._noise.forget(row)


class Noise:
    """Standard normal numbers, each walker's from a stream of its own, drawn in blocks of steps.

    A block is seeded by the walker's seed and the block's number, so that a walker finds its
    numbers again from its clock alone. How long a block is depends on the walker's size only.
    """

    def __init__(self, counts: Array, ends: Array) -> None:
        self._counts, self._ends = counts, ends
        self._lengths = np.clip(_BLOCK_ATOMS // counts, 1, _LONGEST_BLOCK)
        self._blocks = np.full(len(counts), -1)
        self._drawn = np.empty((0, 0, 3))

    def take(
        self, rows: NDArray[np.intp], atoms: Any, seeds: Sequence[int], clock: Array
    ) -> Array:
        """Return the numbers of these walkers, (their atoms, 3), at the times of their clocks."""
        numbers: Array
        blocks, place = np.divmod(clock[rows], self._lengths[rows])
        stale = blocks != self._blocks[rows]
        if stale.any():
            self._draw(rows[stale].tolist(), blocks[stale].tolist(), seeds)
        if (place == place[0]).all():
            numbers = self._drawn[int(place[0])][atoms]
            return numbers
        if isinstance(atoms, slice):
            atoms = np.arange(self._drawn.shape[1])[atoms]
        numbers = self._drawn[np.repeat(place, self._counts[rows]), atoms]
        return numbers

    def _draw(self, rows: Sequence[int], blocks: Sequence[int], seeds: Sequence[int]) -> None:
        if not self._drawn.size:
            self._drawn = np.empty((int(self._lengths.max()), int(self._ends[-1]), 3))
        for row, block in zip(rows, blocks, strict=True):
            count, end, length = (int(a[row]) for a in (self._counts, self._ends, self._lengths))
            drawn = _stream(seeds[row], _KICKS, block).standard_normal((length, count, 3))
            self._drawn[:length, end - count : end] = drawn
            self._blocks[row] = block

    def forget(self, row: int) -> None:
        """Draw anew for this walker: it has another seed."""
        self._blocks[row] = -1


def _stream(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64((seed, purpose, number)))


def _no_forces(label: Label) -> ContractError:
    came = sorted(label) if isinstance(label, Mapping) else "an array"
    return ContractError(
        "batched_dynamics needs models that predict the named array 'forces' (eV/Å); "
        f"they predict {came}"
    )
