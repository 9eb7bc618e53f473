"""Mean and deviation over the committee are those of numpy, whatever the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pal.errors import ContractError, ShapeError
from pal.exchange.reduction import finite_rows, moments, reduce
from pal.records import Batch, as_members, named

COMMON = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)


@given(
    st.data(),
    st.integers(1, 6),
    COMMON,
    st.sampled_from([0.0, 1.0, -1e5, 1e8, 1e300]),
    st.sampled_from([1e-6, 1.0, 1e3]),
)
def test_moments_are_those_of_numpy(
    data: st.DataObject, members: int, shape: tuple[int, ...], offset: float, spread: float
) -> None:
    unit = data.draw(hnp.arrays("f8", (members, *shape), elements=st.floats(-1, 1)))
    values = offset + spread * unit
    mean, deviation = moments(list(values))
    # The deviation of rounded numbers is known to some units in their last place.
    grain = np.spacing(np.abs(values).max())
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-14, atol=4 * grain)
    expected = np.std(values - values[0], axis=0, ddof=1) if members > 1 else np.zeros(shape)
    largest = np.abs(values - values[0]).max()
    np.testing.assert_allclose(deviation, expected, rtol=1e-6, atol=1e-7 * largest + 4 * grain)
    assert mean.shape == deviation.shape == shape


def test_total_energies_of_a_large_molecule_keep_their_small_spread() -> None:
    """Energies of -1e5 eV that differ by 1e-6: two-pass in higher precision agrees."""
    rng = np.random.default_rng(1)
    values = -1e5 + 1e-6 * rng.normal(size=(8, 1000))
    _, deviation = moments(list(values))
    exact = np.std(values.astype(np.longdouble), axis=0, ddof=1)
    np.testing.assert_allclose(deviation, exact.astype(float), rtol=1e-6)


def test_members_that_agree_have_no_deviation() -> None:
    values = np.full(7, 0.1)
    _, deviation = moments([values, values.copy(), values.copy()])
    np.testing.assert_array_equal(deviation, np.zeros(7))


def test_a_committee_of_one_has_no_deviation_and_its_own_mean() -> None:
    value = np.arange(3.0)
    mean, deviation = moments([value])
    np.testing.assert_array_equal(mean, value)
    np.testing.assert_array_equal(deviation, np.zeros(3))
    assert not np.shares_memory(mean, value)


@pytest.mark.parametrize("size", [16383, 16384, 16385, 40000])
def test_large_arrays_are_reduced_block_by_block(size: int) -> None:
    values = np.random.default_rng(0).normal(size=(3, size))
    mean, deviation = moments(list(values))
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(deviation, values.std(axis=0, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["f4", "i4", ">f8", "?"])
def test_other_types_are_reduced_in_double_precision(dtype: str) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    mean, deviation = moments(list(values))
    assert mean.dtype == deviation.dtype == np.float64
    np.testing.assert_allclose(mean, [0.5, 0.5, 1.0])
    np.testing.assert_allclose(deviation, [0.5**0.5, 0.5**0.5, 0.0])


def test_values_in_any_memory_order() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    mean, _ = moments([np.asfortranarray(value) for value in values])
    np.testing.assert_allclose(mean, values.mean(axis=0))


@given(st.integers(1, 4), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_mixed_shapes_are_reduced_sample_by_sample(members: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(members)
    labels = [[{"f": rng.normal(size=(size, 3))} for size in sizes] for _ in range(members)]
    prediction = reduce([Batch(items) for items in labels], version=3)
    assert prediction.version == 3
    assert len(prediction.mean) == len(prediction.deviation) == len(sizes)
    for place in range(len(sizes)):
        stack = np.stack([labels[member][place]["f"] for member in range(members)])
        spread = stack.std(axis=0, ddof=1) if members > 1 else np.zeros_like(stack[0])
        np.testing.assert_allclose(named(prediction.mean[place])["f"], stack.mean(axis=0))
        np.testing.assert_allclose(
            named(prediction.deviation[place])["f"], spread, rtol=1e-7, atol=1e-12
        )


@pytest.mark.parametrize(
    "other",
    [{"e": np.zeros((2, 3))}, {"f": np.zeros((2, 3))}, {"e": np.zeros(2), "f": np.zeros(2)}],
)
def test_members_that_return_other_names_or_shapes_are_named(other: Any) -> None:
    first = Batch.stacked({"e": np.zeros(2)})
    with pytest.raises(ShapeError, match="member 1 of the committee"):
        reduce([first, Batch.stacked(other)])


def test_mixed_labels_of_different_shapes_are_named() -> None:
    first = Batch([np.zeros(1), np.zeros(2)])
    with pytest.raises(ShapeError, match="member 1 of the committee"):
        reduce([first, Batch([np.zeros(1), np.zeros(3)])])


# What a committee may return -------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        np.zeros((2, 3, 4)),
        [np.zeros((3, 4)), np.zeros((3, 4))],
        [[np.zeros(4)] * 3, [np.zeros(4)] * 3],
        (Batch.stacked(np.zeros((3, 4))), Batch.stacked(np.zeros((3, 4)))),
        {"f": np.zeros((2, 3, 4))},
        [{"f": np.zeros((3, 4))}, [{"f": np.zeros(4)}] * 3],
    ],
)
def test_every_form_of_result_is_read(result: Any) -> None:
    members = as_members(result, 2, 3, "the committee")
    assert [len(member) for member in members] == [3, 3]
    for member in members:
        ((shape,),) = {tuple(named(label)[n].shape for n in named(label)) for label in member}
        assert shape == (4,)


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (None, ContractError, "NoneType"),
        (3.0, ContractError, "float"),
        (np.zeros((3, 3, 4)), ContractError, "3 entries"),
        ([np.zeros((3, 4))], ContractError, "1 entries"),
        ({"f": np.zeros((3, 2, 4))}, ShapeError, r"\(2, 3, ...\)"),
        ({}, ShapeError, "no arrays"),
        ([np.zeros((3, 4)), np.zeros((4, 4))], ShapeError, "member 1 of the committee"),
        ([np.zeros((3, 4)), "words"], ContractError, "member 1 of the committee"),
        ([np.zeros((3, 4)), None], ContractError, "member 1 of the committee"),
    ],
)
def test_anything_else_is_refused_with_what_came(result: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        as_members(result, 2, 3, "the committee")


# What is not finite ----------------------------------------------------------------------------

VALUES = st.sampled_from([0.0, 1.0, -1e308, 1e308, np.nan, np.inf, -np.inf])


@given(hnp.arrays("f8", st.tuples(st.integers(1, 5), st.integers(0, 3)), elements=VALUES))
def test_rows_that_are_not_finite_are_found(values: Any) -> None:
    """Also where the sum overflows though every number is finite, or cancels to one."""
    expected = np.isfinite(values).all(axis=1)
    for batch in (Batch.stacked(values), Batch(list(values))):
        found = finite_rows(batch)
        if expected.all():
            assert found is None
        else:
            assert found is not None
            np.testing.assert_array_equal(found, expected)


@given(st.lists(hnp.arrays("f8", st.integers(1, 3), elements=VALUES), min_size=1, max_size=5))
def test_rows_of_mixed_shapes_that_are_not_finite_are_found(values: list[Any]) -> None:
    names = [{"x": value, "symbols": np.array(["H"] * len(value))} for value in values]
    expected = [bool(np.isfinite(value).all()) for value in values]
    found = finite_rows(Batch(names))
    assert (found is None) == all(expected)
    if found is not None:
        assert found.tolist() == expected


def test_complex_numbers_whole_numbers_and_words() -> None:
    columns = {
        "z": np.array([1j, complex(0, np.nan)]),
        "n": np.array([1, 2]),
        "words": np.array(["a", "b"]),
    }
    found = finite_rows(Batch.stacked(columns))
    assert found is not None
    assert found.tolist() == [True, False]
