"""The oracle's labels are energies and their gradients, or an honest no."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator
from threadpoolctl import threadpool_info

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


def test_spin_comes_from_the_sample_or_the_option():
    oxygen = to_sample(molecule("O2"))
    by_option = float(Xtb(spin=2).label(oxygen)["energy"])
    by_sample = float(Xtb().label({**oxygen, "spin": np.array(2.0)})["energy"])
    assert by_option == by_sample != float(Xtb().label(oxygen)["energy"])


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_forces_on_a_crystal_are_the_negative_gradient(method):
    crystal = bulk("Si")
    crystal.rattle(0.05, seed=1)
    oracle, sample, step = Xtb(method=method, accuracy=0.01), to_sample(crystal), 1e-3
    shift = np.array([[step, 0, 0], [0, 0, 0]])
    plus, minus = (
        float(oracle.label({**sample, "positions": sample["positions"] + s})["energy"])
        for s in (shift, -shift)
    )
    force = oracle.label(sample)["forces"][0, 0]
    assert -(plus - minus) / (2 * step) == pytest.approx(force, abs=1e-3)
    again = {**sample, "positions": sample["positions"] + sample["cell"][1]}
    assert float(oracle.label(again)["energy"]) == pytest.approx(
        float(oracle.label(sample)["energy"]), abs=1e-5
    )


def test_no_surface_passes_for_a_crystal(bent):
    surface = {**bent, "cell": 9.0 * np.eye(3), "pbc": np.array([True, True, False])}
    with pytest.raises(ContractError, match=r"in all directions.*\[True, True, False\].*vacuum"):
        Xtb().label(surface)


def test_begins_with_the_last_charges_of_the_same_composition(bent, monkeypatch):
    starts = []
    singlepoint = Calculator.singlepoint

    def watched(calculator, start=None):
        starts.append(start is not None)
        return singlepoint(calculator, start)

    monkeypatch.setattr(Calculator, "singlepoint", watched)
    oracle = Xtb()
    first, again = oracle.label(bent), oracle.label(bent)
    for sample in (to_sample(molecule("NH3")), {**bent, "charge": np.array(1.0)}):
        oracle.label(sample)
    assert starts == [False, True, False, False]
    assert float(first["energy"]) == pytest.approx(float(again["energy"]), abs=1e-5)
    Xtb(restart=False).label(bent)
    assert not starts[-1]


def test_a_bad_start_is_no_reason_to_fail(bent, monkeypatch):
    oracle = Xtb()
    expected = float(oracle.label(bent)["energy"])
    singlepoint = Calculator.singlepoint

    def misled(calculator, start=None):
        if start is not None:
            raise TBLiteRuntimeError("SCF not converged")
        return singlepoint(calculator)

    monkeypatch.setattr(Calculator, "singlepoint", misled)
    assert float(oracle.label(bent)["energy"]) == pytest.approx(expected, abs=1e-6)


def test_threads_are_those_of_the_context_while_it_calculates(bent, context, monkeypatch):
    seen = []
    singlepoint = Calculator.singlepoint

    def watched(calculator, start=None):
        seen.append(openmp())
        return singlepoint(calculator, start)

    def openmp():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"}

    monkeypatch.setattr(Calculator, "singlepoint", watched)
    before = openmp()
    Xtb(replace(context(), threads=3)).label(bent)
    assert seen == [{3}]
    assert openmp() == before


@pytest.mark.parametrize("options", [{"method": "GFN3-xTB"}, {"solvent": "mercury"}])
def test_what_tblite_does_not_know_is_refused_at_once(options):
    (value,) = options.values()
    with pytest.raises(ContractError, match=f"xtb: tblite refuses .*{value}"):
        Xtb(**options)


def test_solvation_binds_water(bent):
    gain = float(Xtb(solvent="water").label(bent)["energy"]) - float(Xtb().label(bent)["energy"])
    assert -1.0 < gain < -0.1


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


def test_spin_polarisation_binds_unpaired_electrons_and_leaves_pairs_alone():
    plain, polarised = Xtb(), Xtb(spin_polarisation=True)
    for name, lower in (("CH4", False), ("CH3", True)):
        sample = to_sample(molecule(name))
        gain = polarised.label(sample)["energy"] - plain.label(sample)["energy"]
        assert (gain < -0.1) if lower else abs(gain) < 1e-6
