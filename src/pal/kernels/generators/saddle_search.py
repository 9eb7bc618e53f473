"""Searches for saddle points, the transition states of reactions, with Sella."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from sella import Sella

from pal.errors import ContractError
from pal.kernels.generators.parts.searches import Orders, Searches
from pal.records import Feedback, Sample
from pal.roles import Context, Stop


class SaddleSearch:
    """Saddle-point searches with Sella, from minima or guesses, one after the other.

    Method: Hermes, Sargsyan, Najm and Zador, J. Chem. Theory Comput. 18, 6974 (2022). Search n
    of walker k of w begins at start geometry k + n w, modulo their number, with every coordinate
    displaced at random; once the largest force is below `fmax`, or after `max_steps`, the next
    begins. So the committee learns the passes between minima, and the ways up to them.

    Saddle points are appended to saddle_points.extxyz in the walker's directory, with energy and
    forces by the committee, the numbers of walker and search, whether the committee was trusted
    there, its uncertainty, and the version of its weights. (After a crash a search may be done
    again; the later entry counts.)

    Where the committee is not trusted for `patience` steps in a row, or at once where forces or
    distances leave their bounds, the search goes back to its last trusted geometry; when it is
    lost again without a trusted step in between, it is given up, and the next begins.

    Internal coordinates are compiled for each kind of molecule, which takes some seconds once;
    Sella keeps the result in ~/.cache/sella, or where JAX_COMPILATION_CACHE_DIR points.

    Options:
        start: file of one or more geometries.
        order: of the saddle point: 1 for a transition state, 0 for a minimum.
        internal: search in internal coordinates (bonds, angles, dihedral angles), which suits
            molecules; otherwise in Cartesian ones.
        fmax: in eV/Å; largest length of an atom's force at the end.
        perturbation: in Å; standard deviation of each coordinate of the start.
        max_steps: force calls of one search.
        searches: the walker asks to stop the campaign after so many; 0: never.
        arguments: more arguments of Sella, such as { delta0 = 0.05, eta = 1e-3 }.
        patience: untrusted steps in a row before the search goes back.
        max_force: in eV/Å; a larger component of the mean forces sends it back at once.
        min_distance: fraction of the sum of two atoms' covalent radii; closer ones send it back
            at once. 0: no bound.
        max_distance: in Å; an atom farther from its nearest neighbour sends it back at once.

    Example:
        [generator]
        kernel = "saddle_search"
        walkers = 4
        options = { start = "guesses.xyz", internal = true, fmax = 0.02 }
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        order: int = 1,
        internal: bool = False,
        fmax: float = 0.05,
        perturbation: float = 0.05,
        max_steps: int = 500,
        searches: int = 0,
        arguments: Mapping[str, Any] | None = None,
        patience: int = 20,
        max_force: float = 30.0,
        min_distance: float = 0.5,
        max_distance: float = np.inf,
    ) -> None:
        if order < 0 or not fmax > 0:
            raise ContractError(
                "saddle_search: expected order >= 0 and fmax > 0 (eV/Å); "
                f"got order = {order}, fmax = {fmax}"
            )
        self._fmax = fmax
        self._arguments = {
            **(arguments or {}),
            "order": order,
            "internal": internal,
            "logfile": None,
        }
        orders = Orders(
            "saddle_search",
            start,
            perturbation,
            max_steps,
            searches,
            patience,
            max_force,
            min_distance,
            max_distance,
            "saddle_points.extxyz",
        )
        self._searches = Searches(context, orders, self._climb)

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry of the search; without feedback, the present one again."""
        return self._searches.step(feedback)

    def get_state(self) -> Any:
        """Return all that the search depends on."""
        return self._searches.get_state()

    def set_state(self, state: Any) -> None:
        """Go on from there: the first step asks for the same forces again."""
        self._searches.set_state(state)

    def _climb(self, atoms: Atoms) -> bool:
        return bool(Sella(atoms, **self._arguments).run(fmax=self._fmax))
