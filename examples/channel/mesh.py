"""Triangles that fit a channel and its promoters.

Points on the surfaces and, away from them, points of two equilateral lattices, a fine one near
the promoters, are joined by Delaunay's triangulation. Points are kept so far from the surfaces
that the chords of these are always edges of it. Copies of the points beyond both ends of the
period make it periodic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from geometry import Array, Channel
from numpy.typing import NDArray
from scipy.spatial import Delaunay

FINER = 2.0
"""How much smaller triangles are near promoters."""
BAND = 0.12
"""How far from a promoter they are so."""
CLEAR = 0.55
"""Nearest distance of a free point to a surface, in mesh widths."""
CUT = 1e-7
"""Where the period is cut: through the middle of no triangle."""


@dataclass(frozen=True)
class Mesh:
    """Triangles (3, m) of points (2, k), of which those at both ends of the period are one.

    `corners` (2, 3 m): where each triangle's corners are, beyond the period if it lies across
    its end.
    """

    points: Array
    triangles: NDArray[np.int32]
    corners: Array


def mesh(channel: Channel, width: float) -> Mesh:
    """Triangulate the fluid with edges of about `width`, and smaller ones near promoters."""
    fine = width / FINER
    dense, coarse = _lattice(channel.length, fine), _lattice(channel.length, width)
    near, far = channel.distance(dense), channel.distance(coarse)
    points = np.hstack(
        [
            _surface(channel, fine),
            dense[:, (near > CLEAR * fine) & (near <= BAND)],
            coarse[:, far > BAND + CLEAR * fine],
        ]
    )
    return _joined(points, channel, width)


def _lattice(length: float, width: float) -> Array:
    """Points of an equilateral lattice, which has a row on either wall."""
    columns = max(3, round(length / width))
    rows = max(2, round(2 / (np.sqrt(3) * width)))
    row, column = np.divmod(np.arange((rows + 1) * columns), columns)
    return np.stack([(column + 0.5 * (row % 2)) * length / columns, row / rows])


def _surface(channel: Channel, width: float) -> Array:
    """Points around each promoter: corners of a polygon that has the circle's area."""
    rings = [np.empty((2, 0))]
    for x, y, radius in channel.promoters:
        corners = max(8, round(2 * np.pi * radius / width))
        turn = 2 * np.pi / corners
        angle = turn * (np.arange(corners) + 0.5)
        equal = radius * np.sqrt(turn / np.sin(turn))
        rings.append(
            np.stack([(x + equal * np.cos(angle)) % channel.length, y + equal * np.sin(angle)])
        )
    return np.hstack(rings)


def _joined(points: Array, channel: Channel, width: float) -> Mesh:
    """Join the points and their copies, and keep one period of the fluid."""
    length = channel.length
    steps = np.array([[length], [0.0]])
    spread = np.hstack([points - steps, points, points + steps])
    near_by = np.flatnonzero(np.abs(spread[0] - length / 2) < length / 2 + 4 * width)
    found = near_by[Delaunay(spread[:, near_by].T).simplices.T]
    centres = spread[:, found].mean(axis=1)
    kept = (centres[0] >= CUT) & (centres[0] < length + CUT) & (channel.distance(centres) > 0)
    found = found[:, kept]
    used, triangles = np.unique(found % points.shape[1], return_inverse=True)
    return Mesh(
        np.ascontiguousarray(points[:, used]),
        np.ascontiguousarray(triangles.reshape(found.shape), dtype=np.int32),
        np.ascontiguousarray(spread[:, found.T.reshape(-1)]),
    )
