"""What a label must be beside finite: converged, and within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pal.errors import ContractError, LabelFailure, NotFiniteError
from pal.runtime.labels import Sanity, check_label

LABEL: dict[str, Any] = {
    "energy": np.array(-76.0),
    "forces": np.array([[0.0, 1.0, -2.0], [3.0, 0.0, 0.0]]),
    "converged": np.array(True),
}


def test_a_sane_label_is_returned_without_what_is_the_same_in_all() -> None:
    sanity = Sanity({"energy": (-100.0, 0.0), "forces": (-3.0, 3.0)}, "converged")
    found = check_label(LABEL, sanity)
    assert isinstance(found, dict)
    assert found.keys() == {"energy", "forces"}
    assert check_label(LABEL).keys() == LABEL.keys()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "bounds", "words"),
    [
        ("energy", (-70.0, 0.0), r"^energy = -76 in the label.*energy = \[-70, 0\]"),
        ("forces", (-1.0, 5.0), r"^forces\[0, 2\] = -2 in the label, one of 1 outside"),
        ("forces", (-9.0, 0.5), r"^forces\[0, 1\] = 1 in the label, one of 2 outside"),
    ],
)
def test_what_is_outside_its_bounds_is_named(
    name: str, bounds: tuple[float, float], words: str
) -> None:
    with pytest.raises(LabelFailure, match=words):
        check_label(LABEL, Sanity({name: bounds}))


def test_a_label_that_has_not_converged_says_so_before_its_numbers_are_looked_at() -> None:
    label = {**LABEL, "converged": False, "energy": np.array(np.nan)}
    with pytest.raises(LabelFailure, match="has not converged: its label says converged = False"):
        check_label(label, Sanity({"energy": (-1.0, 1.0)}, "converged"))
    with pytest.raises(NotFiniteError):
        check_label({**label, "converged": True}, Sanity({}, "converged"))


@pytest.mark.parametrize(
    ("sanity", "words"),
    [
        (Sanity({"stress": (0.0, 1.0)}), "no field 'stress', which oracle.bounds names"),
        (Sanity({}, "done"), "no field 'done', which oracle.converged names"),
    ],
)
def test_a_field_that_is_missing_is_a_mistake_of_the_settings(sanity: Sanity, words: str) -> None:
    with pytest.raises(ContractError, match=f"{words}; it has.*energy"):
        check_label(LABEL, sanity)


def test_a_bare_label_is_its_own_only_field() -> None:
    sanity = Sanity({"label": (0.0, 1.0)})
    assert np.asarray(check_label(np.array([0.5]), sanity)) == 0.5
    with pytest.raises(LabelFailure, match=r"label\[1\] = 2 in the label"):
        check_label(np.array([0.5, 2.0]), sanity)
    with pytest.raises(ContractError, match="it has no names"):
        check_label(np.array([0.5]), Sanity({}, "converged"))
