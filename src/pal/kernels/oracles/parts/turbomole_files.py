"""Turbomole's files: coord, control, energy, gradient, and what escf and egrad print.

The formats are those of Turbomole's manual. The program xtb writes some of them, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase.units import Bohr

from pal.errors import LabelFailure
from pal.kernels.oracles.parts.program import last_words, text_of
from pal.records import Array


def write_coordinates(path: Path, symbols: Iterable[str], positions: Array) -> None:
    """Write a coord file. `positions` (atoms, 3) in Å.

    The file holds Bohr, so that no program's own idea of the Bohr gets in between.
    """
    lines = [
        f"{x:22.14f} {y:22.14f} {z:22.14f}  {symbol.lower()}"
        for symbol, (x, y, z) in zip(symbols, positions / Bohr, strict=True)
    ]
    path.write_text("\n".join(["$coord", *lines, "$end", ""]), encoding="ascii")


def read_gradient(
    path: Path, count: int, source: str, *outputs: Path | str
) -> tuple[float, Array]:
    """Return energy (Hartree) and gradient (atoms, 3) in Hartree/Bohr of the last cycle.

    The format: a line `cycle = ... SCF energy = ...` (or `ex. state energy`), a line of
    coordinates per atom, then a line of the gradient per atom.

    Raises:
        LabelFailure: the file is cut short, or something else; names `source`, and ends with the
            last words of the `outputs`.
    """
    lines = text_of(path).splitlines()
    heads = [n for n, line in enumerate(lines) if "energy =" in line]
    try:
        head = heads[-1]
        energy = re.search(r"energy =\s*(\S+)", lines[head])
        rows = [_numbers(line) for line in lines[head + 1 + count : head + 1 + 2 * count]]
        gradient = np.array(rows, dtype=float).reshape(count, 3)
        return float(energy[1]), gradient  # type: ignore[index]
    except (IndexError, TypeError, ValueError) as error:
        raise LabelFailure(
            f"{source}: the file '{path}' holds no energy and gradient of {count} atoms: "
            f"{last_words(*outputs)}"
        ) from error


def read_energy(path: Path, source: str, *outputs: Path | str) -> float:
    """Return the last energy (Hartree) of an energy file: its rows begin with cycle and energy.

    Raises:
        LabelFailure: there is none.
    """
    rows = [line.split() for line in text_of(path).splitlines() if not line.startswith("$")]
    try:
        return _number(rows[-1][1])
    except (IndexError, ValueError) as error:
        raise LabelFailure(
            f"{source}: the file '{path}' holds no energy: {last_words(*outputs)}"
        ) from error


def read_excitations(path: Path, count: int, source: str) -> Array:
    """Return the total energies (count,) in Hartree of the excited states, in escf's order.

    Each state has a header, `1 singlet a excitation`, and then a line `Total energy:`.

    Raises:
        LabelFailure: there are fewer.
    """
    _, *sections = re.split(r"^ *\d+ .*\bexcitation *$", text_of(path), flags=re.MULTILINE)
    found = [re.search(r"Total energy: *(\S+)", section) for section in sections]
    energies = [_number(match[1]) for match in found if match]
    if len(energies) < count:
        raise LabelFailure(
            f"{source}: {len(energies)} excited states in '{path}'; expected {count}: "
            f"{last_words(path)}"
        )
    return np.array(energies[:count])


def with_group(control: str, group: str) -> str:
    """Return a control file with this data group in place of one of the same name.

    `group` is its text: a line `$name ...`, and further lines.
    """
    body = without_group(without_group(control, group.split()[0]), "$end").rstrip()
    return f"{body}\n{group.rstrip()}\n$end\n"


def without_group(control: str, name: str) -> str:
    """Return a control file without the data group `$name`."""
    return "".join(group for group in groups(control) if not _is(group, name))


def has_group(control: str, name: str) -> bool:
    """Whether a control file has the data group `$name`."""
    return any(_is(group, name) for group in groups(control))


def groups(control: str) -> list[str]:
    """Split a control file into its data groups; each begins with a line `$name`."""
    return re.split(r"^(?=\$)", control, flags=re.MULTILINE)


def _is(group: str, name: str) -> bool:
    return bool(re.match(re.escape(name) + r"(\s|=|$)", group))


def _numbers(line: str) -> list[float]:
    return [_number(word) for word in line.split()]


def _number(word: str) -> float:
    """Fortran writes 1.0D-03."""
    return float(word.replace("D", "E"))
