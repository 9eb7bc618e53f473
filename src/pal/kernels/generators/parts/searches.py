"""One search for a stationary point after the other: the engine of relaxations and the like."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from pal.errors import ContractError, PalError
from pal.kernels.atoms import starts, to_atoms
from pal.kernels.calculator import CommitteeCalculator
from pal.kernels.direct import Ask
from pal.kernels.generators.displacement import bounded
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.caution import Caution
from pal.kernels.generators.parts.guard import Guard, Lost
from pal.kernels.generators.parts.journal import Journal
from pal.kernels.generators.parts.numbered import rng_of
from pal.records import Array, Feedback, Sample
from pal.roles import Context, Stop

Algorithm: TypeAlias = Callable[[Atoms], bool]
"""Moves atoms that have a calculator; True when it has found what it looks for."""

Place: TypeAlias = tuple[Array, ...]
"""Positions to go on from."""

GIVE_UP: Final[Place] = ()
"""What stands for home: a search that is lost has none, and the next one begins."""

FAILURES: Final = 20
"""Searches in a row that end in an exception before it is taken for a mistake."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What all searches have in common. Units: Å, eV/Å.

    `perturbation`: standard deviation of each coordinate of the start. `max_steps`: force calls
    of a search. `searches`: after so many the walker asks to stop; 0: never. `found`: name of the
    file.
    """

    kernel: str
    start: Path | str
    perturbation: float
    max_steps: int
    searches: int
    patience: int
    max_force: float
    min_distance: float
    max_distance: float
    found: str


class Searches:
    """Walker: searches from start geometries in turn, each perturbed at random.

    Search n of walker k of w begins at geometry k + n w, modulo their number. What it finds is
    appended to the file. A search that is lost goes back to its last trusted geometry, and is
    given up when it is lost again without having been trusted in between.
    """

    def __init__(self, context: Context, orders: Orders, algorithm: Algorithm) -> None:
        if orders.perturbation < 0 or orders.max_steps < 2 or orders.searches < 0:
            raise ContractError(
                f"{orders.kernel}: expected perturbation >= 0 (Å), max_steps >= 2 and searches "
                f">= 0; got {orders.perturbation}, {orders.max_steps}, {orders.searches}"
            )
        self._context = context
        self._orders = orders
        self._algorithm = algorithm
        self._homes = [to_atoms(geometry) for geometry in starts(orders.start, orders.kernel)]
        self._bounds = [
            Bounds(
                home,
                orders.kernel,
                min_distance=orders.min_distance,
                max_distance=orders.max_distance,
            )
            for home in self._homes
        ]
        # A bad bound shall be told now, not in the first search.
        Caution(GIVE_UP, patience=orders.patience, max_force=orders.max_force)
        self._journal = Journal(self._run, {"search": 0, "failures": 0})

    @property
    def homes(self) -> list[Atoms]:
        """The start geometries."""
        return self._homes

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next geometry of the search; without feedback, the present one again."""
        return self._journal.step(feedback)

    def get_state(self) -> Any:
        """Return the number of the search, and the answers it got."""
        return self._journal.get_state()

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self._journal.set_state(state)

    def _run(self, mark: dict[str, int], ask: Ask) -> None:
        search, failures = mark["search"], mark["failures"]
        while not self._orders.searches or search < self._orders.searches:
            try:
                self._search(search, ask)
                failures = 0
            except PalError:
                raise
            except Exception as error:
                failures += 1
                if failures >= FAILURES:
                    raise ContractError(
                        f"{self._orders.kernel}: {failures} searches in a row failed, the last "
                        f"with {type(error).__name__}: {error}"
                    ) from error
                logging.getLogger(__name__).warning(
                    "search %d given up: %s: %s", search, type(error).__name__, error
                )
            search += 1
            self._journal.mark({"search": search, "failures": failures})

    def _search(self, search: int, ask: Ask) -> None:
        number = self._context.index + search * self._context.count
        place = number % len(self._homes)
        atoms, bounds = self._homes[place].copy(), self._bounds[place]
        rng = rng_of(self._context, number)

        def draw() -> Array:
            return np.asarray(rng.normal(0.0, self._orders.perturbation, atoms.positions.shape))

        atoms.positions += bounded(draw, atoms.positions, bounds, self._orders.kernel)
        caution: Caution[Place] = Caution(
            GIVE_UP, patience=self._orders.patience, max_force=self._orders.max_force
        )
        limited = _Limited(ask, self._orders.max_steps)
        while True:
            committee = CommitteeCalculator(Guard(limited, caution, bounds, lambda here: (here,)))
            atoms.calc = committee
            try:
                if self._algorithm(atoms):
                    self._keep(search, place, atoms, committee)
                return
            except Lost as lost:
                if lost.place == GIVE_UP:
                    return
                (atoms.positions[:],) = lost.place

    def _keep(self, search: int, place: int, atoms: Atoms, committee: CommitteeCalculator) -> None:
        """Append what was found to the file."""
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        feedback = committee.feedback
        assert feedback is not None
        frame = self._homes[place].copy()
        frame.positions[:] = atoms.positions
        frame.info |= {
            "walker": self._context.index,
            "search": search,
            "trusted": bool(feedback.trusted),
            "uncertainty": float(feedback.uncertainty),
            "version": int(feedback.version),
        }
        frame.calc = SinglePointCalculator(frame, **results)
        append_frame(self._context.directory / self._orders.found, frame)


class _Limited:
    """Asks so many times; then the search is over."""

    def __init__(self, ask: Ask, limit: int) -> None:
        self._ask = ask
        self._left = limit

    def __call__(self, sample: Sample) -> Feedback:
        if self._left == 0:
            raise Lost(GIVE_UP)
        self._left -= 1
        return self._ask(sample)


def append_frame(path: Path, frame: Atoms) -> None:
    """Append a frame to an extended xyz file, in a single write: nobody reads half of it."""
    text = io.StringIO()
    write(text, frame, format="extxyz")
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, text.getvalue().encode())
    finally:
        os.close(file)
