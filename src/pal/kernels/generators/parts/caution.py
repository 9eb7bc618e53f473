"""What a walker does about predictions it cannot trust: wait with patience, step back, restart."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np

from pal.errors import ContractError
from pal.records import Array, Feedback

Place = TypeVar("Place")
"""What a walker needs to continue from somewhere, e.g. positions. Treated as immutable."""


class Caution(Generic[Place]):
    """The rule of every walker that moves on predicted forces.

    A walker goes on for `patience` steps where the committee is not trusted; these are the
    samples worth a label. Then, or at once when a force exceeds `max_force` (eV/Å, largest
    component), it goes back to its last trusted place, or, without a trusted step since the last
    return, to its home.
    """

    def __init__(self, home: Place, *, patience: int, max_force: float) -> None:
        if patience < 1 or not max_force > 0:
            raise ContractError(
                "a walker needs patience >= 1 and max_force > 0; "
                f"got patience = {patience}, max_force = {max_force}"
            )
        self._home = home
        self._patience = patience
        self._max_force = max_force
        self._refuge: Place | None = None
        self._untrusted = 0

    def heed(
        self, feedback: Feedback, forces: Array, here: Place, *, sound: bool = True
    ) -> Place | None:
        """Judge the step that led `here`; return the place to go back to, or None to go on.

        `forces`: any shape, eV/Å; NaN counts as too large. `sound`: whether the geometry itself
        is physical, see `pal.kernels.generators.parts.bounds`; one that is not is left at once.
        """
        if not (sound and np.abs(forces).max(initial=0.0) <= self._max_force):
            return self._go_back()
        if feedback.trusted:
            self._untrusted = 0
            self._refuge = here
            return None
        self._untrusted += 1
        return self._go_back() if self._untrusted >= self._patience else None

    def _go_back(self) -> Place:
        refuge, self._refuge = self._refuge, None
        self._untrusted = 0
        return self._home if refuge is None else refuge

    def get_state(self) -> Any:
        """Return what must survive a restart."""
        return {"refuge": self._refuge, "untrusted": self._untrusted}

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        self._refuge = state["refuge"]
        self._untrusted = state["untrusted"]
