from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

from pal.controller.events import Candidate
from pal.errors import LedgerError
from pal.ledger.entries import NewLabel, NewSample
from pal.ledger.export import export_extxyz, export_npz, read_labelled
from pal.ledger.ledger import Ledger
from pal.records import LabelledSample, named

Make = Callable[..., Any]


def put(ledger: Ledger, *pairs: tuple[Any, Any]) -> None:
    first = ledger.totals()[0]
    for number, (sample, label) in enumerate(pairs, first):
        entry = NewSample(0.0, Candidate(number, 0, 0, 0.0), sample)
        ledger.commit([entry, NewLabel(0.0, number, label, oracle=0)])


def assert_same(left: list[LabelledSample], right: list[LabelledSample]) -> None:
    assert [item.identity for item in left] == [item.identity for item in right]
    for one, other in zip(left, right, strict=True):
        for a, b in ((one.sample, other.sample), (one.label, other.label)):
            assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray)
            assert named(a).keys() == named(b).keys()
            for name, array in named(a).items():
                assert array.shape == named(b)[name].shape
                assert (array == named(b)[name]).all()


@pytest.fixture
def crystal() -> tuple[dict[str, Any], dict[str, Any]]:
    random = np.random.default_rng(7)
    sample = {
        "positions": random.normal(size=(4, 3)) * 10,
        "numbers": np.array([83, 1, 8, 118]),
        "cell": random.normal(size=(3, 3)),
        "pbc": np.array([True, False, True]),
        "charge": np.array(-1.0),
        "spin": np.array(1.0),
    }
    label = {
        "energy": np.array(-1 / 3),
        "forces": random.normal(size=(4, 3)) * 1e-7,
        "charges": random.normal(size=4),
        "converged": np.array(True),
        "fixed": np.array([True, False, True, False]),
        "method": np.array("GFN2"),
    }
    return sample, label


@pytest.fixture
def mixed(ledger: Ledger, molecule: Make, label: Make) -> Ledger:
    """Molecules of three sizes, labelled in another order than they were proposed."""
    for number in (5, 3, 8, 1, 4):
        size = 2 + number % 3
        ledger.commit([molecule(number, size), label(number, size)])
    return ledger


