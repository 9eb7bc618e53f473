"""The box that designs are taken from, and what sample a design becomes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from pal.errors import ContractError, KernelImportError
from pal.records import BARE, Array, Sample, unnamed

Show: TypeAlias = Callable[[Array], Sample]
"""Makes a sample from a design, a float array (n,)."""


class Box:
    """Lower and upper bounds of n parameters, as float arrays (n,)."""

    def __init__(self, lower: Sequence[float], upper: Sequence[float], kernel: str) -> None:
        self.lower = np.array(lower, dtype=float)
        self.upper = np.array(upper, dtype=float)
        if self.lower.ndim != 1 or not self.lower.size or self.lower.shape != self.upper.shape:
            raise ContractError(
                f"{kernel}: expected lower and upper bounds of the same number of parameters, at "
                f"least one; got {np.size(lower)} and {np.size(upper)}"
            )
        if not (np.isfinite([self.lower, self.upper]).all() and (self.lower < self.upper).all()):
            raise ContractError(
                f"{kernel}: expected finite lower < upper for every parameter; "
                f"got lower = {list(lower)}, upper = {list(upper)}"
            )

    def __len__(self) -> int:
        return len(self.lower)

    def scaled(self, unit: Array) -> Array:
        """Return designs (..., n) from numbers (..., n) between 0 and 1."""
        designs: Array = self.lower + (self.upper - self.lower) * unit
        return designs


def shown(kernel: str, name: str, render: str | None) -> Show:
    """Return what makes a sample from a design: as it is, under a name, or by a user's function.

    `render` is written as 'package.module:function'; what it returns is a sample, or, with a
    `name`, the array of that name.

    Raises:
        KernelImportError: the function cannot be imported.
    """
    function = _imported(kernel, render) if render is not None else None

    def show(design: Array) -> Sample:
        own = design.copy()
        value = own if function is None else function(own)
        if isinstance(value, Mapping) and not name:
            return value
        if not isinstance(value, np.ndarray):
            raise ContractError(
                f"{kernel}: render = '{render}' returned {type(value).__name__}; expected a numpy "
                "array" + ("" if name else " or a mapping of names to arrays")
            )
        return unnamed({name or BARE: value})

    return show


def _imported(kernel: str, target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise KernelImportError(
            f"{kernel}: render = '{target}' cannot be imported: {type(error).__name__}: {error}; "
            "expected 'package.module:function', importable from the settings file's folder"
        ) from error
