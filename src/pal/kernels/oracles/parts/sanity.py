"""What no label may be, whichever program made it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pal.errors import LabelFailure
from pal.records import Array

FORCES = ("forces", "state_forces")


def sane(label: Mapping[str, Array], max_force: float, source: str) -> Mapping[str, Array]:
    """Return the label if all of it is finite and no force component exceeds `max_force` (eV/Å).

    A geometry with larger forces is not physical, and would only spoil the fit.

    Raises:
        LabelFailure: naming `source`, what came and what was expected.
    """
    for name, array in label.items():
        if not np.isfinite(array).all():
            raise LabelFailure(f"{source} gave {name} that is not finite")
    for name in FORCES:
        largest = float(np.abs(label[name]).max(initial=0.0)) if name in label else 0.0
        if largest > max_force:
            raise LabelFailure(
                f"{source}: largest force {largest:.1f} eV/Å; expected at most "
                f"{max_force:g} (oracle option max_force)"
            )
    return label
