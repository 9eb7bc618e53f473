"""The channel, and what an optimiser may change: where its eddy promoters stand.

Lengths are in channel heights, and the flow goes along x. The channel repeats itself after
`PITCH` for each promoter; within it every promoter has a slot of its own, in which it may stand
anywhere but nearer than `GAP` to a wall, or to the slot's end. So no two overlap, and every point
of the box of parameters is a channel that can be built.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PITCH = 0.8
RADIUS = 0.1
GAP = 0.05
PIXELS = 10
"""Pixels of the picture for each channel height."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Channel:
    """A channel of height 1 that repeats itself after `length`.

    `promoters` (n, 3): circles x, y, radius. They may lie across the end of the period.
    """

    promoters: Array
    length: float

    def distance(self, points: Array) -> Array:
        """Return the distance of points (2, ...) from the promoters, negative inside (...)."""
        result = np.full(points.shape[1:], np.inf)
        for x, y, radius in self.promoters:
            across = (points[0] - x + self.length / 2) % self.length - self.length / 2
            result = np.minimum(result, np.hypot(across, points[1] - y) - radius)
        return result


def channel(promoters: Array) -> Channel:
    """Return the channel that has these promoters, one in each slot."""
    return Channel(promoters, PITCH * len(promoters))


def promoters(parameters: Array) -> Array:
    """Place promoters (n, 3): parameters (2 n,) from 0 to 1 say where in their slots they stand.

    First those along the flow, then those across it.
    """
    along, across = parameters.reshape(2, -1)
    edge = RADIUS + GAP
    x = PITCH * np.arange(len(along)) + edge + (PITCH - 2 * edge) * along
    y = edge + (1 - 2 * edge) * across
    return np.stack([x, y, np.full_like(x, RADIUS)], axis=1)


def sample(parameters: Array) -> dict[str, Array]:
    """Return what the oracle needs (`promoters`) and what the networks see (`picture`)."""
    places = promoters(parameters)
    return {"promoters": places, "picture": picture(channel(places))}


def picture(channel: Channel) -> Array:
    """Return how much of each pixel (height, width) is solid, from 0 to 1, as it would be were
    the surface straight within the pixel."""
    width = round(channel.length * PIXELS)
    y, x = np.mgrid[:PIXELS, :width] + 0.5
    places = np.stack([x * channel.length / width, y / PIXELS])
    return np.clip(0.5 - channel.distance(places) * PIXELS, 0.0, 1.0)
