"""Random geometries of an atom on its way from one atom to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from pal.errors import ContractError
from pal.kernels.atoms import starts, to_atoms, to_sample
from pal.kernels.generators.displacement import TRIES
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.numbered import Numbered, rng_of
from pal.records import Array, Sample
from pal.roles import Context

SLACK: Final = 1.2
"""How much longer than the sum of covalent radii a bond may be."""


class Transfer(Numbered):
    """An atom handed from a donor to an acceptor, at random: hydrogen and proton transfers.

    Each sample is drawn anew from one of the start geometries, whatever the committee says of the
    last one. The molecule or fragment of the acceptor is put to a random distance on the line
    that joins donor and acceptor, both are tilted and turned, the atom is set somewhere between
    them, nearer to either end with equal odds, and all atoms are displaced a little. So the
    stream holds reactants, products and what lies between, without any force call; for hydrogen
    the sampling of Riedmiller et al., Chem. Sci. 15, 2518 (2024). Within one molecule only the
    atom moves. Samples with overlapping atoms are drawn again. It serves as a walker, and as
    `initial.kernel` for the first labels.

    Options:
        start: file of one or more geometries, taken in turn by samples and walkers.
        atoms: indices of the donor, the atom that moves and the acceptor, in each geometry.
        distances: in Å, the smallest and the largest distance of donor and acceptor.
        stretch: in Å; how much longer than at rest the atom's bond to the nearer end may be.
        tilt: in degrees; each fragment is tilted by up to so much against the line.
        scales: in Å, taken in turn after the geometries; standard deviation of each coordinate's
            displacement.
        min_distance: fraction of the sum of two atoms' covalent radii; samples with closer ones
            are drawn again. 0: no bound.
        count: samples made for `initial.kernel`; walkers go on for ever.

    Example:
        [generator]
        kernel = "transfer"
        walkers = 8

        [generator.options]
        start = "complexes.xyz"
        atoms = [0, 1, 2]                   # donor, hydrogen, acceptor
        distances = [2.4, 3.6]
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        atoms: Sequence[int],
        distances: Sequence[float] = (2.4, 3.6),
        stretch: float = 0.5,
        tilt: float = 20.0,
        scales: Sequence[float] = (0.05,),
        min_distance: float = 0.6,
        count: int = 100,
    ) -> None:
        if not (len(distances) == 2 and 0 < distances[0] <= distances[1]):
            raise ContractError(
                "transfer: expected distances = [smallest, largest] > 0 (Å); "
                f"got {list(distances)}"
            )
        if not (stretch >= 0 and tilt >= 0 and scales and min(scales) >= 0):
            raise ContractError(
                "transfer: expected stretch >= 0 (Å), tilt >= 0 (degrees) and one or more "
                f"scales >= 0 (Å); got {stretch}, {tilt}, {list(scales)}"
            )
        self._context = context
        self._handovers = [
            Handover(to_atoms(geometry), atoms, min_distance)
            for geometry in starts(start, "transfer")
        ]
        self._distances = distances
        self._stretch = stretch
        self._tilt = np.radians(tilt)
        self._scales = scales
        super().__init__(context, count)

    def _make(self, number: int) -> Sample:
        turn, place = divmod(number, len(self._handovers))
        scale = float(self._scales[turn % len(self._scales)])
        rng = rng_of(self._context, number)
        handover = self._handovers[place]
        for _ in range(TRIES):
            positions = handover.draw(rng, self._distances, self._stretch, self._tilt)
            positions += scale * rng.normal(size=positions.shape)
            if handover.bounds.hold(positions):
                drawn = handover.home.copy()
                drawn.positions = positions
                return to_sample(drawn)
        raise ContractError(
            f"transfer: {TRIES} random geometries of {handover.home.symbols} in a row had "
            "overlapping atoms; choose larger distances, smaller scales or a smaller min_distance"
        )


class Handover:
    """One start geometry, with what moves: the atom, and the fragments at either end."""

    def __init__(self, home: Atoms, triple: Sequence[int], min_distance: float) -> None:
        if len(set(triple)) != 3 or not all(0 <= index < len(home) for index in triple):
            raise ContractError(
                "transfer: expected atoms = [donor, moving atom, acceptor], three different "
                f"indices from 0 to {len(home) - 1}; got {list(triple)}"
            )
        self.home = home
        self.bounds = Bounds(home, "transfer", min_distance=min_distance)
        self._donor, self._moving, self._acceptor = triple
        radii = covalent_radii[home.numbers]
        self._at_rest = radii[self._moving] + radii[[self._donor, self._acceptor]]
        fragment = _fragments(home, self._moving)
        apart = fragment[self._donor] != fragment[self._acceptor]
        self._ends = [
            np.flatnonzero(apart & (fragment == fragment[end]))
            for end in (self._donor, self._acceptor)
        ]

    def draw(
        self, rng: np.random.Generator, distances: Sequence[float], stretch: float, tilt: float
    ) -> Array:
        """Return positions (atoms, 3) in Å."""
        positions = np.array(self.home.positions)
        ends = (self._donor, self._acceptor)
        line = positions[self._acceptor] - positions[self._donor]
        along = line / np.linalg.norm(line)
        for end, fragment in zip(ends, self._ends, strict=True):
            turn = _rotation(rng, along, tilt)
            positions[fragment] = positions[end] + (positions[fragment] - positions[end]) @ turn
        positions[self._ends[1]] += rng.uniform(distances[0], distances[1]) * along - line
        side = rng.integers(2)
        away = positions[ends[1 - side]] - positions[ends[side]]
        apart = float(np.linalg.norm(away))
        longest = max(0.0, min(stretch, (apart - self._at_rest.sum()) / 2))
        length = self._at_rest[side] + rng.uniform(0.0, longest)
        positions[self._moving] = positions[ends[side]] + length / apart * away
        return positions


def _fragments(atoms: Atoms, without: int) -> Array:
    """Return the number of the fragment that each atom belongs to, one atom's bonds cut."""
    radii = covalent_radii[atoms.numbers]
    joined = atoms.get_all_distances(mic=True) < SLACK * (radii[:, None] + radii)
    joined[without], joined[:, without] = False, False
    joined[without, without] = True
    for _ in range(len(atoms).bit_length()):
        joined = joined @ joined
    return np.asarray(joined.argmax(axis=1))


def _rotation(rng: np.random.Generator, axis: Array, tilt: float) -> Array:
    """Return a matrix: any turn about an axis, then a tilt of it by up to `tilt` radians."""
    across = np.cross(axis, rng.normal(size=3))
    across /= np.linalg.norm(across)
    turned = _about(axis, rng.uniform(0.0, 2 * np.pi)) @ _about(across, rng.uniform(0.0, tilt))
    return np.asarray(turned)


def _about(axis: Array, angle: float) -> Array:
    """Return the matrix that turns row vectors about an axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return np.asarray(turn.T)
