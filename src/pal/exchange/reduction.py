"""From the members' labels to one prediction: mean, deviation, and what is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pal.errors import ShapeError
from pal.records import Array, Batch, Label, Prediction, named, signature, unnamed


def reduce(members: Sequence[Batch], version: int = 0) -> Prediction:
    """Return the members' labels as a prediction.

    Raises:
        ShapeError: two members return labels of different names or shapes.
    """
    return Prediction(members, *mean_and_deviation(members), version)


def mean_and_deviation(members: Sequence[Batch]) -> tuple[Batch, Batch]:
    """Mean and sample standard deviation (n - 1) over the members, name by name.

    Raises:
        ShapeError: two members return labels of different names or shapes.
    """
    if all(batch.uniform for batch in members):
        return _reduce_uniform(members)
    means: list[Label] = [np.empty(0)] * len(members[0])
    deviations = list(means)
    for indices, group in members[0].groups():
        others = [batch.take(indices) for batch in members[1:]]
        mean, deviation = _reduce_uniform([group, *others])
        for row, index in enumerate(indices):
            means[index], deviations[index] = mean[row], deviation[row]
    return Batch(means), Batch(deviations)


def beside(prediction: Prediction, feedback: Batch) -> Batch:
    """Return the deviation to go with a selector's feedback.

    Zeros, if it is of another shape, or nobody has wanted to know it so far.
    """
    if not prediction.reduced:
        return _zeros_like(feedback)
    deviation = prediction.deviation
    whole = deviation.uniform and feedback.uniform
    fits = _shapes_in(deviation, whole) == _shapes_in(feedback, whole)
    return deviation if fits else _zeros_like(feedback)


def _shapes_in(batch: Batch, whole: bool) -> list[dict[str, tuple[int, ...]]]:
    """Return names and shapes: of the columns, if it is taken as a whole, or of each item."""
    parts = [batch.columns] if whole else map(named, batch)
    return [{name: array.shape for name, array in part.items()} for part in parts]


def _zeros_like(batch: Batch) -> Batch:
    if batch.uniform:
        return Batch.stacked({n: np.zeros(column.shape) for n, column in batch.columns.items()})
    return Batch(
        [unnamed({n: np.zeros(a.shape) for n, a in named(item).items()}) for item in batch]
    )


def _reduce_uniform(members: Sequence[Batch]) -> tuple[Batch, Batch]:
    columns = [batch.columns for batch in members]
    first = columns[0]
    shapes = {name: column.shape for name, column in first.items()}
    for index, other in enumerate(columns[1:], start=1):
        if {name: column.shape for name, column in other.items()} != shapes:
            raise ShapeError(
                f"member {index} of the committee returned labels {_shapes(members[index])}, "
                f"member 0 {_shapes(members[0])}; all must return the same names and shapes"
            )
    pairs = {name: moments([column[name] for column in columns]) for name in first}
    return (
        Batch.stacked({name: pair[0] for name, pair in pairs.items()}),
        Batch.stacked({name: pair[1] for name, pair in pairs.items()}),
    )


def _shapes(batch: Batch) -> str:
    return str({name or "bare": shape for name, (_, shape) in signature(batch[0])})


_BLOCK = 16384
"""Elements reduced at once: the few blocks at work stay in a core's own cache."""


def moments(values: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and sample standard deviation of arrays of one shape, in double precision.

    The values are shifted by the first array before they are squared, so large common offsets
    (total energies) do not cancel the deviation away: Chan, Golub and LeVeque, The American
    Statistician 37 (1983) 242, "shifted data" formula.
    """
    count = len(values)
    shape = values[0].shape
    flat = [np.ascontiguousarray(value, dtype=np.float64).reshape(-1) for value in values]
    if count == 1:
        return flat[0].reshape(shape).copy(), np.zeros(shape)
    mean, deviation = np.empty(flat[0].size), np.empty(flat[0].size)
    scratch = np.empty((2, min(_BLOCK, mean.size)))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, mean.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            _moments_block(
                [value[block] for value in flat], mean[block], deviation[block], scratch
            )
    return mean.reshape(shape), deviation.reshape(shape)


def _moments_block(values: Sequence[Array], mean: Array, deviation: Array, scratch: Array) -> None:
    count, first = len(values), values[0]
    shifted, squared = scratch[0, : first.size], scratch[1, : first.size]
    np.subtract(values[1], first, out=mean)
    np.multiply(mean, mean, out=deviation)
    for value in values[2:]:
        np.subtract(value, first, out=shifted)
        np.add(mean, shifted, out=mean)
        np.multiply(shifted, shifted, out=squared)
        np.add(deviation, squared, out=deviation)
    np.multiply(mean, 1 / count, out=mean)
    np.multiply(mean, mean, out=squared)
    np.multiply(squared, count, out=squared)
    np.subtract(deviation, squared, out=deviation)
    np.maximum(deviation, 0.0, out=deviation)
    np.multiply(deviation, 1 / (count - 1), out=deviation)
    np.sqrt(deviation, out=deviation)
    np.add(mean, first, out=mean)


def finite_rows(batch: Batch) -> NDArray[np.bool_] | None:
    """Which samples or labels of a batch are finite throughout: bool (n,), or None for all.

    The sum of everything is tried first: it is finite only if every term is.
    """
    if batch.uniform:
        floats = _floats(batch)
        if _finite_sums(floats):
            return None
        rows = np.ones(len(batch), bool)
        for column in floats:
            rows &= np.isfinite(column).reshape(len(batch), -1).all(axis=1)
    else:
        rows = np.array(
            [
                all(np.isfinite(a).all() for a in named(r).values() if a.dtype.kind in "fc")
                for r in batch
            ],
            bool,
        )
    return None if rows.all() else rows


def _floats(batch: Batch) -> list[Array]:
    return [column for column in batch.columns.values() if column.dtype.kind in "fc"]


def _finite_sums(columns: Sequence[Array]) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return all(np.isfinite(np.add.reduce(column, axis=None)) for column in columns)


def finite_in_all(members: Sequence[Batch]) -> NDArray[np.bool_] | None:
    """For which samples every member's label is finite: bool (n,), or None for all."""
    if all(batch.uniform for batch in members) and _finite_sums(
        [column for batch in members for column in _floats(batch)]
    ):
        return None
    found = [rows for rows in map(finite_rows, members) if rows is not None]
    return np.logical_and.reduce(found) if found else None


def lifeless(batch: Batch) -> bool:
    """Whether no sample or label of a batch is finite throughout."""
    rows = finite_rows(batch)
    return rows is not None and not rows.any()
