"""Samples of a molecule's vibrations at a temperature."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from pal.building import nested
from pal.errors import ContractError, KernelImportError, LabelFailure
from pal.kernels.atoms import starts, to_atoms, to_sample
from pal.kernels.generators.displacement import bounded
from pal.kernels.generators.parts import vibrations
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.journal import fingerprint
from pal.kernels.generators.parts.numbered import Numbered, rng_of
from pal.records import Array, Sample, named
from pal.roles import Context, Oracle

STEP = 0.005
"""In Å, of the finite differences."""
WIDTHS = {"classical": vibrations.classical_width, "wigner": vibrations.wigner_width}


class NormalModes(Numbered):
    """Geometries drawn from the harmonic vibrations around minima, at a temperature.

    Normal-mode sampling after Smith, Isayev and Roitberg, Chem. Sci. 8, 3192 (2017), but with
    amplitudes drawn from the harmonic Boltzmann distribution itself, or from the Wigner
    distribution of the thermal quantum oscillator. Each sample is drawn anew, whatever the
    committee says of the last one; those with overlapping atoms are drawn again. It serves as
    a walker, and as `initial.kernel` for the first labels.

    The second derivatives are read from a file, or computed with an oracle by central
    differences: six labels per atom, when a walker first comes to a geometry. They are kept in
    the walker's directory as hessian-<number>.npy, and found there after a restart.

    Options:
        start: file of one or more geometries, relaxed, taken in turn by samples and walkers.
        hessian: file (.npy) of second derivatives in eV/Å^2, of shape (3 a, 3 a) for one
            geometry of a atoms, or (n, 3 a, 3 a) for n.
        oracle: instead of `hessian`: the oracle that computes them, its name or a table like the
            section [oracle], with kernel and options.
        temperatures_K: in K, taken in turn after the geometries.
        distribution: "classical" (Boltzmann) or "wigner" (quantum, with zero-point motion).
        min_wavenumber: in 1/cm; softer modes, and imaginary ones, stay at rest, because they are
            not harmonic.
        min_distance: fraction of the sum of two atoms' covalent radii; samples with closer ones
            are drawn again. 0: no bound.
        count: samples made for `initial.kernel`; walkers go on for ever.

    Example:
        [initial]
        kernel = "normal_modes"

        [initial.options]
        start = "start.xyz"
        oracle = { kernel = "xtb" }
        temperatures_K = [300, 600]
        count = 40
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        hessian: Path | str | None = None,
        oracle: str | Mapping[str, Any] | None = None,
        temperatures_K: Sequence[float] = (300.0,),  # noqa: N803 - the unit's symbol
        distribution: Literal["classical", "wigner"] = "classical",
        min_wavenumber: float = 50.0,
        min_distance: float = 0.5,
        count: int = 100,
    ) -> None:
        if (hessian is None) == (oracle is None):
            raise ContractError("normal_modes: expected one of the options hessian and oracle")
        if distribution not in WIDTHS or not min_wavenumber > 0:
            raise ContractError(
                "normal_modes: expected distribution = 'classical' or 'wigner', and "
                f"min_wavenumber > 0 (1/cm); got {distribution!r}, {min_wavenumber}"
            )
        if not temperatures_K or min(temperatures_K) < 0:
            raise ContractError(
                "normal_modes: expected one or more temperatures_K >= 0; "
                f"got {list(temperatures_K)}"
            )
        self._context = context
        self._homes = [to_atoms(geometry) for geometry in starts(start, "normal_modes")]
        self._bounds = [
            Bounds(home, "normal_modes", min_distance=min_distance) for home in self._homes
        ]
        self._hessians = None if hessian is None else _read(Path(hessian), self._homes)
        self._oracle = oracle
        self._kelvin = temperatures_K
        self._width = WIDTHS[distribution]
        self._softest = min_wavenumber
        self._modes: dict[int, tuple[Array, Array]] = {}
        super().__init__(context, count)

    def _make(self, number: int) -> Sample:
        turn, place = divmod(number, len(self._homes))
        if place not in self._modes:
            self._modes[place] = self._vibrations(place)
        wavenumbers, directions = self._modes[place]
        widths = self._width(wavenumbers, float(self._kelvin[turn % len(self._kelvin)]))
        rng = rng_of(self._context, number)
        atoms = self._homes[place].copy()

        def draw() -> Array:
            return np.tensordot(widths * rng.normal(size=len(widths)), directions, axes=1)

        atoms.positions += bounded(draw, atoms.positions, self._bounds[place], "normal_modes")
        return to_sample(atoms)

    def _vibrations(self, place: int) -> tuple[Array, Array]:
        """Wavenumbers and displacements of the modes that move."""
        home = self._homes[place]
        hessian = self._computed(home) if self._hessians is None else self._hessians[place]
        wavenumbers, directions = vibrations.normal_modes(home, hessian)
        moving = wavenumbers >= self._softest
        return wavenumbers[moving], directions[moving]

    def _computed(self, home: Atoms) -> Array:
        """Second derivatives by the oracle, or those of an earlier run."""
        sample = to_sample(home)
        number = zlib.crc32(repr(self._oracle).encode(), fingerprint(sample))
        path = self._context.directory / f"hessian-{number:08x}.npy"
        if path.exists():
            kept: Array = np.load(path)
            return kept
        hessian = self._differences(sample)
        unfinished = path.with_suffix(f".{os.getpid()}.npy")
        np.save(unfinished, hessian)
        unfinished.replace(path)
        return hessian

    def _differences(self, sample: Mapping[str, Array]) -> Array:
        context = replace(self._context, role="oracle")
        oracle = nested("oracle", self._oracle, context, "normal_modes: oracle")

        def forces(positions: Array) -> Array:
            with (
                tempfile.TemporaryDirectory(dir=self._context.directory) as scratch,
                contextlib.chdir(scratch),
            ):
                return _forces(oracle, {**sample, "positions": positions})

        return vibrations.finite_differences(forces, sample["positions"], STEP)


def _forces(oracle: Oracle, sample: Sample) -> Array:
    """Return the forces of a sample by the oracle.

    Raises:
        ContractError: it has none for it.
    """
    try:
        label = named(oracle.label(sample))
    except LabelFailure as failure:
        raise ContractError(
            f"normal_modes: the oracle failed beside a start geometry: {failure}"
        ) from failure
    if "forces" not in label:
        raise ContractError(
            f"normal_modes: the oracle's labels need the array 'forces'; got {sorted(label)}"
        )
    return label["forces"]


def _read(path: Path, homes: Sequence[Atoms]) -> Array:
    """Read second derivatives, one matrix for each geometry.

    Raises:
        KernelImportError: the file cannot be read.
        ContractError: its shape does not fit.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise KernelImportError(
            f"normal_modes: cannot read hessian = '{path}': {error}; expected a file that "
            "numpy.save wrote"
        ) from error
    size = 3 * len(homes[0])
    matrices: Array = array[None] if array.ndim == 2 else array
    fits = matrices.shape == (len(homes), size, size) and np.isfinite(matrices).all()
    if not fits or any(len(home) != len(homes[0]) for home in homes):
        raise ContractError(
            f"normal_modes: hessian = '{path}' has the shape {array.shape}; expected finite "
            f"numbers of shape ({size}, {size}) for each of the {len(homes)} geometries of "
            "`start`, which must have the same number of atoms"
        )
    return np.asarray(0.5 * (matrices + matrices.transpose(0, 2, 1)), dtype=float)
