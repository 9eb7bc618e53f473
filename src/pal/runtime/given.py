"""A label given by hand: whether it is one, and one like the campaign's others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pal.errors import ShapeError
from pal.records import Array, Label, LabelledSample, Sample, named, unnamed
from pal.runtime.labels import check_label


def fitting(label: Sample, sample: Sample, example: LabelledSample | None) -> Label:
    """Return a label that has the names, shapes and types of `example`, as this sample has them.

    Without an example, any label will do whose forces, if there are any, fit the atoms.

    Raises:
        ContractError, ShapeError: it is no label, or another one than the campaign has.
    """
    arrays, own = named(check_label(label)), named(sample)
    if example is None:
        if "forces" in arrays and "positions" in own:
            _require("forces", arrays["forces"], own["positions"].shape)
        return unnamed(arrays)
    wanted = named(example.label)
    if arrays.keys() != wanted.keys():
        raise ShapeError(
            f"the label has {_names(arrays)}; expected {_names(wanted)}, as sample "
            f"{example.identity} has"
        )
    sizes = _sizes(named(example.sample), own)
    for name, array in wanted.items():
        _require(name, arrays[name], _expected(array.shape, sizes))
    return unnamed({name: _alike(arrays[name], wanted[name]) for name in wanted})


def _sizes(example: Mapping[str, Array], own: Mapping[str, Array]) -> dict[int, int]:
    """Return what becomes of the example's leading lengths, such as its number of atoms."""
    return {
        len(array): len(own[name])
        for name, array in example.items()
        if array.ndim and name in own and own[name].ndim
    }


def _expected(shape: tuple[int, ...], sizes: Mapping[int, int]) -> tuple[int, ...]:
    """Return a shape with the first length exchanged that goes with the sample's."""
    for axis, length in enumerate(shape):
        if length in sizes:
            return (*shape[:axis], sizes[length], *shape[axis + 1 :])
    return shape


def _alike(array: Array, example: Array) -> Array:
    numeric = array.dtype.kind in "biuf" and example.dtype.kind in "biuf"
    return array.astype(example.dtype) if numeric else array


def _require(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if np.shape(array) != shape:
        raise ShapeError(
            f"the label's {name or 'array'} has shape {np.shape(array)}; expected {shape}"
        )


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) if name else "a bare array" for name in sorted(names))
