"""Labels as rows of numbers and back, for models that care for numbers and not for their names."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pal.errors import ContractError, ShapeError
from pal.records import BARE, Array, Batch, Label, Sample, named


@dataclass(frozen=True, slots=True)
class Layout:
    """The arrays of a record, one after the other, as one row of `width` numbers."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, record: Sample | Label, names: Sequence[str] | None = None) -> Self:
        """Return the layout of a record's arrays; of those with these names, in their order.

        Raises:
            ContractError: a name is missing.
        """
        arrays = named(record)
        wanted = sorted(arrays) if names is None else names
        missing = [name for name in wanted if name not in arrays]
        if missing:
            expected = (
                "a bare array" if BARE in missing else f"arrays of which {missing} are missing"
            )
            came = "a bare array" if BARE in arrays else f"the arrays {sorted(arrays)}"
            raise ContractError(f"expected {expected}, got {came}; see the option inputs")
        return cls(tuple((name, arrays[name].shape) for name in wanted))

    @property
    def width(self) -> int:
        """How many numbers there are."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def rows(self, records: Sequence[Sample]) -> Array:
        """Return the records' numbers, float64 (n, width).

        Raises:
            ContractError, ShapeError: they have other arrays than the layout.
        """
        if not records:
            return np.empty((0, self.width))
        columns = (records if isinstance(records, Batch) else Batch(records)).columns
        came = {name: column.shape[1:] for name, column in columns.items()}
        if any(came.get(name) != shape for name, shape in self.shapes):
            raise ShapeError(f"expected arrays of the shapes {dict(self.shapes)}; got {came}")
        parts = [columns[name].reshape(len(records), -1) for name, _ in self.shapes]
        if len(parts) == 1:
            return np.asarray(parts[0], dtype=float)
        return np.concatenate(parts, axis=1, dtype=float)

    def labels(self, rows: Array) -> dict[str, Array]:
        """Return rows (..., width) as named arrays (..., *shape); a bare one is named `BARE`."""
        found, start = {}, 0
        for name, shape in self.shapes:
            end = start + math.prod(shape)
            found[name] = rows[..., start:end].reshape(*rows.shape[:-1], *shape)
            start = end
        return found

    def encoded(self) -> Array:
        """Return the layout as an array (bytes,), uint8, to be kept with weights."""
        return np.frombuffer(json.dumps(self.shapes).encode(), dtype=np.uint8).copy()

    @classmethod
    def decoded(cls, array: Array) -> Self:
        """Undo `encoded`."""
        shapes = json.loads(np.asarray(array, dtype=np.uint8).tobytes())
        return cls(tuple((name, tuple(shape)) for name, shape in shapes))


@dataclass(frozen=True, slots=True)
class Scale:
    """Rows of numbers (n, width) to those of mean 0 and standard deviation 1, and back."""

    mean: Array
    spread: Array

    @classmethod
    def of(cls, rows: Array) -> Self:
        """Return the scale of these rows; what never changes keeps its unit."""
        mean, spread = rows.mean(axis=0), rows.std(axis=0)
        level = 1e-12 * np.maximum(1.0, np.abs(mean))
        return cls(mean, np.where(spread > level, spread, 1.0))

    def apply(self, rows: Array) -> Array:
        """Return rows in units of the spread, from the mean."""
        scaled: Array = (rows - self.mean) / self.spread
        return scaled

    def undo(self, rows: Array) -> Array:
        """Return rows in their own units."""
        plain: Array = rows * self.spread + self.mean
        return plain
