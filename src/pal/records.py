"""What travels between kernels: samples, labels, batches of them, predictions, feedback.

A sample or a label is a mapping of names to numpy arrays, of any size and different from sample
to sample, or one bare array. A `Batch` is a sequence of them that also offers each name as one
stacked array when all shapes agree, which is what fast models want.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError, ShapeError

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
"""Named arrays. A bare array is kept under the name `BARE`."""
Sample: TypeAlias = Array | Arrays
Label: TypeAlias = Array | Arrays
Weights: TypeAlias = Mapping[str, Array]

BARE: Final = ""
"""The name under which a bare array is kept."""


def named(record: Any) -> dict[str, Array]:
    """Return a sample or label as named arrays; a bare array gets the name `BARE`."""
    if isinstance(record, Mapping):
        return {name: np.asarray(value) for name, value in record.items()}
    return {BARE: np.asarray(record)}


def unnamed(arrays: Arrays) -> Sample:
    """Undo `named`: give a bare array back as an array."""
    return arrays.get(BARE, arrays)


class Batch(Sequence[Sample]):
    """An immutable sequence of samples or labels.

    `batch[3]` is one sample. `batch["positions"]` is that name of all of them as one array of
    shape (n, ...), where the shapes agree; for bare arrays `np.asarray(batch)` is the same.
    Where they differ, `batch.groups()` splits the batch into uniform ones.
    """

    __slots__ = ("_columns", "_items", "_size")

    def __init__(self, items: Sequence[Sample]) -> None:
        self._items: Sequence[Sample] | None = items
        self._columns: dict[str, Array] | None = None
        self._size = len(items)

    @classmethod
    def stacked(cls, columns: Mapping[str, Array] | Array) -> Batch:
        """Make a uniform batch from arrays of shape (n, ...), without a copy."""
        batch = cls.__new__(cls)
        batch._items = None
        if isinstance(columns, np.ndarray):
            batch._columns, batch._size = {BARE: columns}, len(columns)
            return batch
        batch._columns = dict(columns)
        sizes = {name: len(column) for name, column in batch._columns.items()}
        if len(set(sizes.values())) != 1:
            raise ShapeError(f"the columns of a batch differ in length: {sizes}")
        batch._size = next(iter(sizes.values()))
        return batch

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int) -> Sample: ...
    @overload
    def __getitem__(self, key: slice) -> Batch: ...
    @overload
    def __getitem__(self, key: str) -> Array: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        if isinstance(key, slice):
            return self.take(range(*key.indices(self._size)))
        if self._items is not None:
            return self._items[key]
        assert self._columns is not None
        return unnamed({name: column[key] for name, column in self._columns.items()})

    def __iter__(self) -> Iterator[Sample]:
        if self._items is not None:
            return iter(self._items)
        assert self._columns is not None
        if self._columns.keys() == {BARE}:
            return iter(self._columns[BARE])
        names, columns = tuple(self._columns), self._columns.values()
        return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        column = self.columns[BARE] if self._size else np.empty((0,))
        return np.array(column, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        if not self.uniform:
            return f"<Batch of {self._size}, mixed shapes>"
        shapes = {name or "bare": column.shape[1:] for name, column in self.columns.items()}
        return f"<Batch of {self._size}, {shapes}>"

    @property
    def uniform(self) -> bool:
        """Whether all samples have the same names, shapes and dtypes."""
        if self._columns is not None or not self._items:
            return True
        if all(type(item) is np.ndarray for item in self._items):
            return len({(item.shape, item.dtype) for item in self._items}) == 1  # type: ignore[union-attr]
        return len({signature(item) for item in self._items}) == 1

    @property
    def columns(self) -> dict[str, Array]:
        """Each name as one array of shape (n, ...).

        Raises:
            ShapeError: shapes differ from sample to sample; use `groups()`.
        """
        if self._columns is None:
            assert self._items is not None
            if not self.uniform:
                seen = sorted({str(dict(signature(item))) for item in self._items})
                raise ShapeError(
                    "this batch mixes shapes and cannot be stacked; iterate over it or use "
                    f"groups(). Shapes in it: {'; '.join(seen[:3])}"
                )
            self._columns = _columns(self._items)
        return self._columns

    def take(self, indices: Sequence[int] | Array) -> Batch:
        """Return the samples at these indices, in this order."""
        if self._columns is not None:
            chosen = np.asarray(indices, dtype=np.intp)
            return Batch.stacked({name: column[chosen] for name, column in self._columns.items()})
        return Batch([self[int(index)] for index in indices])

    def groups(self) -> Iterator[tuple[list[int], Batch]]:
        """Split into uniform batches: (indices into this batch, the uniform batch)."""
        if self._columns is not None:
            yield list(range(self._size)), self
            return
        found: dict[Signature, list[int]] = {}
        for index, item in enumerate(self):
            found.setdefault(signature(item), []).append(index)
        for indices in found.values():
            yield indices, self.take(indices)


def _columns(items: Sequence[Sample]) -> dict[str, Array]:
    if items and all(type(item) is np.ndarray for item in items):
        return {BARE: _stack(items)}  # type: ignore[arg-type]
    rows = [named(item) for item in items]
    return {name: _stack([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def _stack(rows: Sequence[Array]) -> Array:
    """Stack arrays of one shape; `np.stack` would look at each of them several times."""
    if not rows[0].ndim:
        return np.array(rows)
    return np.concatenate(rows).reshape(len(rows), *rows[0].shape)


Signature: TypeAlias = tuple[tuple[str, tuple[str, tuple[int, ...]]], ...]


def signature(record: Sample) -> Signature:
    """Names, dtypes and shapes of a sample or label, as a hashable value."""
    if isinstance(record, np.ndarray):
        return ((BARE, (record.dtype.str, record.shape)),)
    return tuple((name, (a.dtype.str, a.shape)) for name, a in named(record).items())


def as_batch(result: Any, size: int, source: str) -> Batch:
    """Read what a model returned for `size` samples as a batch of labels.

    Accepted: a `Batch`, an array of shape (n, ...), a mapping of names to such arrays, or a
    sequence of n labels.

    Raises:
        ContractError, ShapeError: naming `source`, what was expected and what came.
    """
    if isinstance(result, Batch):
        batch = result
    elif isinstance(result, np.ndarray) and result.ndim:
        batch = Batch.stacked(result)
    elif isinstance(result, Mapping) and result:
        batch = Batch.stacked(named(result))
    elif isinstance(result, Sequence) and not isinstance(result, str | bytes):
        batch = Batch(result)
    else:
        raise ContractError(
            f"{source} returned {type(result).__name__}; expected {size} labels as an array of "
            "shape (n, ...), a mapping of names to such arrays, or a list of labels"
        )
    if len(batch) != size:
        raise ShapeError(f"{source} returned {len(batch)} labels for {size} samples")
    return batch


def as_members(result: Any, members: int, size: int, source: str) -> list[Batch]:
    """Read what a committee returned for `size` samples as one batch of labels per member.

    Accepted: an array of shape (members, n, ...), a mapping of names to such arrays, or a
    sequence with what `as_batch` accepts for each member.

    Raises:
        ContractError, ShapeError: naming the member, what was expected and what came.
    """
    per_member: Sequence[Any]
    if isinstance(result, Mapping):
        arrays = named(result)
        wrong = {k: v.shape for k, v in arrays.items() if v.shape[:2] != (members, size)}
        if wrong or not arrays:
            raise ShapeError(
                f"{source} returned {wrong or 'no arrays'}; expected arrays of shape "
                f"({members}, {size}, ...), one row per member and sample"
            )
        per_member = [{k: v[index] for k, v in arrays.items()} for index in range(members)]
    elif isinstance(result, np.ndarray | Sequence) and len(result) == members:
        per_member = list(result)
    else:
        got = f"{len(result)} entries" if hasattr(result, "__len__") else type(result).__name__
        raise ContractError(f"{source} returned {got}; expected one entry for each of {members}")
    return [
        as_batch(labels, size, f"member {index} of {source}")
        for index, labels in enumerate(per_member)
    ]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the committee says of a batch of n samples.

    `members` holds each member's labels; `mean` and `deviation` (the sample standard deviation
    over the members, n - 1 in the denominator; zero for a committee of one) have the same names
    and shapes as one member's labels. `version` counts the weights the committee used.
    """

    members: Sequence[Batch]
    mean: Batch
    deviation: Batch
    version: int = 0

    def take(self, indices: Sequence[int] | Array) -> Prediction:
        """Return the prediction for the samples at these indices, in this order."""
        members = [member.take(indices) for member in self.members]
        return Prediction(
            members, self.mean.take(indices), self.deviation.take(indices), self.version
        )


