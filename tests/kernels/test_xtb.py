"""The oracle's labels are energies and their gradients, or an honest no."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import read_samples, to_atoms, to_label, to_sample, write_labelled
from pal.kernels.oracles.xtb import Xtb
from pal.records import LabelledSample
from pal.testing.checks import check_oracle

WATER = to_sample(molecule("H2O"))


@pytest.fixture
def bent():
    return {**WATER, "positions": WATER["positions"] + [[0, 0, 0.1], [0, 0.05, 0], [0.02, 0, 0]]}


def test_keeps_the_contract(bent):
    check_oracle(Xtb, bent)


def test_forces_are_the_negative_gradient(bent):
    oracle = Xtb(accuracy=0.01)
    forces = oracle.label(bent)["forces"]
    step = 1e-3
    for atom, axis in [(0, 2), (1, 1), (2, 0)]:
        shift = np.zeros((3, 3))
        shift[atom, axis] = step
        plus, minus = (
            float(oracle.label({**bent, "positions": bent["positions"] + s})["energy"])
            for s in (shift, -shift)
        )
        assert -(plus - minus) / (2 * step) == pytest.approx(forces[atom, axis], abs=2e-4)


def test_neither_place_nor_orientation_matters(bent):
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    one = Xtb().label(bent)
    other = Xtb().label({**bent, "positions": bent["positions"] @ turn + 5.0})
    assert float(one["energy"]) == pytest.approx(float(other["energy"]), abs=1e-5)
    np.testing.assert_allclose(one["forces"] @ turn, other["forces"], atol=1e-4)


def test_the_energy_of_water_is_the_published_methods():
    """GFN2-xTB, water at its own minimum: -5.0705 Hartree (tblite and xtb agree)."""
    energy = float(Xtb().label(WATER)["energy"])
    assert energy / 27.211386 == pytest.approx(-5.0705, abs=2e-3)


def test_charge_comes_from_the_sample_or_the_option():
    neutral = float(Xtb().label(WATER)["energy"])
    by_option = float(Xtb(charge=1.0).label(WATER)["energy"])
    by_sample = float(Xtb().label({**WATER, "charge": np.array(1.0)})["energy"])
    assert by_option == by_sample
    assert by_sample - neutral > 5.0  # an ionisation costs many eV


def test_prints_nothing(bent, capfd):
    Xtb().label(bent)
    assert capfd.readouterr() == ("", "")


def test_what_does_not_converge_is_refused_with_the_reason(bent):
    with pytest.raises(LabelFailure, match=r"GFN2-xTB: .*converge"):
        Xtb(max_iterations=1).label(bent)


def test_geometries_beyond_physics_are_refused(bent):
    squeezed = {**bent, "positions": bent["positions"] * 0.5}
    with pytest.raises(LabelFailure, match="max_force"):
        Xtb(max_force=20.0).label(squeezed)


def test_what_is_no_molecule_is_named():
    with pytest.raises(ContractError, match=r"needs the arrays 'positions' and 'numbers'"):
        Xtb().label(np.zeros(5))


def test_atoms_go_through_samples_and_come_back():
    atoms = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]], cell=[4.0, 4.0, 6.0], pbc=[True, True, False])
    atoms.info["charge"] = -1.0
    back = to_atoms(to_sample(atoms))
    assert back == atoms
    assert back.info["charge"] == -1.0
    assert {"cell", "pbc"}.isdisjoint(to_sample(molecule("H2O")))
    with pytest.raises(PropertyNotImplementedError):
        to_label(to_atoms(WATER, {"energy": np.array(1.0)}))


def test_labelled_samples_go_through_a_file(tmp_path, bent):
    label = Xtb().label(bent)
    write_labelled(tmp_path / "set.extxyz", [LabelledSample(3, bent, label)])
    (sample,) = read_samples(tmp_path / "set.extxyz")
    np.testing.assert_allclose(sample["positions"], bent["positions"], atol=1e-7)
