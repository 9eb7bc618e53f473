"""PySCF's labels are its own energies and their gradients, whatever the state and the start."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr, Hartree
from pyscf import dft, gto, lib, scf
from pyscf.gto import basis

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import to_atoms, to_sample
from pal.kernels.oracles import pyscf as kernel
from pal.kernels.oracles.pyscf import LOG, PySCF
from pal.testing.checks import check_oracle

HF = {"functional": "HF", "basis": "6-31G"}
BENT = [[0, 0, 0.1], [0, 0.05, 0], [0.02, 0, 0]]
WATER = to_sample(molecule("H2O"))
WATER["positions"] = WATER["positions"] + BENT
LIH = to_sample(molecule("LiH"))
OXYGEN, HYDROXYL = to_sample(molecule("O2")), to_sample(molecule("OH"))
METHANIMINIUM = to_sample(
    Atoms(
        "CNH4",
        [
            [0.00, 0.00, 0.00],
            [1.30, 0.02, 0.05],
            [-0.55, 0.93, 0.05],
            [-0.54, -0.94, -0.02],
            [1.83, 0.86, 0.10],
            [1.82, -0.85, -0.08],
        ],
        info={"charge": 1},
    )
)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def oracle(context):
    return lambda **options: PySCF(context(), **{**HF, **options})


def slope(oracle, sample, atom, axis, name="energy", step=2e-3):
    """Minus the derivative of the energies, by finite differences."""
    shift = np.zeros_like(sample["positions"])
    shift[atom, axis] = step
    plus, minus = (
        oracle.label({**sample, "positions": sample["positions"] + s})[name]
        for s in (shift, -shift)
    )
    return -(plus - minus) / (2 * step)


def bare(sample, functional="HF", basis="6-31G", charge=0, spin=0, level=3, **options):
    """The same calculation as PySCF's documentation would do it."""
    symbols = Atoms(sample["numbers"]).get_chemical_symbols()
    atom = list(zip(symbols, sample["positions"], strict=True))
    mol = gto.M(atom=atom, basis=basis, charge=charge, spin=spin, verbose=0, **options)
    if functional == "HF":
        field = scf.UHF(mol) if spin else scf.RHF(mol)
    else:
        field = (dft.UKS if spin else dft.RKS)(mol, xc=functional)
        field.grids.level = level
    field.conv_tol = 1e-11
    return field.run()


def cycles(folder):
    """Cycles of the self-consistent field that the log tells of."""
    return sum(line.startswith("cycle=") for line in (folder / LOG).read_text().splitlines())


def test_keeps_the_contract(oracle):
    check_oracle(oracle, WATER)


@pytest.mark.parametrize(
    ("functional", "code", "charge", "spin"),
    [
        ("HF", "HF", 0, 0),
        ("HF", "HF", 1, 1),
        ("PBE", "PBE", 0, 0),
        ("BMK", "hyb_mgga_x_bmk,gga_c_bmk", 0, 0),
        ("b3lyp", "b3lyp", -1, 1),
    ],
)
def test_the_energy_is_that_of_the_bare_library(oracle, functional, code, charge, spin):
    sample = {**WATER, "charge": np.array(charge)}
    label = oracle(functional=functional, convergence=1e-11, grid_level=1).label(sample)
    expected = bare(WATER, code, charge=charge, spin=spin, level=1)
    assert float(label["energy"]) == pytest.approx(expected.e_tot * Hartree, abs=1e-8 * Hartree)
    forces = -expected.nuc_grad_method().kernel() * Hartree / Bohr
    np.testing.assert_allclose(label["forces"], forces, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "electrons"),
    [
        ({}, {}),
        ({"density_fitting": True}, {}),
        ({"functional": "PBE", "basis": "sto-3g"}, {}),
        ({"functional": "PBE0", "basis": "sto-3g"}, {"charge": np.array(1)}),
    ],
)
def test_forces_are_the_negative_gradient(oracle, options, electrons):
    sample = {**WATER, **electrons}
    made = oracle(convergence=1e-11, **options)
    force = made.label(sample)["forces"][0, 2]
    assert slope(made, sample, 0, 2) == pytest.approx(force, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "sample"),
    [
        ({"method": "TDA"}, WATER),
        ({"method": "TDDFT"}, WATER),
        ({"method": "TDA"}, {**WATER, "charge": np.array(1)}),
        ({"method": "TDDFT", "functional": "PBE", "basis": "sto-3g"}, LIH),
    ],
)
def test_forces_of_each_state_are_its_negative_gradient(oracle, options, sample):
    made = oracle(states=3, convergence=1e-12, **options)
    label = made.label(sample)
    assert label["energies"].shape == (3,)
    assert label["state_forces"].shape == (3, *sample["positions"].shape)
    assert (np.diff(label["energies"]) > 0).all()
    forces = label["state_forces"][:, 0, 2]
    np.testing.assert_allclose(slope(made, sample, 0, 2, "energies"), forces, atol=5e-3)


