"""Designs that fill a box evenly, or by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
from scipy.stats import qmc

from pal.errors import ContractError
from pal.kernels.generators.parts.box import Box, shown
from pal.records import Array, Feedback, Sample
from pal.roles import STOP, Context, Stop

Draw = Callable[[np.random.Generator], Array]
"""Makes one design: points (count, n) between 0 and 1."""


class LatinHypercube:
    """Points that fill a box evenly: Latin hypercube or Sobol sequence.

    In a Latin hypercube of `count` points each of `count` equal slices of every parameter holds
    one point (McKay, Beckman and Conover, Technometrics 21, 239 (1979)); scrambled Sobol points
    are even in all parameters together (Owen, J. Complexity 14, 466 (1998)). As `initial.kernel`
    it makes one design; as a walker it goes through one after the other, whatever the committee
    says of them.

    Options:
        lower: lower bound of each parameter, in its own unit.
        upper: upper bound of each parameter.
        count: points of one design; of a Sobol sequence a power of 2.
        design: "latin_hypercube" or "sobol".
        name: of the array in a sample; without one the sample is a bare array.
        render: 'package.module:function' that makes the sample (or the array `name`) from the
            parameters, an array (n,); importable from the settings file's folder.
        at_end: of a design, a walker begins a fresh one ("continue"), or asks the campaign to
            "stop".
        seed: of a design that all walkers share: walker k of m takes every m-th point from the
            k-th on. Without one, each walker has designs of its own.

    Example:
        [initial]
        kernel = "latin_hypercube"
        options = { lower = [0.0, -1.0], upper = [1.0, 1.0], count = 64 }
    """

    def __init__(
        self,
        context: Context,
        *,
        lower: Sequence[float],
        upper: Sequence[float],
        count: int = 100,
        design: Literal["latin_hypercube", "sobol"] = "latin_hypercube",
        name: str = "",
        render: str | None = None,
        at_end: Literal["continue", "stop"] = "continue",
        seed: int | None = None,
    ) -> None:
        if design not in ("latin_hypercube", "sobol"):
            raise ContractError(
                f"latin_hypercube: design = {design!r} is not known; expected 'latin_hypercube' "
                "or 'sobol'"
            )
        if design == "sobol" and (count < 1 or count & (count - 1)):
            raise ContractError(
                f"latin_hypercube: a Sobol design needs a power of 2 as count; got {count}"
            )
        box = Box(lower, upper, "latin_hypercube")

        def draw(rng: np.random.Generator) -> Array:
            if design == "sobol":
                points: Array = qmc.Sobol(len(box), rng=rng).random(count)
            else:
                points = qmc.LatinHypercube(len(box), rng=rng).random(count)
            return box.scaled(points)

        show = shown("latin_hypercube", name, render)
        self._tour: Final = Tour(context, draw, count, at_end, seed, "latin_hypercube")
        self._show: Final = show

    def __iter__(self) -> Iterator[Sample]:
        """Yield the points of the first design."""
        return map(self._show, self._tour.points())

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next point; without feedback, the present one again."""
        point = self._tour.step(feedback is not None)
        return STOP if point is None else self._show(point)

    def get_state(self) -> Any:
        """Return which point of which design it stands at."""
        return self._tour.place

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self._tour.place = state


class Uniform:
    """Points anywhere in a box, by chance: the baseline for every explorer.

    As `initial.kernel` it yields `count` points; as a walker it goes on and on, whatever the
    committee says of them.

    Options:
        lower: lower bound of each parameter, in its own unit.
        upper: upper bound of each parameter.
        count: points as `initial.kernel`; those of a walker where it is to stop.
        name: of the array in a sample; without one the sample is a bare array.
        render: 'package.module:function' that makes the sample (or the array `name`) from the
            parameters, an array (n,); importable from the settings file's folder.
        at_end: after `count` points a walker goes on ("continue"), or asks the campaign to
            "stop".
        seed: of points that all walkers share: walker k of m takes every m-th point from the
            k-th on. Without one, each walker has points of its own.

    Example:
        [generator]
        kernel = "uniform"
        options = { lower = [0.0, -1.0], upper = [1.0, 1.0] }
    """

    def __init__(
        self,
        context: Context,
        *,
        lower: Sequence[float],
        upper: Sequence[float],
        count: int = 100,
        name: str = "",
        render: str | None = None,
        at_end: Literal["continue", "stop"] = "continue",
        seed: int | None = None,
    ) -> None:
        box = Box(lower, upper, "uniform")

        def draw(rng: np.random.Generator) -> Array:
            return box.scaled(rng.random((count, len(box))))

        self._tour: Final = Tour(context, draw, count, at_end, seed, "uniform")
        self._show: Final = shown("uniform", name, render)

    def __iter__(self) -> Iterator[Sample]:
        """Yield `count` points."""
        return map(self._show, self._tour.points())

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next point; without feedback, the present one again."""
        point = self._tour.step(feedback is not None)
        return STOP if point is None else self._show(point)

    def get_state(self) -> Any:
        """Return which point it stands at."""
        return self._tour.place

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self._tour.place = state


class Tour:
    """A walker's way through designs, each a function of the seed and its own number.

    `place` is (number of the design, point in it); nothing else changes.
    """

    def __init__(
        self,
        context: Context,
        draw: Draw,
        count: int,
        at_end: str,
        seed: int | None,
        kernel: str,
    ) -> None:
        if at_end not in ("continue", "stop"):
            raise ContractError(
                f"{kernel}: at_end = {at_end!r} is not known; expected 'continue' or 'stop'"
            )
        shared = seed is not None
        self._first = context.index if shared else 0
        self._stride = context.count if shared else 1
        if count <= self._first:
            raise ContractError(
                f"{kernel}: expected count >= {self._first + 1}, a point for each of "
                f"{self._stride} walkers; got {count}"
            )
        self._seed = context.seed if seed is None else seed
        self._draw = draw
        self._count = count
        self._stops = at_end == "stop"
        self._drawn: tuple[int, Array] | None = None
        self.place = (0, self._first)

    def points(self) -> Array:
        """Return this walker's points of the first design, (count, n)."""
        return self._design(0)[self._first :: self._stride]

    def step(self, onwards: bool) -> Array | None:
        """Return the next point (n,), or the present one; None at the end."""
        number, point = self.place
        if onwards and point < self._count:
            point += self._stride
        if point >= self._count and not self._stops:
            number, point = number + 1, self._first
        self.place = (number, point)
        return None if point >= self._count else self._design(number)[point]

    def _design(self, number: int) -> Array:
        if self._drawn is None or self._drawn[0] != number:
            rng = np.random.default_rng([self._seed, number])
            self._drawn = (number, self._draw(rng))
        return self._drawn[1]