def test_npz_comes_back_with_mixed_shapes(mixed: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "dataset.npz"
    assert export_npz(mixed, file) == 5
    assert_same(read_labelled(file), list(mixed.labelled()))


def test_npz_of_one_shape_is_plain_stacked_arrays(ledger: Ledger, tmp_path: Path) -> None:
    put(ledger, *((np.full(3, float(i)), {"energy": np.array(i)}) for i in range(4)))
    export_npz(ledger, tmp_path / "dataset.npz")
    with np.load(tmp_path / "dataset.npz") as file:
        assert set(file.files) == {"order", "identity", "sample/", "label/energy"}
        assert file["sample/"].shape == (4, 3)
        assert file["label/energy"].shape == (4,)
    assert_same(read_labelled(tmp_path / "dataset.npz"), list(ledger.labelled()))


def test_npz_of_other_programs_needs_no_numbers(tmp_path: Path) -> None:
    columns = {"sample/x": np.arange(6.0).reshape(3, 2), "label/y": np.arange(3.0)}
    np.savez(tmp_path / "held.npz", **columns)  # type: ignore[arg-type]
    items = read_labelled(tmp_path / "held.npz")
    assert [item.identity for item in items] == [0, 1, 2]
    assert named(items[2].sample)["x"].tolist() == [4.0, 5.0]
    assert named(items[2].label)["y"].shape == ()


def test_extxyz_comes_back(mixed: Ledger, tmp_path: Path, crystal: Any) -> None:
    put(mixed, crystal)
    file = tmp_path / "dataset.extxyz"
    assert export_extxyz(mixed, file) == 6
    assert_same(read_labelled(file), list(mixed.labelled()))


def test_ase_reads_extxyz(ledger: Ledger, tmp_path: Path, crystal: Any) -> None:
    sample, label = crystal
    molecule = {name: sample[name] for name in ("numbers", "positions")}
    put(ledger, crystal, (molecule, {"energy": label["energy"], "forces": label["forces"]}))
    file = tmp_path / "dataset.extxyz"
    export_extxyz(ledger, file)
    periodic, free = ase.io.read(file, ":")
    for atoms in (periodic, free):
        assert (atoms.numbers == sample["numbers"]).all()
        np.testing.assert_allclose(atoms.positions, sample["positions"], rtol=0, atol=1e-10)
        assert abs(atoms.get_potential_energy() - label["energy"]) < 1e-10
        np.testing.assert_allclose(atoms.get_forces(), label["forces"], rtol=0, atol=1e-16)
    np.testing.assert_allclose(periodic.cell.array, sample["cell"], rtol=0, atol=1e-10)
    assert (periodic.pbc == sample["pbc"]).all()
    assert periodic.info["charge"] == -1
    np.testing.assert_allclose(periodic.get_charges(), label["charges"], rtol=0, atol=1e-10)
    assert not free.pbc.any()


def test_extxyz_of_ase_is_read(ledger: Ledger, tmp_path: Path, crystal: Any) -> None:
    put(ledger, crystal)
    ours, theirs = tmp_path / "ours.extxyz", tmp_path / "theirs.xyz"
    export_extxyz(ledger, ours)
    ase.io.write(theirs, ase.io.read(ours, ":"), format="extxyz")
    (item,) = read_labelled(theirs)
    sample, label = named(item.sample), named(item.label)
    assert sample["numbers"].tolist() == [83, 1, 8, 118]
    assert sample["pbc"].tolist() == [True, False, True]
    np.testing.assert_allclose(sample["cell"], crystal[0]["cell"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(sample["positions"], crystal[0]["positions"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(label["energy"], crystal[1]["energy"], rtol=0, atol=1e-7)
    assert label["forces"].shape == (4, 3)
    assert (sample["charge"], label["converged"], label["method"]) == (-1, True, "GFN2")


def test_plain_xyz_is_read(tmp_path: Path) -> None:
    (tmp_path / "two.xyz").write_text("2\nenergy=-1.5 comment\nH 0 0 0\nH 0 0 0.74\n" * 2)
    items = read_labelled(tmp_path / "two.xyz")
    assert [item.identity for item in items] == [0, 1]
    assert named(items[1].sample)["positions"][1, 2] == 0.74
    assert named(items[1].sample).keys() == {"numbers", "positions"}
    assert named(items[1].label) == {"energy": -1.5}


@pytest.mark.parametrize(
    ("sample", "label", "message"),
    [
        (np.zeros(3), np.zeros(1), "expected atoms with 'numbers'"),
        ({"numbers": np.ones(2), "positions": np.zeros((3, 3))}, {}, "expected atoms"),
        (
            {"numbers": np.array([1]), "positions": np.zeros((1, 3)), "state": np.array(1)},
            {},
            "st",
        ),
        ({"numbers": np.array([1]), "positions": np.zeros((1, 3))}, np.zeros(1), "come back"),
        (
            {"numbers": np.array([1]), "positions": np.zeros((1, 3))},
            {"energy": np.zeros(2)},
            r"label 'energy' of sample 0 has shape \(2,\)",
        ),
    ],
)
def test_what_is_no_atoms_is_sent_to_npz(
    ledger: Ledger, tmp_path: Path, sample: Any, label: Any, message: str
) -> None:
    put(ledger, (sample, label))
    with pytest.raises(LedgerError, match=rf"sample 0.*{message}|{message}.*export to \.npz"):
        export_extxyz(ledger, tmp_path / "dataset.extxyz")
    assert not (tmp_path / "dataset.extxyz").exists()


def test_an_empty_campaign_exports_nothing(ledger: Ledger, tmp_path: Path) -> None:
    assert export_npz(ledger, tmp_path / "a.npz") == 0
    assert export_extxyz(ledger, tmp_path / "a.xyz") == 0
    assert read_labelled(tmp_path / "a.npz") == read_labelled(tmp_path / "a.xyz") == []


def test_files_that_cannot_be_read_are_named(mixed: Ledger, tmp_path: Path) -> None:
    for name, export in (("cut.npz", export_npz), ("cut.extxyz", export_extxyz)):
        file = tmp_path / name
        export(mixed, file)
        content = file.read_bytes()
        for end in (len(content) // 2, len(content) - 30, 10):
            file.write_bytes(content[:end])
            with pytest.raises(LedgerError, match=f"{name} is damaged or no"):
                read_labelled(file)
        with pytest.raises(LedgerError, match="cannot be read: No such file"):
            read_labelled(tmp_path / f"missing{file.suffix}")
    np.save(tmp_path / "plain", np.zeros(3))
    (tmp_path / "plain.npy").rename(tmp_path / "plain.npz")
    np.savez(tmp_path / "uneven.npz", **{"sample/x": np.zeros(3), "label/y": np.zeros(2)})  # type: ignore[arg-type]
    np.savez(tmp_path / "strange.npz", x=np.zeros(3))
    for name in ("plain.npz", "uneven.npz", "strange.npz"):
        with pytest.raises(LedgerError, match=f"{name} is damaged or no"):
            read_labelled(tmp_path / name)
    with pytest.raises(LedgerError, match=r"data\.csv: expected a file ending in \.npz"):
        read_labelled(tmp_path / "data.csv")