def test_the_lowest_state_of_several_is_the_ground_state(oracle):
    one, several = oracle().label(WATER), oracle(states=2).label(WATER)
    assert float(one["energy"]) == pytest.approx(several["energies"][0], abs=1e-6)
    np.testing.assert_allclose(one["forces"], several["state_forces"][0], atol=1e-4)


def test_excitations_are_singlets_of_the_bare_library(oracle):
    label = oracle(states=3, functional="PBE0", basis="sto-3g", grid_level=1).label(WATER)
    response = bare(WATER, "PBE0", "sto-3g", level=1).TDA()
    response.singlet = True
    response.kernel(nstates=5)
    np.testing.assert_allclose(
        label["energies"][1:] - label["energies"][0], response.e[:2] * Hartree, atol=1e-4
    )


def test_a_state_below_the_reference_comes_first(oracle):
    """Singlet oxygen is of two open shells, below the closed shell that is the reference."""
    oxygen = to_sample(molecule("O2"))
    closed = oracle(basis="sto-3g").label(oxygen)
    made = oracle(basis="sto-3g", states=3, convergence=1e-11)
    label = made.label(oxygen)
    assert (np.diff(label["energies"]) > 0).all()
    assert label["energies"][0] < float(closed["energy"]) - 0.5
    assert label["energies"][1] == pytest.approx(float(closed["energy"]), abs=1e-5)
    np.testing.assert_allclose(label["state_forces"][1], closed["forces"], atol=1e-3)
    slopes = slope(made, oxygen, 0, 2, "energies")
    np.testing.assert_allclose(slopes, label["state_forces"][:, 0, 2], atol=5e-3)


def test_oxygen_is_a_triplet(oracle):
    oxygen = to_sample(molecule("O2"))
    made = oracle(spin=2)
    triplet = float(made.label(oxygen)["energy"])
    singlet = float(made.label({**oxygen, "spin": np.array(0)})["energy"])
    assert singlet - triplet > 0.5


def test_charge_comes_from_the_sample_or_the_option(oracle):
    by_option = float(oracle(charge=1).label(WATER)["energy"])
    by_sample = float(oracle().label({**WATER, "charge": np.array(1.0)})["energy"])
    assert by_option == by_sample
    assert by_sample - float(oracle().label(WATER)["energy"]) > 5.0


def test_density_fitting_is_close_to_exact(oracle):
    exact, fitted = oracle().label(WATER), oracle(density_fitting=True).label(WATER)
    assert 0 < abs(float(exact["energy"] - fitted["energy"])) < 5e-3
    np.testing.assert_allclose(exact["forces"], fitted["forces"], atol=1e-2)


def test_begins_with_the_last_orbitals(oracle, scratch):
    moved = {**WATER, "positions": WATER["positions"] + 0.02 * np.sin(np.arange(9)).reshape(3, 3)}
    fresh = oracle(restart=False).label(moved)
    scratched = cycles(scratch)
    made = oracle()
    made.label(WATER)
    label = made.label(moved)
    assert cycles(scratch) < scratched
    assert float(label["energy"]) == pytest.approx(float(fresh["energy"]), abs=1e-6)
    np.testing.assert_allclose(label["forces"], fresh["forces"], atol=2e-4)


