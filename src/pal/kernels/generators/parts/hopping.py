"""The steps of surface hopping as functions: nuclei, electronic amplitudes, hops.

Units are those of ASE: Å, eV, amu, and a time in which they fit together. `s` counts electronic
states, lowest first, `a` atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from ase import units

from pal.records import Array

HBAR: Final = float(units._hbar * units.J * units.s)
"""In eV times ASE's unit of time."""

TINY_GAP: Final = 1e-9
"""In eV; a smaller gap between two states is taken for this one."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A trajectory at one of its steps, with all the committee said of it.

    `positions`, `velocities`: (a, 3). `active`: the state whose forces move the atoms.
    `amplitudes`: complex (s,). `energies`: (s,), `forces`: (s, a, 3). `earlier`: energies of the
    step before, if there was one since the beginning or the last hop. `visits`: (step, state) at
    the beginning and at each hop. `total`: the energy that should be conserved, in eV. Arrays are
    never changed in place.
    """

    step: int
    positions: Array
    velocities: Array
    active: int
    amplitudes: Array
    energies: Array
    forces: Array
    earlier: Array | None
    visits: tuple[tuple[int, int], ...]
    total: float


def pure(states: int, active: int) -> Array:
    """Amplitudes of a single populated state, complex (s,)."""
    amplitudes: Array = np.eye(states, dtype=complex)[active]
    return amplitudes


def kinetic(velocities: Array, masses: Array) -> float:
    """Kinetic energy in eV; `masses` (a, 1) in amu."""
    return float(0.5 * (masses * velocities**2).sum())


def ahead(moment: Moment, masses: Array, timestep: float) -> Array:
    """Positions one step later: the first half of velocity Verlet."""
    acceleration = moment.forces[moment.active] / masses
    move: Array = timestep * (moment.velocities + 0.5 * timestep * acceleration)
    return moment.positions + move


def arrived(moment: Moment, forces: Array, masses: Array, timestep: float) -> Array:
    """Velocities one step later, where the forces are these: the rest of velocity Verlet."""
    both = moment.forces[moment.active] + forces[moment.active]
    velocities: Array = moment.velocities + 0.5 * timestep * both / masses
    return velocities


def couplings(energies: tuple[Array, Array], rates: tuple[Array, Array], timestep: float) -> Array:
    """Time-derivative couplings (s, s) of one step from the curvature of the gaps.

    T_jk = sgn(Z) / 2 sqrt(Z'' / Z) with the gap Z = E_j - E_k, and 0 where Z''/Z is negative: Shu,
    Zhang, Chen, Sun, Huang and Truhlar, J. Chem. Theory Comput. 18, 1320 (2022). Exact for a
    linear crossing with constant coupling. `energies` and their `rates` of change (s,) are those
    at both ends of the step; Z'' and Z hold in its middle.
    """
    gap_before, gap_after = (row[:, None] - row[None] for row in energies)
    rate_before, rate_after = (row[:, None] - row[None] for row in rates)
    bend = (rate_after - rate_before) / timestep
    mean = 0.5 * (gap_before + gap_after)
    sign = np.sign(np.subtract.outer(np.arange(len(bend)), np.arange(len(bend))))
    # The cubic through both ends may miss a sharp crossing; at a symmetric one Z is half the mean.
    middle = np.maximum(sign * (mean - bend * timestep**2 / 8), 0.5 * sign * mean)
    result: Array = 0.5 * sign * np.sqrt(np.maximum(sign * bend, 0) / np.maximum(middle, TINY_GAP))
    return result


