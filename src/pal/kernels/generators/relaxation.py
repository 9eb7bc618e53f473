"""Relaxations to minima on the committee's mean forces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms, optimize

from pal.errors import ContractError
from pal.kernels.generators.parts.searches import Orders, Searches
from pal.records import Feedback, Sample
from pal.roles import Context, Stop

# Not RFO: it begins from random numbers of its own, and could not be restored.
OPTIMISERS = {
    optimiser.__name__: optimiser
    for optimiser in (
        optimize.BFGS,
        optimize.BFGSLineSearch,
        optimize.FIRE,
        optimize.FIRE2,
        optimize.GPMin,
        optimize.GoodOldQuasiNewton,
        optimize.LBFGS,
        optimize.LBFGSLineSearch,
        optimize.MDMin,
        optimize.ODE12r,
    )
}


class Relaxation:
    """Geometry relaxations with any of ASE's optimisers, one after the other.

    Search n of walker k of w begins at start geometry k + n w, modulo their number, with every
    coordinate displaced at random; once the largest force is below `fmax`, or after `max_steps`,
    the next begins. So the committee learns the ways down to the minima, and the minima.

    Minima are appended to minima.extxyz in the walker's directory, with energy and forces by the
    committee, the numbers of walker and search, whether the committee was trusted there, its
    uncertainty, and the version of its weights. (After a crash a search may be done again; the
    later entry counts.)

    Where the committee is not trusted for `patience` steps in a row, or at once where forces or
    distances leave their bounds, the search goes back to its last trusted geometry; when it is
    lost again without a trusted step in between, it is given up, and the next begins.

    Options:
        start: file of one or more geometries.
        optimiser: name of ASE's class, such as "BFGS", "FIRE" or "LBFGS".
        fmax: in eV/Å; largest length of an atom's force at the end.
        perturbation: in Å; standard deviation of each coordinate of the start.
        max_steps: force calls of one search.
        searches: the walker asks to stop the campaign after so many; 0: never.
        arguments: more arguments of ASE's class, such as { maxstep = 0.1 }, in ASE's units.
        patience: untrusted steps in a row before the search goes back.
        max_force: in eV/Å; a larger component of the mean forces sends it back at once.
        min_distance: fraction of the sum of two atoms' covalent radii; closer ones send it back
            at once. 0: no bound.
        max_distance: in Å; an atom farther from its nearest neighbour sends it back at once.

    Example:
        [generator]
        kernel = "relaxation"
        walkers = 4
        options = { start = "conformers.xyz", optimiser = "LBFGS", perturbation = 0.2 }
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        optimiser: Literal[
            "BFGS",
            "BFGSLineSearch",
            "FIRE",
            "FIRE2",
            "GPMin",
            "GoodOldQuasiNewton",
            "LBFGS",
            "LBFGSLineSearch",
            "MDMin",
            "ODE12r",
        ] = "BFGS",
        fmax: float = 0.05,
        perturbation: float = 0.1,
        max_steps: int = 500,
        searches: int = 0,
        arguments: Mapping[str, Any] | None = None,
        patience: int = 20,
        max_force: float = 30.0,
        min_distance: float = 0.5,
        max_distance: float = np.inf,
    ) -> None:
        if optimiser not in OPTIMISERS:
            raise ContractError(
                f"relaxation: optimiser = '{optimiser}' is not known; expected one of "
                f"{', '.join(OPTIMISERS)}"
            )
        if not fmax > 0:
            raise ContractError(f"relaxation: expected fmax > 0 (eV/Å), got {fmax}")
        self._class = OPTIMISERS[optimiser]
        self._arguments = dict(arguments or {})
        self._fmax = fmax
        orders = Orders(
            "relaxation",
            start,
            perturbation,
            max_steps,
            searches,
            patience,
            max_force,
            min_distance,
            max_distance,
            "minima.extxyz",
        )
        self._searches = Searches(context, orders, self._relax)
        try:
            self._build(self._searches.homes[0].copy())
        except (TypeError, ValueError) as error:
            raise ContractError(
                f"relaxation: optimiser = '{optimiser}' does not take arguments = "
                f"{self._arguments}: {error}"
            ) from error

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry of the search; without feedback, the present one again."""
        return self._searches.step(feedback)

    def get_state(self) -> Any:
        """Return all that the search depends on."""
        return self._searches.get_state()

    def set_state(self, state: Any) -> None:
        """Go on from there: the first step asks for the same forces again."""
        self._searches.set_state(state)

    def _relax(self, atoms: Atoms) -> bool:
        return bool(self._build(atoms).run(fmax=self._fmax))

    def _build(self, atoms: Atoms) -> Any:
        return self._class(atoms, logfile=None, **self._arguments)
