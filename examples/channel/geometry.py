"""The channel, and what an optimiser may change: where its eddy promoters stand.

Lengths are in channel heights, and the flow goes along x. The channel repeats itself after some
slots of length `PITCH`. In every slot there are two promoters, one in the lower and one in the
upper half of the channel, and each may stand anywhere there, but not nearer than `GAP` to a wall
or to what stands elsewhere. So every point of the box of parameters is a channel that can be
built.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PITCH = 1.0
RADIUS = 0.08
GAP = 0.08
PIXELS = 12
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
    """Return the channel that has these promoters, two in each slot."""
    return Channel(promoters, PITCH * len(promoters) / 2)


def promoters(parameters: Array) -> Array:
    """Place promoters (n, 3): parameters (2 n,) from 0 to 1 say where in their places they stand.

    First those along the flow, then those across it, where 0 is next to the wall and 1 next to
    the middle. The order is slot by slot, in each the lower one first.
    """
    along, across = parameters.reshape(2, -1)
    slot, upper = np.divmod(np.arange(len(along)), 2)
    edge = RADIUS + GAP / 2
    x = PITCH * slot + edge + (PITCH - 2 * edge) * along
    from_wall = edge + GAP / 2 + (0.5 - 2 * edge - GAP / 2) * across
    y = np.where(upper == 1, 1 - from_wall, from_wall)
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