@pytest.mark.parametrize("spin", [0, 2])
def test_orbitals_travel_with_the_state(oracle, scratch, spin):
    sample = {**WATER, "spin": np.array(spin)}
    first = oracle()
    first.label(sample)
    scratched = cycles(scratch)
    state = pickle.dumps(first.get_state())
    again, other = oracle(), oracle(basis="sto-3g")
    again.set_state(pickle.loads(state))
    again.label(sample)
    assert cycles(scratch) < scratched / 2
    other.set_state(pickle.loads(state))  # another basis: nothing to begin with, and no harm
    other.label(sample)
    assert len(first.get_state()["orbitals"]) == 1


def test_the_density_of_moved_orbitals_has_all_electrons(oracle):
    made = oracle()
    made.label(WATER)
    ((_, orbitals),) = made.get_state()["orbitals"]
    overlap = bare({**WATER, "positions": WATER["positions"] * 1.1}).get_ovlp()
    density = kernel._density(orbitals, overlap)
    assert np.trace(density @ overlap) == pytest.approx(10.0)
    np.testing.assert_allclose(density @ overlap @ density, 2 * density, atol=1e-8)


def test_orbitals_that_lead_nowhere_are_dropped(oracle, scratch):
    expected = float(oracle().label(WATER)["energy"])
    enough = cycles(scratch)
    made = oracle(second_order=False, max_cycles=enough)
    made.label(WATER)
    ((system, orbitals),) = made.get_state()["orbitals"]
    wild = np.random.default_rng(0).normal(size=orbitals.coefficients[0].shape)
    state = made.get_state() | {"orbitals": [(system, orbitals._replace(coefficients=(wild,)))]}
    made.set_state(state)
    assert float(made.label(WATER)["energy"]) == pytest.approx(expected, abs=1e-6)
    assert cycles(scratch) == 2 * enough


def test_second_order_comes_to_the_rescue(oracle):
    expected = float(oracle().label(WATER)["energy"])
    assert float(oracle(max_cycles=5).label(WATER)["energy"]) == pytest.approx(expected, abs=1e-6)


def test_what_does_not_converge_is_refused_with_the_last_words(oracle):
    with pytest.raises(
        LabelFailure,
        match=r"(?s)not converge in 2 cycles.*cycle= 2 E= -\d+\.\d+  delta_E= .*SCF not converged",
    ):
        oracle(max_cycles=2, second_order=False).label(WATER)


def test_excited_states_that_do_not_converge_are_refused(oracle, monkeypatch):
    made = oracle(states=3)
    tda = kernel.tdscf.TDA

    def hasty(field):
        response = tda(field)
        monkeypatch.setattr(type(response), "conv_tol", 1e-30)
        return response

    monkeypatch.setattr(kernel.tdscf, "TDA", hasty)
    with pytest.raises(LabelFailure, match=r"(?s)excited states \[1.*\] did not.*not converged"):
        made.label(WATER)


def test_more_states_than_there_are_is_refused(oracle):
    with pytest.raises(LabelFailure, match=r"only 1 excited states exist .* expected 3"):
        oracle(states=4, basis="sto-3g").label(to_sample(molecule("H2")))


@pytest.mark.parametrize("sample", [OXYGEN, HYDROXYL], ids=["even", "odd"])
def test_forces_are_derivatives_of_the_free_energy_at_a_temperature(oracle, sample):
    cold = oracle().label(sample)
    hot = oracle(electronic_temperature=20000.0, convergence=1e-11)
    label = hot.label(sample)
    assert float(label["energy"]) != pytest.approx(float(cold["energy"]), abs=0.1)
    assert label["forces"][0, 2] == pytest.approx(slope(hot, sample, 0, 2), abs=2e-3)
    hot.set_state(pickle.loads(pickle.dumps(hot.get_state())))
    assert float(hot.label(sample)["energy"]) == pytest.approx(float(label["energy"]), abs=1e-6)


