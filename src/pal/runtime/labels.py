"""What every label goes through, in the job and beyond: a fresh folder, a check, an account."""

from __future__ import annotations

import os
import shutil
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import ContractError, Failure, LabelFailure, NotFiniteError, foreseen
from pal.records import BARE, Arrays, Label, Sample, named
from pal.roles import Oracle


@dataclass(frozen=True, slots=True)
class Sanity:
    """What a label must be beside finite: converged, and within bounds.

    `bounds`: for a field the smallest and the largest value of any of its elements. `converged`:
    the field that tells whether it is. A label that is one bare array is its own
    only field.
    """

    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    converged: str | None = None

    def require_converged(self, label: Label) -> Label:
        """Return the label without the field that tells that it has converged.

        Raises:
            ContractError: it does not tell.
            LabelFailure: it has not.
        """
        if self.converged is None:
            return label
        arrays = named(label)
        if self.converged not in arrays:
            raise _missing(arrays, self.converged, "oracle.converged")
        flag = arrays.pop(self.converged)
        if not np.all(flag):
            raise LabelFailure(
                f"the oracle has not converged: its label says {self.converged} = {flag}"
            )
        return arrays

    def require_bounds(self, label: Label) -> None:
        """Check every element of the fields that have bounds.

        Raises:
            ContractError: such a field is missing.
            LabelFailure: an element is outside.
        """
        for name, (low, high) in self.bounds.items():
            arrays = named(label)
            array = arrays.get(name, arrays.get(BARE))
            if array is None:
                raise _missing(arrays, name, "oracle.bounds")
            outside = np.argwhere((array < low) | (array > high))
            if len(outside):
                place = tuple(outside[0].tolist())
                where = f"{name}[{', '.join(map(str, place))}]" if place else name
                raise LabelFailure(
                    f"{where} = {array[place]:g} in the label, one of {len(outside)} outside "
                    f"oracle.bounds.{name} = [{low:g}, {high:g}]"
                )


def _missing(arrays: Arrays, name: str, setting: str) -> ContractError:
    names = sorted(arrays) if arrays.keys() != {BARE} else "no names"
    return ContractError(f"the label has no field '{name}', which {setting} names; it has {names}")


ANY = Sanity()


def check_label(label: Any, sanity: Sanity = ANY) -> Label:
    """Return a label if it is arrays of finite numbers, and sane.

    Raises:
        ContractError, NotFiniteError: says what came.
        LabelFailure: it has not converged, or is outside its bounds.
    """
    if not isinstance(label, np.ndarray | Mapping) or not len(label):
        raise ContractError(
            f"label returned {type(label).__name__}; expected a numpy array or a mapping of "
            "names to arrays, not empty"
        )
    label = sanity.require_converged(label)
    for name, array in named(label).items():
        if array.dtype.kind not in "biufcSU":
            raise ContractError(f"label returned {name or 'an array'} of dtype {array.dtype}")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            count = int(np.count_nonzero(~np.isfinite(array)))
            raise NotFiniteError(
                f"label returned {name or 'an array'} of shape {array.shape} with {count} "
                "entries that are NaN or infinite"
            )
    sanity.require_bounds(label)
    return label if isinstance(label, np.ndarray) else named(label)


def calculate(oracle: Oracle, sample: Sample, scratch: Path, sanity: Sanity = ANY) -> Label:
    """Have a sample labelled with a fresh scratch folder as the working directory.

    Raises:
        ContractError, NotFiniteError, LabelFailure: what came is no label, or none to keep.
        Exception: whatever the oracle raises.
    """
    home = Path.cwd()
    clear(scratch)
    scratch.mkdir(parents=True)
    os.chdir(scratch)
    try:
        return check_label(oracle.label(sample), sanity)
    finally:
        os.chdir(home)
        clear(scratch)


def clear(folder: Path) -> None:
    """Remove a scratch folder, whatever is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def described(role: str, index: int, error: BaseException, **more: Any) -> Failure:
    """Describe an exception of a kernel, as it travels and as the ledger keeps it."""
    return Failure(
        role,
        index,
        type(error).__name__,
        str(error),
        host=more.pop("host", socket.gethostname()),
        traceback="" if foreseen(error) else "".join(traceback.format_exception(error)),
        **more,
    )


def last_words(log: Path) -> str:
    """Return the end of what a process that died had printed, for its failure's traceback."""
    try:
        words = log.read_bytes()[-2000:].decode(errors="replace")
    except OSError:
        return ""
    return f"last words:\n{words}" if words.strip() else ""
