"""A label by hand is taken if it is like the campaign's others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pal.errors import ContractError, NotFiniteError, ShapeError
from pal.records import LabelledSample
from pal.runtime.given import fitting


def atoms(count: int) -> dict[str, Any]:
    return {"positions": np.zeros((count, 3)), "numbers": np.ones(count, int)}


def label(count: int, **more: Any) -> dict[str, Any]:
    return {"energy": np.array(1.0), "forces": np.zeros((count, 3)), **more}


EXAMPLE = LabelledSample(5, atoms(3), label(3))


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_label_follows_the_number_of_atoms(count: int) -> None:
    taken = fitting(label(count), atoms(count), EXAMPLE)
    assert isinstance(taken, dict)
    assert taken["forces"].shape == (count, 3)
    with pytest.raises(ShapeError, match="forces has shape"):
        fitting(label(count + 1), atoms(count), EXAMPLE)


def test_names_must_be_those_of_the_others() -> None:
    with pytest.raises(ShapeError, match="'energy', 'forces', 'stress'; expected 'energy'"):
        fitting(label(3, stress=np.zeros(6)), atoms(3), EXAMPLE)
    with pytest.raises(ShapeError, match="as sample 5 has"):
        fitting({"energy": np.array(1.0)}, atoms(3), EXAMPLE)


def test_numbers_become_of_the_same_type() -> None:
    taken = fitting({"energy": np.array(2), "forces": np.zeros((3, 3), int)}, atoms(3), EXAMPLE)
    assert isinstance(taken, dict)
    assert {array.dtype for array in taken.values()} == {np.dtype(float)}


def test_states_and_atoms_are_told_apart() -> None:
    several = LabelledSample(1, atoms(4), {"state_forces": np.zeros((2, 4, 3))})
    taken = fitting({"state_forces": np.zeros((2, 7, 3))}, atoms(7), several)
    assert isinstance(taken, dict)
    assert taken["state_forces"].shape == (2, 7, 3)


def test_bare_arrays_fit_bare_arrays() -> None:
    bare = LabelledSample(1, np.zeros(2), np.zeros(1))
    np.testing.assert_array_equal(np.asarray(fitting(np.ones(1), np.zeros(2), bare)), [1.0])
    with pytest.raises(ShapeError, match="a bare array"):
        fitting({"energy": np.zeros(1)}, np.zeros(2), bare)


def test_without_an_example_it_must_be_a_label() -> None:
    fitting(label(2), atoms(2), None)
    with pytest.raises(ShapeError, match=r"forces has shape \(3, 3\); expected \(2, 3\)"):
        fitting(label(3), atoms(2), None)
    with pytest.raises(ContractError, match="not empty"):
        fitting({}, atoms(2), None)
    with pytest.raises(NotFiniteError, match="NaN"):
        fitting({"energy": np.array(np.inf)}, atoms(2), None)
