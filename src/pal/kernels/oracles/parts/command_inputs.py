"""How the oracle `command` writes a sample into the input of a program."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pal.errors import ContractError
from pal.records import BARE, Array, Sample, named

PARAMETERS: Final = "parameters"
"""What a sample that is one bare array is called in templates."""

PLACEHOLDER: Final = re.compile(r"\{(\{?)([A-Za-z_]\w*)((?:\[[\d, ]+\])*)(?::([^{}]*))?\}(\}?)")


def facts(sample: Sample, threads: int, home: str) -> dict[str, Any]:
    """Return what templates may name, for this sample."""
    arrays = {name or PARAMETERS: array for name, array in named(sample).items()}
    known: dict[str, Any] = {**arrays, "threads": threads, "home": home}
    if "positions" in arrays and "numbers" in arrays:
        known.update(_electrons(arrays))
        known["atoms"] = len(arrays["numbers"])
        known["symbols"] = np.array(_symbols(arrays["numbers"]))
        known["xyz"] = _xyz(arrays)
    return known


def filled(text: str, known: Mapping[str, Any], place: str) -> str:
    """Fill the placeholders of a template: `{name}`, `{name[0]}`, `{name[0, 2]:.6f}`.

    Raises:
        ContractError: naming the template at `place`; a placeholder names what no sample has.
    """

    def value(match: re.Match[str]) -> str:
        opening, name, indices, form, closing = match.groups()
        if opening and closing:  # {{name}} stands for itself
            return match[0][1:-1]
        if name not in known:
            raise ContractError(
                f"{place} has {{{name}}}; the sample knows {', '.join(sorted(known))}. Write "
                f"{{{{{name}}}}} where the braces are meant"
            )
        found = known[name]
        try:
            for index in re.findall(r"\[([^\]]*)\]", indices):
                found = np.asarray(found)[tuple(int(i) for i in index.split(","))]
            return opening + _written(found, form or "") + closing
        except (IndexError, ValueError) as error:
            raise ContractError(
                f"{place}: {match[0]} does not fit {name} of shape {np.shape(known[name])}: "
                f"{error}"
            ) from error

    return PLACEHOLDER.sub(value, text)


def write_sample(path: Path, sample: Sample) -> None:
    """Write the sample in the format that the file's suffix names.

    Raises:
        ContractError: it names none, or one that cannot hold this sample.
    """
    arrays = {name or PARAMETERS: array for name, array in named(sample).items()}
    if path.suffix == ".json":
        lists = {name: array.tolist() for name, array in arrays.items()}
        path.write_text(json.dumps(lists))
    elif path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    elif path.suffix == ".npy" and named(sample).keys() == {BARE}:
        np.save(path, arrays[PARAMETERS])
    elif path.suffix in (".xyz", ".extxyz"):
        from ase.io import write

        from pal.kernels.atoms import to_atoms

        write(path, to_atoms(sample), format="extxyz")
    else:
        raise ContractError(
            f"command: sample_file = '{path.name}' cannot hold the arrays {sorted(arrays)}; "
            "expected .json or .npz, .npy for one bare array, .xyz for atoms"
        )


def _written(value: Any, form: str) -> str:
    """Write numbers so that they are read back exactly, unless a format says otherwise."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        return format(array.item(), form) if form else str(array.item())
    separator = "\n" if array.ndim > 1 else " "
    return separator.join(_written(part, form) for part in array)


def _electrons(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return charge and multiplicity; without `spin` the lowest that the electrons allow."""
    charge = float(arrays.get("charge", 0.0))
    lowest = (int(arrays["numbers"].sum()) - round(charge)) % 2
    spin = round(float(arrays.get("spin", lowest)))
    whole = int(charge) if charge.is_integer() else charge
    return {"charge": whole, "spin": spin, "multiplicity": spin + 1}


def _xyz(arrays: Mapping[str, Array]) -> str:
    rows = zip(_symbols(arrays["numbers"]), arrays["positions"], strict=True)
    return "\n".join(f"{s:2s} {x:.10f} {y:.10f} {z:.10f}" for s, (x, y, z) in rows)


def _symbols(numbers: Array) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[int(number)] for number in numbers]