def test_levels_that_cross_converge_at_a_temperature(oracle):
    """A square of hydrogen has two electrons for two levels of the same energy."""
    square = to_sample(Atoms("H4", [[0, 0, 0], [1.3, 0, 0], [1.3, 1.3, 0], [0, 1.3, 0]]))
    label = oracle(functional="PBE", electronic_temperature=3000.0).label(square)
    lengths = np.linalg.norm(label["forces"], axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-2)


def test_the_auxiliary_basis_can_be_named(oracle):
    made = oracle(functional="PBE", density_fitting="def2-universal-jfit", convergence=1e-11)
    atom = list(zip(to_atoms(WATER).symbols, WATER["positions"], strict=True))
    field = dft.RKS(gto.M(atom=atom, basis="6-31G", verbose=0), xc="PBE")
    field = field.density_fit(auxbasis="def2-universal-jfit").run(conv_tol=1e-11)
    energy = float(made.label(WATER)["energy"])
    assert energy == pytest.approx(field.e_tot * Hartree, abs=1e-6)


def test_a_basis_with_its_core_potential_may_be_a_file(oracle, scratch, monkeypatch):
    (scratch / "mine.nw").write_bytes((Path(basis.__file__).parent / "lanl2dz.dat").read_bytes())
    iodide = to_sample(Atoms("HI", [[0, 0, 0], [0, 0, 1.62]]))
    expected = oracle(basis="lanl2dz").label(iodide)
    made = oracle(basis={"I": "mine.nw", "H": "lanl2dz"})
    (scratch / "elsewhere").mkdir()
    monkeypatch.chdir(scratch / "elsewhere")
    assert float(made.label(iodide)["energy"]) == pytest.approx(float(expected["energy"]))


@pytest.mark.parametrize("ecp", ["auto", "lanl2dz"])
def test_heavy_atoms_get_their_core_potential(oracle, ecp):
    iodide = to_sample(Atoms("HI", [[0, 0, 0], [0, 0, 1.62]]))
    label = oracle(basis="lanl2dz", ecp=ecp, convergence=1e-11).label(iodide)
    expected = bare(iodide, basis="lanl2dz", ecp="lanl2dz").e_tot * Hartree
    assert float(label["energy"]) == pytest.approx(expected, abs=1e-6)


def test_elements_may_have_bases_of_their_own(oracle):
    iodide = to_sample(Atoms("HI", [[0, 0, 0], [0, 0, 1.62]]))
    label = oracle(basis={"I": "lanl2dz", "default": "6-31G"}, convergence=1e-11).label(iodide)
    expected = bare(iodide, basis={"I": "lanl2dz", "H": "6-31G"}, ecp={"I": "lanl2dz"})
    assert float(label["energy"]) == pytest.approx(expected.e_tot * Hartree, abs=1e-6)


def test_a_basis_without_its_core_potential_is_refused(oracle):
    iodide = to_sample(Atoms("HI", [[0, 0, 0], [0, 0, 1.62]]))
    with pytest.raises(LabelFailure, match=r"54 electrons of HI do not fit 10 .*option ecp"):
        oracle(basis="lanl2dz", ecp="none").label(iodide)