class Feedback(NamedTuple):
    """What a walker gets back for the sample it sent.

    `mean` and `deviation` are the walker's own copies; `uncertainty` is the selector's scalar;
    `trusted` is the central judgement of reliability. What to do when it is False (wait some
    steps with patience, step back, restart) is the walker's own decision.
    """

    mean: Label
    deviation: Label
    uncertainty: float
    trusted: bool
    version: int


class Refusal(enum.IntEnum):
    """Why a walker gets no feedback for its sample, and goes back to its last saved state."""

    BROKEN = 1
    """The sample, or its prediction, is not finite; a failure of the walker."""
    UNPHYSICAL = 2
    """Its walker has explored where nothing physical is, as models that know little let it."""


_make_feedback: Final = partial(tuple.__new__, Feedback)
"""From a tuple, in half the time that the class takes: every step of every walker needs it."""


@dataclass(frozen=True, slots=True, eq=False)
class Feedbacks(Sequence[Feedback]):
    """What n walkers get back, as arrays; a sequence of each one's `Feedback`, too.

    `mean` and `deviation` hold n labels, `uncertainty` is a float array (n,), `trusted` a bool
    array (n,), and `version` is the same for all.
    """

    mean: Batch
    deviation: Batch
    uncertainty: Array
    trusted: NDArray[np.bool_]
    version: int

    @classmethod
    def of(cls, feedback: Sequence[Feedback]) -> Feedbacks:
        """Join what walkers got back from one batch."""
        if isinstance(feedback, Feedbacks):
            return feedback
        return cls(
            Batch([item.mean for item in feedback]),
            Batch([item.deviation for item in feedback]),
            np.array([item.uncertainty for item in feedback], float),
            np.array([item.trusted for item in feedback], bool),
            feedback[0].version if feedback else 0,
        )

    def __len__(self) -> int:
        return len(self.mean)

    @overload
    def __getitem__(self, key: int) -> Feedback: ...
    @overload
    def __getitem__(self, key: slice) -> Feedbacks: ...
    def __getitem__(self, key: int | slice) -> Feedback | Feedbacks:
        if isinstance(key, slice):
            return self.take(range(*key.indices(len(self))))
        return Feedback(
            self.mean[key],
            self.deviation[key],
            float(self.uncertainty[key]),
            bool(self.trusted[key]),
            self.version,
        )

    def __iter__(self) -> Iterator[Feedback]:
        columns = (self.mean, self.deviation, self.uncertainty.tolist(), self.trusted.tolist())
        return map(_make_feedback, zip(*columns, repeat(self.version)))

    def take(self, indices: Sequence[int] | Array) -> Feedbacks:
        """Return the feedback of these walkers, in this order."""
        chosen = np.asarray(indices, dtype=np.intp)
        return Feedbacks(
            self.mean.take(chosen),
            self.deviation.take(chosen),
            self.uncertainty[chosen],
            self.trusted[chosen],
            self.version,
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """A selector's decision for a batch of n samples.

    `candidates`: indices to be labelled. `uncertainty`: float array (n,). `trusted`: bool array
    (n,). `inputs` replaces the samples at `candidates` when the oracle should see something
    else; `feedback` replaces the committee's mean on its way to the walkers.
    """

    candidates: Sequence[int] | Array
    uncertainty: Array
    trusted: Array
    inputs: Sequence[Sample] | None = None
    feedback: Batch | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """A new order of the label queue.

    `order`: indices into the queue, most urgent first; indices left out are dropped.
    `uncertainty`: float array (n,), the newest models' uncertainty of every queued sample.
    """

    order: Sequence[int] | Array
    uncertainty: Array


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """What trainers learn from. `identity` is the sample's number in the ledger."""

    identity: int
    sample: Sample
    label: Label


Dataset: TypeAlias = Sequence[LabelledSample]
"""A training set; with a bootstrap a sample may appear several times or not at all."""

Metrics: TypeAlias = Mapping[str, float]
"""What one epoch reports, e.g. {"loss": 0.1, "force_mae": 0.05}."""
