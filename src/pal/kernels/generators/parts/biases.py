"""Potentials along a coordinate, added to what the committee predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

from pal.kernels.generators.parts.coordinates import Coordinate
from pal.records import Array


class Law(Protocol):
    """A potential of a coordinate's value (Å or radians) and of the clock (steps)."""

    def pull(self, value: float, clock: int) -> tuple[float, float]:
        """Return the energy (eV) and its derivative by the value."""
        ...

    def grow(self, value: float, clock: int) -> None:
        """Note that a step led to this value."""
        ...

    def record(self) -> None:
        """Write down what users want to see."""
        ...

    def get_state(self) -> Any:
        """Return what it remembers."""
        ...

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        ...


class Restraint:
    """A spring, stiffness / 2 (value - centre)^2, whose centre may move.

    The centre goes from the first of `centres` to the last at constant speed within `steps`, and
    back again, for ever; a single one stays where it is. `stiffness` in eV/Å^2 or eV/rad^2.
    """

    def __init__(
        self, coordinate: Coordinate, stiffness: float, centres: Array, steps: int
    ) -> None:
        self._coordinate = coordinate
        self._stiffness = stiffness
        self._centres = centres
        self._steps = steps
        lengths = np.abs(np.diff(centres))
        self._marks = np.concatenate([[0.0], np.cumsum(lengths)]) / max(lengths.sum(), 1e-300)

    def centre(self, clock: int) -> float:
        """Return where the spring is fixed at that step."""
        there = clock / self._steps % 2.0
        return float(np.interp(min(there, 2.0 - there), self._marks, self._centres))

    def pull(self, value: float, clock: int) -> tuple[float, float]:
        """Return the energy (eV) and its derivative by the value."""
        away = float(self._coordinate.apart(value, np.asarray(self.centre(clock))))
        return 0.5 * self._stiffness * away**2, self._stiffness * away

    def grow(self, value: float, clock: int) -> None:
        """Stay as it is."""

    def record(self) -> None:
        """Do nothing."""

    def get_state(self) -> Any:
        """Return nothing: the clock tells all."""
        return None

    def set_state(self, state: Any) -> None:
        """Do nothing."""


class Metadynamics:
    """Hills on the places that were visited: the longer there, the higher.

    Every `pace` steps a Gaussian of `width` (Å or radians) is added; in well-tempered
    metadynamics (Barducci, Bussi and Parrinello, Phys. Rev. Lett. 100, 020603 (2008)) its height
    is that of the first times exp(-V / (k_B T (bias_factor - 1))), where V (eV) is the bias so
    far. New hills are written into `file`.
    """

    HEAD: Final = (
        "# number centre width height: Å or degrees, eV; see the kernel biased_dynamics\n"
    )

    def __init__(
        self,
        coordinate: Coordinate,
        *,
        height: float,
        width: float,
        pace: int,
        bias_factor: float,
        temperature_K: float,  # noqa: N803 - the unit's symbol
        file: Path,
    ) -> None:
        self._coordinate = coordinate
        self._height = height
        self._width = width
        self._pace = pace
        self._tempering = units.kB * temperature_K * (bias_factor - 1.0)
        self._file = file
        self._centres, self._heights = np.empty(0), np.empty(0)
        self._written = 0

    def pull(self, value: float, clock: int) -> tuple[float, float]:
        """Return the energy (eV) and its derivative by the value."""
        away = self._coordinate.apart(value, self._centres) / self._width
        hills = self._heights * np.exp(-0.5 * away**2)
        return float(hills.sum()), float(-(hills * away).sum() / self._width)

    def grow(self, value: float, clock: int) -> None:
        """Add a hill if it is time."""
        if clock % self._pace == 0:
            height = self._height * np.exp(-self.pull(value, clock)[0] / self._tempering)
            self._centres = np.append(self._centres, value)
            self._heights = np.append(self._heights, height)

    def record(self) -> None:
        """Append the hills that are not yet in the file."""
        size = self._coordinate.kind.size
        rows = [
            f"{number} {self._centres[number] / size:.10g} {self._width / size:.10g} "
            f"{self._heights[number]:.10g}\n"
            for number in range(self._written, len(self._centres))
        ]
        if rows:
            head = "" if self._file.exists() else self.HEAD
            with self._file.open("a", encoding="utf-8") as file:
                file.write(head + "".join(rows))
        self._written = len(self._centres)

    def get_state(self) -> Any:
        """Return the hills."""
        return {"centres": self._centres, "heights": self._heights, "written": self._written}

    def set_state(self, state: Any) -> None:
        """Take these hills."""
        self._centres, self._heights = state["centres"], state["heights"]
        self._written = state["written"]


class Bias:
    """A law along a coordinate as an influence on a trajectory."""

    def __init__(self, coordinate: Coordinate, law: Law) -> None:
        self.clock = 0
        self._coordinate = coordinate
        self._law = law

    def over(self, calculator: Calculator) -> Calculator:
        """Return a calculator that adds the bias to another one's forces."""
        return Biased(calculator, self)

    def pull(self, positions: Array) -> tuple[float, Array]:
        """Return the bias energy (eV) and its forces (atoms, 3) in eV/Å."""
        value, gradient = self._coordinate.measure(positions)
        energy, slope = self._law.pull(value, self.clock)
        return energy, -slope * gradient

    def advance(self, positions: Array) -> None:
        """Note that a step was made, to these positions."""
        self.clock += 1
        self._law.grow(self._coordinate.measure(positions)[0], self.clock)

    def record(self) -> None:
        """Write down what the law has to tell."""
        self._law.record()

    def get_state(self) -> Any:
        """Return what the law remembers."""
        return self._law.get_state()

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        self._law.set_state(state)


class Biased(Calculator):  # type: ignore[misc]
    """Forces (and energy) of another calculator, plus those of a bias as it is right now."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, calculator: Calculator, bias: Bias) -> None:
        super().__init__()
        self._calculator = calculator
        self._bias = bias

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return energy (eV) or forces (eV/Å); the other calculator remembers its part."""
        bare = self._calculator.get_property(name, atoms, allow_calculation)
        if bare is None or atoms is None:
            return bare
        energy, forces = self._bias.pull(atoms.positions)
        return bare + (forces if name == "forces" else energy)
