"""Harmonic vibrations: second derivatives, normal modes and their widths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from ase import Atoms, units

from pal.records import Array

HBAR: Final = float(units._hbar * units.J * units.s)
"""In eV times ASE's unit of time."""


def finite_differences(forces: Callable[[Array], Array], positions: Array, step: float) -> Array:
    """Return second derivatives (3 a, 3 a) in eV/Å^2, symmetric, by central differences.

    `forces` maps positions (a, 3) in Å to forces (a, 3) in eV/Å; it is called 6 a times.
    """
    rows = []
    for index in range(positions.size):
        away = (step * (np.arange(positions.size) == index)).reshape(positions.shape)
        rows.append((forces(positions - away) - forces(positions + away)).ravel() / (2 * step))
    hessian: Array = np.array(rows)
    return 0.5 * (hessian + hessian.T)


def normal_modes(atoms: Atoms, hessian: Array) -> tuple[Array, Array]:
    """Return wavenumbers (n,) in 1/cm, and displacements (n, a, 3) for one unit of each mode.

    A unit is Å sqrt(amu). Translations, and for molecules rotations, are projected out and
    come with wavenumber 0; imaginary frequencies come as negative numbers.
    """
    roots = np.repeat(np.sqrt(atoms.get_masses()), 3)
    rigid = _rigid(atoms) * roots
    _, sizes, right = np.linalg.svd(rigid, full_matrices=False)
    basis = right[sizes > 1e-6 * sizes[0]]
    projector = np.eye(len(roots)) - basis.T @ basis
    values, vectors = np.linalg.eigh(projector @ (hessian / np.outer(roots, roots)) @ projector)
    within = np.linalg.norm(basis @ vectors, axis=0)
    values[within > 0.5] = 0.0
    wavenumbers = np.sign(values) * np.sqrt(np.abs(values)) * HBAR / units.invcm
    return wavenumbers, (vectors / roots[:, None]).T.reshape(-1, len(atoms), 3)


def _rigid(atoms: Atoms) -> Array:
    """Rigid motions (3 or 6, 3 a); rotations only where nothing is periodic."""
    motions = [np.tile(axis, len(atoms)) for axis in np.eye(3)]
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        motions += [np.cross(axis, arms).ravel() for axis in np.eye(3)]
    return np.array(motions)


def classical_width(wavenumbers: Array, kelvin: float) -> Array:
    """Standard deviation, Å sqrt(amu), of harmonic modes by Boltzmann: sqrt(k_B T) / omega."""
    return np.asarray(np.sqrt(units.kB * kelvin) / _omega(wavenumbers))


def wigner_width(wavenumbers: Array, kelvin: float) -> Array:
    """Standard deviation, Å sqrt(amu), of the thermal quantum oscillator.

    sigma^2 = hbar / (2 omega) coth(hbar omega / (2 k_B T)): Hillery, O'Connell, Scully and
    Wigner, Phys. Rep. 106, 121 (1984). At 0 K it is the ground state's.
    """
    omega = _omega(wavenumbers)
    with np.errstate(divide="ignore"):
        thermal = np.tanh(HBAR * omega / (2 * units.kB * np.float64(kelvin)))
    return np.asarray(np.sqrt(HBAR / (2 * omega * thermal)))


def _omega(wavenumbers: Array) -> Array:
    """Angular frequencies in ASE's unit of time."""
    return np.asarray(wavenumbers * units.invcm / HBAR)
