from __future__ import annotations

import json
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pal.errors import ContractError, LedgerError, ShapeError
from pal.records import named, signature
from pal.transport.layout import ALIGNMENT, Layout, pack, unpack

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.byte_string_dtypes(min_len=1, max_len=8),
    hnp.unicode_string_dtypes(min_len=1, max_len=8),
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Arrays of every kind a record may hold, in every memory order."""
    array = draw(hnp.arrays(draw(DTYPES), draw(SHAPES)))
    form = draw(st.sampled_from(["C", "F", "reversed", "strided"]))
    if form == "F":
        return np.asfortranarray(array)
    if form == "reversed" and array.ndim:
        return array[::-1]
    if form == "strided" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return array


RECORDS = st.one_of(arrays(), st.dictionaries(st.text(min_size=1, max_size=8), arrays()))


def assert_same(left: Any, right: Any) -> None:
    assert isinstance(left, np.ndarray) == isinstance(right, np.ndarray)
    assert signature(left) == signature(right)
    for name, array in named(left).items():
        assert array.tobytes() == named(right)[name].tobytes()


@settings(max_examples=200, deadline=None)
@given(RECORDS, st.integers(0, 3))
def test_a_record_comes_back_from_a_buffer(record: Any, line: int) -> None:
    layout, offset = Layout.of(record), line * ALIGNMENT
    buffer = bytearray(offset + layout.nbytes)
    layout.write(buffer, record, offset)
    result = layout.read(buffer, offset)
    assert_same(result, record)
    assert all(array.flags.writeable for array in named(result).values())
    assert all(start % ALIGNMENT == 0 for start in layout.offsets)


@settings(max_examples=200, deadline=None)
@given(RECORDS)
def test_a_record_comes_back_from_bytes(record: Any) -> None:
    result = unpack(pack(record))
    assert_same(result, record)
    assert all(array.flags.writeable for array in named(result).values())


@given(RECORDS)
def test_a_layout_comes_back_from_its_description(record: Any) -> None:
    layout = Layout.of(record)
    again = Layout.from_bytes(layout.to_bytes())
    assert again == layout
    assert 0 <= layout.key < 2**63


@settings(max_examples=50, deadline=None)
@given(RECORDS, st.data())
def test_any_damage_is_noticed(record: Any, data: st.DataObject) -> None:
    packed = pack(record)
    position = data.draw(st.integers(0, len(packed) - 1))
    flipped = bytearray(packed)
    flipped[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(LedgerError):
        unpack(bytes(flipped))
    with pytest.raises(LedgerError):
        unpack(packed[:position])


@given(st.binary(max_size=80))
def test_noise_is_not_a_layout(noise: bytes) -> None:
    with pytest.raises(LedgerError):
        Layout.from_bytes(b"\xff" + noise)


@pytest.mark.parametrize(
    "description", [b"3", b"[1]", b'[["a","O",[1]]]', b'[["a","f8",[-1]]]', b'[["a","zz",[1]]]']
)
def test_a_wrong_description_is_refused(description: bytes) -> None:
    with pytest.raises(LedgerError, match="a layout cannot be read"):
        Layout.from_bytes(description)


def test_views_share_memory_and_read_does_not() -> None:
    record = {"positions": np.arange(6.0).reshape(2, 3), "charge": np.array(1)}
    layout = Layout.of(record)
    buffer = bytearray(layout.nbytes)
    layout.write(buffer, record)
    views, copy = layout.views(buffer), layout.read(buffer)
    layout.write(buffer, {**record, "charge": np.array(2)})
    assert views["charge"] == 2
    assert named(copy)["charge"] == 1


def test_shared_memory_holds_a_record() -> None:
    record = {"positions": np.random.default_rng(0).normal(size=(5, 3))}
    layout = Layout.of(record)
    memory = SharedMemory(create=True, size=layout.nbytes)
    try:
        layout.write(memory.buf, record)
        assert_same(layout.read(memory.buf), record)
    finally:
        memory.close()
        memory.unlink()


def test_the_key_is_the_same_on_every_machine() -> None:
    layout = Layout.of({"numbers": np.zeros(3, "<i8"), "positions": np.zeros((3, 3), "<f8")})
    assert json.loads(layout.to_bytes()) == [["numbers", "<i8", [3]], ["positions", "<f8", [3, 3]]]
    assert layout.key == 3649801329120852760
    assert Layout.of({"numbers": np.zeros(4, "<i8")}).key != layout.key


def test_another_record_does_not_fit() -> None:
    layout = Layout.of({"x": np.zeros(3)})
    buffer = bytearray(layout.nbytes)
    wrong = ({"x": np.zeros(4)}, {"y": np.zeros(3)}, {"x": np.zeros(3, "f4")}, np.zeros(3), {})
    for record in wrong:
        with pytest.raises(ShapeError, match="does not fit its layout"):
            layout.write(buffer, record)


@pytest.mark.parametrize(
    "record",
    [
        {"x": np.array([None])},
        {"x": np.zeros(2, dtype=[("a", "f8")])},
        {"x": np.array(["2020-01-01"], "datetime64[D]")},
    ],
)
def test_arrays_without_plain_numbers_are_refused(record: Any) -> None:
    with pytest.raises(ContractError, match="array 'x' has dtype"):
        pack(record)


def test_the_empty_name_is_kept_for_bare_arrays() -> None:
    with pytest.raises(ContractError, match="give each array a name"):
        Layout.of({"": np.zeros(1), "x": np.zeros(1)})


def test_another_version_is_named() -> None:
    packed = bytearray(pack(np.zeros(3)))
    packed[3] = 2
    with pytest.raises(LedgerError, match="version 2, this PAL reads 1"):
        unpack(bytes(packed))
