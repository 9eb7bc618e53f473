"""Between an algorithm that asks for forces and the committee: calls it back when it is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pal.kernels.calculator import mean_forces
from pal.kernels.direct import Ask
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.caution import Caution
from pal.records import Array, Feedback, Sample


class Lost(Exception):  # noqa: N818 - what a walker is, not what went wrong
    """Leads out of an algorithm, wherever it is; `place` tells where to go on."""

    def __init__(self, place: Any) -> None:
        super().__init__("the walker left the geometries that its committee knows")
        self.place = place


class Guard:
    """Asks the committee on behalf of an algorithm, and heeds the answers.

    `place` makes what a walker needs to go on from a geometry out of its positions. The answer
    for the very geometry it goes on from (`fresh`) is not judged: it would make that
    geometry the refuge again, for ever.
    """

    def __init__(
        self,
        ask: Ask,
        caution: Caution[Any],
        bounds: Bounds,
        place: Callable[[Array], Any],
        *,
        fresh: bool = True,
    ) -> None:
        self._ask = ask
        self._caution = caution
        self._bounds = bounds
        self._place = place
        self._fresh = fresh

    def __call__(self, sample: Sample) -> Feedback:
        """Return the committee's answer.

        Raises:
            Lost: by this answer, or this geometry, the walker has to go back.
        """
        feedback = self._ask(sample)
        if self._fresh:
            self._fresh = False
            return feedback
        assert isinstance(sample, Mapping)
        here = sample["positions"]
        back = self._caution.heed(
            feedback, mean_forces(feedback), self._place(here), sound=self._bounds.hold(here)
        )
        if back is not None:
            raise Lost(back)
        return feedback