def test_an_element_without_basis_is_named(oracle):
    iodide = to_sample(Atoms("HI", [[0, 0, 0], [0, 0, 1.62]]))
    with pytest.raises(LabelFailure, match=r"no functions for I \('6-31G'\).*option basis"):
        oracle().label(iodide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"functional": "B4LYP"}, r"functional = 'B4LYP' is none that PySCF knows"),
        ({"functional": "PBE,"}, None),
        ({"functional": "wB97X-D"}, r"functional = 'wB97X-D' .* not supported"),
        ({"functional": "wB97X-V", "states": 2}, r"no forces of excited .*'wB97X-V'"),
        ({"functional": "PBE-D3BJ", "states": 2}, r"no forces of excited .*'PBE-D3BJ'"),
        ({"basis": "6-31H"}, r"basis = '6-31H' is none that PySCF knows"),
        ({"basis": "6-31H.nw"}, r"basis = '6-31H.nw' is none .* nor a file in NWChem's"),
        ({"density_fitting": "jfot"}, r"density_fitting = 'jfot' is none that PySCF knows"),
        ({"basis": {"Xy": "6-31G"}}, r"basis has the keys \['Xy'\]; expected symbols"),
        ({"ecp": "lan12dz"}, r"ecp = 'lan12dz' is none that PySCF knows"),
        ({"states": 0}, r"states = 0; expected 1"),
        ({"states": 2, "density_fitting": True}, r"density_fitting = false"),
        ({"states": 2, "electronic_temperature": 300.0}, r"electronic_temperature = 0"),
    ],
)
def test_options_are_refused_at_once(oracle, options, message):
    if message is None:
        oracle(**options)
        return
    with pytest.raises(ContractError, match=f"pyscf: .*{message}"):
        oracle(**options)


def test_dispersion_without_its_package_is_refused(oracle, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ContractError, match=r"'PBE-D3BJ' needs the package pyscf-dispersion"):
        oracle(functional="PBE-D3BJ")


def test_bad_samples_are_refused(oracle):
    made = oracle()
    with pytest.raises(ContractError, match="calculates isolated molecules"):
        made.label({**WATER, "cell": 9.0 * np.eye(3), "pbc": np.ones(3, bool)})
    with pytest.raises(LabelFailure, match="10 electrons, of which 1 cannot"):
        made.label({**WATER, "spin": np.array(1)})
    with pytest.raises(LabelFailure, match="largest force"):
        made.label({**WATER, "positions": WATER["positions"] * 0.5})
    with pytest.raises(LabelFailure, match=r"pyscf: OH2: \w+Error"):
        made.label({**WATER, "positions": WATER["positions"] * 0.0})


def test_stays_in_its_folder_and_says_nothing(oracle, scratch, tmp_path, monkeypatch, capfd):
    places = []
    constructor = lib.NamedTemporaryFile

    def watched(*arguments, **options):
        places.append(options.get("dir") or lib.param.TMPDIR)
        return constructor(*arguments, **options)

    monkeypatch.setattr(lib, "NamedTemporaryFile", watched)
    before = lib.param.TMPDIR
    oracle(states=2, memory_mb=1).label(WATER)
    assert os.listdir(scratch) == [LOG]
    assert os.listdir(tmp_path) == ["scratch"]
    assert set(places) <= {str(scratch)}
    assert before == lib.param.TMPDIR
    assert capfd.readouterr() == ("", "")


def test_threads_and_memory_are_those_asked_for(context, monkeypatch):
    seen = []
    converged = PySCF._converged

    def watched(self, field, *rest):
        seen.append((lib.num_threads(), field.max_memory))
        return converged(self, field, *rest)

    monkeypatch.setattr(PySCF, "_converged", watched)
    before = lib.num_threads()
    PySCF(replace(context(), threads=3), memory_mb=777, **HF).label(WATER)
    assert seen == [(3, 777)]
    assert lib.num_threads() == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_states_of_methaniminium(oracle):
    """The molecule of many a surface-hopping study."""
    made = oracle(functional="B3LYP", basis="6-31G*", states=3, convergence=1e-11)
    label = made.label(METHANIMINIUM)
    gaps = label["energies"][1:] - label["energies"][0]
    assert (gaps > 7.0).all()
    assert (gaps < 10.5).all()
    np.testing.assert_allclose(label["state_forces"].sum(axis=1), 0.0, atol=0.02)
    np.testing.assert_allclose(
        slope(made, METHANIMINIUM, 0, 0, "energies"), label["state_forces"][:, 0, 0], atol=0.02
    )