def propagated(
    moment: Moment, energies: Array, coupling: Array, timestep: float, substeps: int
) -> tuple[Array, Array]:
    """Carry the amplitudes over one step; return them, and the hazards of leaving `active`.

    Solves i hbar c' = (E - i hbar T) c with linearly interpolated energies, in two halves of each
    of `substeps`: exp(-iEh/2) exp(-Th) exp(-iEh/2), unitary and of second order (Strang, SIAM J.
    Numer. Anal. 5, 506 (1968)). The hazard (s,) of a hop to k is the integral of Tully's
    rate of fewest switches, 2 Re(c_a* c_k T_ak) / |c_a|^2 where that is positive: J. Chem. Phys.
    93, 1061 (1990).
    """
    active, amplitudes = moment.active, moment.amplitudes
    step = timestep / substeps
    share = (np.arange(substeps) + 0.5)[:, None] / substeps
    path = (1 - share) * moment.energies + share * energies
    path -= path.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(1j * coupling)
    turn = ((vectors * np.exp(0.5j * step * values)) @ vectors.conj().T).real
    phases = np.exp(-0.25j * step / HBAR * path)
    halves = phases[:, :, None] * turn * phases[:, None]
    middles = np.empty((substeps, len(energies)), dtype=complex)
    for middle, half in zip(middles, halves, strict=True):
        middle[:] = half @ amplitudes
        amplitudes = half @ middle
    flux = 2 * (middles[:, active, None].conj() * middles * coupling[active]).real
    population = np.maximum(np.abs(middles[:, active, None]) ** 2, 1e-12)
    return amplitudes, step * (np.maximum(flux, 0.0) / population).sum(axis=0)


def decohered(
    amplitudes: Array, energies: Array, active: int, energy: float, dt: float, constant: float
) -> Array:
    """Damp the amplitudes of all states but the active one; the norm is kept.

    The lifetime of k is hbar / |E_k - E_a| (1 + constant / kinetic energy): Granucci and Persico,
    J. Chem. Phys. 126, 134114 (2007). `energy` is the kinetic one, `constant` is in eV.
    """
    rates = np.abs(energies - energies[active]) / HBAR * energy / (energy + constant)
    damped: Array = amplitudes * np.exp(-dt * rates)
    damped[active] = 0.0
    rest = np.sqrt(max(0.0, 1.0 - float((np.abs(damped) ** 2).sum())))
    damped[active] = rest * np.exp(1j * np.angle(amplitudes[active]))
    return damped


def landau_zener(before: Array, here: Array, after: Array, timestep: float) -> Array:
    """Probabilities of a hop where a gap `here` is the smallest of three consecutive ones.

    P = exp(-pi / (2 hbar) sqrt(Z^3 / Z'')): Belyaev, Lasser and Trigila, J. Chem. Phys. 140,
    224108 (2014). All arrays have the same shape, gaps are positive and in eV.
    """
    bend = (before - 2 * here + after) / timestep**2
    lowest = (before > here) & (here <= after)
    exponent = np.sqrt(here**3 / np.where(lowest, bend, np.inf))
    return np.where(lowest, np.exp(-0.5 * np.pi / HBAR * exponent), 0.0)


def drawn(probabilities: Array, uniform: float) -> int | None:
    """Return the index that a number from 0 to 1 picks, or None where nothing happens."""
    edges = np.cumsum(probabilities)
    chosen = int(np.searchsorted(edges, uniform, side="right"))
    return chosen if chosen < len(edges) else None


def from_hazards(hazards: Array) -> Array:
    """Probabilities of leaving within a step: in all 1 - exp(-sum), shared by the hazards."""
    total = hazards.sum()
    return hazards * (-np.expm1(-total) / total) if total > 0 else hazards


def rescaled(
    velocities: Array, masses: Array, cost: float, direction: Array | None = None
) -> Array | None:
    """Pay `cost` (eV) with kinetic energy; return the velocities after it, or None: too dear.

    The momentum changes along `direction` (a, 3), or along itself where that is None or zero.
    """
    push, square, along = _along(velocities, masses, direction)
    root = along**2 - 2 * square * cost
    if square == 0.0 or root < 0.0:
        return None
    factor = (np.copysign(np.sqrt(root), along) - along) / square
    change: Array = factor * push / masses
    return velocities + change


def turned(velocities: Array, masses: Array, direction: Array | None = None) -> Array:
    """Turn the momentum along `direction` round, or all of it."""
    push, square, along = _along(velocities, masses, direction)
    change: Array = (2 * along / square if square else 0.0) * push / masses
    return velocities - change


def _along(
    velocities: Array, masses: Array, direction: Array | None
) -> tuple[Array, float, float]:
    push = masses * velocities if direction is None or not direction.any() else direction
    return push, float((push**2 / masses).sum()), float((push * velocities).sum())
