"""How the oracle `command` reads labels from the files that a program wrote."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from pal.errors import ContractError, ShapeError
from pal.kernels.oracles.parts.program import text_of
from pal.records import Array

# CODATA 2014, as in ASE, so that all oracles agree.
_HARTREE, _BOHR, _MOL = 27.211386024367243, 0.5291772105638411, 96.48533288249877
UNITS: Final[Mapping[str, float]] = {
    "eV": 1.0,
    "Hartree": _HARTREE,
    "Rydberg": _HARTREE / 2,
    "kcal/mol": 4.184 / _MOL,
    "kJ/mol": 1 / _MOL,
    "eV/Å": 1.0,
    "Hartree/Bohr": _HARTREE / _BOHR,
    "Rydberg/Bohr": _HARTREE / 2 / _BOHR,
    "kcal/mol/Å": 4.184 / _MOL,
    "Å": 1.0,
    "Bohr": _BOHR,
}
"""Factors to eV, Å and eV/Å."""

OUTPUT: Final = "stdout.txt"
"""What the program prints goes here."""


class MissingResultError(Exception):
    """The program ended well, but did not write a result."""


@dataclass(frozen=True, slots=True)
class Result:
    """Where one array of the label stands; see the oracle `command` for the fields."""

    file: str = OUTPUT
    key: str = ""
    pattern: str = ""
    all: bool = False
    columns: Sequence[int] = ()
    skip: int = 0
    format: str = ""
    unit: str = ""
    factor: float = 1.0
    shape: Sequence[int | str] | None = None

    @classmethod
    def of(cls, name: str, table: Mapping[str, Any]) -> Result:
        """Check the table of a result in the settings.

        Raises:
            ContractError: naming the result, what came and what was expected.
        """
        place = f"command: results.{name}"
        known = [field.name for field in fields(cls)]
        unknown = table.keys() - set(known)
        if unknown:
            raise ContractError(f"{place} has {sorted(unknown)}; expected some of {known}")
        result = cls(**table)
        if result.unit and result.unit not in UNITS:
            raise ContractError(
                f"{place}: unknown unit '{result.unit}'; expected one of {', '.join(UNITS)}, or "
                "give a factor"
            )
        try:
            groups = re.compile(result.pattern).groups
        except re.error as error:
            raise ContractError(f"{place}: pattern is no regular expression: {error}") from error
        if result.pattern and groups != 1:
            raise ContractError(
                f"{place}: pattern has {groups} groups; expected one, round the number"
            )
        return result

    def read(self, atoms: int | None) -> Array:
        """Return the array, in the label's units.

        Args:
            atoms: how many atoms the sample has; None if it has none.

        Raises:
            MissingResultError: it is not there, or cannot be read.
            ShapeError: it has another shape than `shape` says.
        """
        try:
            values = np.asarray(self._reader()(self), dtype=float)
        except MissingResultError:
            raise
        except OSError as error:
            raise MissingResultError(f"'{self.file}': {error.strerror or error}") from error
        except Exception as error:
            raise MissingResultError(f"'{self.file}': {type(error).__name__}: {error}") from error
        return self._shaped(values * (UNITS[self.unit] if self.unit else 1.0) * self.factor, atoms)

    def _reader(self) -> Callable[[Result], Any]:
        if self.pattern:
            return _by_pattern
        if self.format:
            return _by_ase
        return READERS.get(Path(self.file).suffix, _by_columns)

    def _shaped(self, values: Array, atoms: int | None) -> Array:
        if self.shape is None:
            return values
        wanted = [atoms if size == "atoms" else size for size in self.shape]
        try:
            return values.reshape([-1 if size is None else int(size) for size in wanted])
        except ValueError:
            raise ShapeError(
                f"'{self.file}' holds an array of shape {values.shape}; expected {wanted}"
            ) from None


def _by_pattern(result: Result) -> Any:
    if not Path(result.file).exists():
        raise MissingResultError(f"there is no file '{result.file}'")
    found = re.findall(result.pattern, text_of(result.file), re.MULTILINE)
    if not found:
        raise MissingResultError(f"'{result.file}' has no match of {result.pattern!r}")
    # Fortran writes 1.0D-03.
    values = [float(value.replace("D", "E").replace("d", "e")) for value in found]
    return values if result.all else values[-1]


def _by_json(result: Result) -> Any:
    value = json.loads(Path(result.file).read_text())
    return functools.reduce(_entry, result.key.split(".") if result.key else (), value)


def _entry(value: Any, part: str) -> Any:
    return value[int(part)] if isinstance(value, list) else value[part]


def _by_npz(result: Result) -> Any:
    with np.load(result.file, allow_pickle=False) as arrays:
        return arrays[result.key or arrays.files[0]]


def _by_npy(result: Result) -> Any:
    return np.load(result.file, allow_pickle=False)


def _by_columns(result: Result) -> Any:
    separator = "," if result.file.endswith(".csv") else None
    lines = Path(result.file).read_text().splitlines()[result.skip :]
    rows = [line.split(separator) for line in lines if line.strip()]
    columns = result.columns or range(len(rows[0]) if rows else 0)
    return [[float(row[column]) for column in columns] for row in rows]


def _by_ase(result: Result) -> Any:
    from ase.io import read

    atoms = read(result.file, format=result.format or None)
    key = result.key or "forces"
    if atoms.calc is not None and key in atoms.calc.results:
        return atoms.calc.results[key]
    found = atoms.arrays.get(key, atoms.info.get(key))
    if found is None:
        raise MissingResultError(f"'{result.file}' holds no '{key}'")
    return found


READERS: Final[Mapping[str, Callable[[Result], Any]]] = {
    ".json": _by_json,
    ".npz": _by_npz,
    ".npy": _by_npy,
    ".xyz": _by_ase,
    ".extxyz": _by_ase,
}
