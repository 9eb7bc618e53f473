"""Nuclei and electrons of a sample, and what is kept of molecules calculated before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from ase import Atoms
from ase.symbols import Symbols

from pal.errors import ContractError, LabelFailure
from pal.records import Array

Value = TypeVar("Value")


class Composition(NamedTuple):
    """What two samples share when the orbitals of one are a guess for the other's."""

    numbers: tuple[int, ...]
    charge: int
    spin: int
    """Number of unpaired electrons."""


def composition(
    numbers: Array, given: Mapping[str, Any], charge: float, spin: int | None, source: str
) -> Composition:
    """Return nuclei, charge and unpaired electrons; what is `given` wins over the options.

    `given` is a sample, or the info of atoms: its `charge` and `spin` count.

    Without any word on the spin, it is the lowest possible: none or one unpaired electron.

    Raises:
        LabelFailure: naming `source`: charge or spin is no integer, or they do not fit together.
    """
    nuclei = tuple(numbers.tolist())
    total = _integer(given.get("charge", charge), "charge", source)
    electrons = sum(nuclei) - total
    wanted = given.get("spin", spin)
    unpaired = electrons % 2 if wanted is None else _integer(wanted, "spin", source)
    if not 0 <= unpaired <= electrons or (electrons - unpaired) % 2:
        raise LabelFailure(
            f"{source}: {Symbols(numbers).get_chemical_formula()} with charge {total} has "
            f"{electrons} electrons, of which {unpaired} cannot be unpaired; correct charge or "
            "spin, in the sample or in the oracle's options"
        )
    return Composition(nuclei, total, unpaired)


def isolated(atoms: Atoms, source: str) -> None:
    """Refuse periodic samples.

    Raises:
        ContractError: naming `source`.
    """
    if atoms.pbc.any():
        raise ContractError(
            f"{source} calculates isolated molecules; got a sample with pbc = {atoms.pbc.tolist()}"
        )


class Recent(Generic[Value]):
    """The last value of each of the `capacity` compositions seen last."""

    def __init__(self, capacity: int = 16) -> None:
        self._capacity = capacity
        self._values: dict[Composition, Value] = {}

    def __setitem__(self, key: Composition, value: Value) -> None:
        self._values.pop(key, None)
        self._values[key] = value
        while len(self._values) > self._capacity:
            del self._values[next(iter(self._values))]

    def __iter__(self) -> Iterator[tuple[Composition, Value]]:
        return iter(self._values.items())

    def take(self, key: Composition) -> Value | None:
        """Remove and return the value: who fails with it must not begin from it again."""
        return self._values.pop(key, None)


def _integer(value: float, name: str, source: str) -> int:
    number = float(value)
    if not number.is_integer():
        raise LabelFailure(f"{source}: {name} is {value}; expected an integer")
    return int(number)
