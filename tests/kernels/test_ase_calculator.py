"""Any ASE calculator as oracle: in this process, as a stand-in program, and for real."""

import contextlib
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.units import Bohr, Hartree

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import to_sample
from pal.kernels.oracles.ase_calculator import AseCalculator
from pal.kernels.oracles.parts.ase_programs import PROGRAMS, set_option, with_electrons
from pal.kernels.oracles.parts.kept import empty_scratch
from pal.roles import Context
from pal.testing.checks import check_oracle

PROGRAMS_HERE = Path(__file__).parent / "programs"
WATER = to_sample(molecule("H2O"))
BENT = {**WATER, "positions": WATER["positions"] + [[0, 0, 0.1], [0, 0.05, 0], [0.02, 0, 0]]}
SQUEEZED = {**WATER, "positions": WATER["positions"] * 0.2}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Work in a scratch folder, as the runtime lets oracles do."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def make(tmp_path):
    def build(calculator, threads=1, **options):
        context = Context("oracle", 0, 1, 0, tmp_path, threads=threads)
        return AseCalculator(context, calculator=calculator, **options)

    return build


@pytest.fixture
def orca(make):
    def build(simple="PBE EnGrad", **more):
        options = {"orcasimpleinput": simple, "orcablocks": "%pal nprocs {threads} end"}
        command = f"{sys.executable} {PROGRAMS_HERE / 'orca.py'}"
        more.setdefault("max_force", 1e3)
        return make("orca", options=options, command=command, **more)

    return build


@pytest.fixture
def dftb(make):
    def build(**more):
        more.setdefault("max_force", 1e3)
        command = f"{sys.executable} {PROGRAMS_HERE / 'dftb.py'}"
        shells = {"_": "", "_O": "p", "_H": "s"}
        options = {f"Hamiltonian_MaxAngularMomentum{n}": shell for n, shell in shells.items()}
        return make("dftb", command=command, options=options, **more)

    return build


def springs(sample, charge=0, extra=0.0):
    """What the stand-ins compute, in eV and eV/Å."""
    places = sample["positions"] / Bohr
    energy = (0.5 * (places**2).sum() - charge + extra) * Hartree
    return energy, -places * Hartree / Bohr


# In this process ---------------------------------------------------------------------------


def test_emt_and_lennard_jones_keep_the_contract_and_are_those_of_ase(make):
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=0)
    argon = molecule("H2O")
    cases = [("emt", EMT, {}, copper), ("lj", LennardJones, {"sigma": 1.0, "rc": 5.0}, argon)]
    for name, bare, options, atoms in cases:
        check_oracle(lambda n=name, o=options: make(n, options=o, max_force=1e4), to_sample(atoms))
        label = make(name, options=options, max_force=1e4).label(to_sample(atoms))
        atoms.calc = bare(**options)
        assert float(label["energy"]) == atoms.get_potential_energy()
        np.testing.assert_array_equal(label["forces"], atoms.get_forces())


def test_forces_are_the_negative_gradient(make):
    oracle = make("emt")
    sample = to_sample(molecule("H2O"))
    sample["numbers"] = np.array([29, 29, 47])
    sample["positions"] = sample["positions"] * 2.5
    forces = oracle.label(sample)["forces"]
    step = np.zeros((3, 3))
    step[1, 2] = 1e-4
    plus, minus = (
        float(oracle.label({**sample, "positions": sample["positions"] + s})["energy"])
        for s in (step, -step)
    )
    assert -(plus - minus) / 2e-4 == pytest.approx(forces[1, 2], abs=1e-6)


def test_molecules_of_any_size_follow_one_another(make):
    oracle = make("emt")
    energies = [float(oracle.label(to_sample(bulk("Cu") * (n, 1, 1)))["energy"]) for n in (1, 3)]
    assert energies[1] == pytest.approx(3 * energies[0])


def test_a_calculator_of_ones_own_by_its_import_path(make):
    oracle = make("ase.calculators.emt:EMT")
    assert float(oracle.label(to_sample(bulk("Cu")))["energy"]) == pytest.approx(-0.0057, abs=1e-3)


def test_elements_it_does_not_know_are_the_users_mistake(make):
    with pytest.raises(ContractError, match=r"calculator 'emt': NotImplementedError: .*EMT"):
        make("emt").label(to_sample(molecule("SiH4")))


def test_what_failed_once_leaves_nothing_behind(make):
    oracle = make("emt")
    strange, copper = to_sample(molecule("SiH4")), to_sample(bulk("Cu"))
    for _ in range(2):
        with pytest.raises(ContractError, match="NotImplementedError"):
            oracle.label(strange)
    assert float(oracle.label(copper)["energy"]) == float(make("emt").label(copper)["energy"])


def test_too_large_forces_are_refused(make):
    with pytest.raises(LabelFailure, match="max_force"):
        make("lj", max_force=1.0).label(SQUEEZED)


# Options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calculator", "options", "message"),
    [
        ("no_such_code", {}, r"calculator 'no_such_code' cannot be imported"),
        ("package.none:Class", {}, r"'package.none:Class' cannot be imported: ModuleNotFound"),
        ("orca", {}, r"'orca' is not set up: No configuration of 'orca'.*option command"),
        ("orca", {"command": "no-such-orca"}, r"program 'no-such-orca' was not found on PATH"),
        ("gaussian", {}, r"program 'g16' was not found on PATH"),
        ("tip3p", {"options": {"wrong": 1}}, r"cannot be built with options {'wrong': 1}"),
        ("lj", {"electrons": {"load": "x"}}, r"electrons has the keys \['load'\]; expected"),
    ],
)
def test_bad_options_are_refused_at_the_start(make, calculator, options, message):
    with pytest.raises(ContractError, match=message):
        make(calculator, **options)


def test_charge_and_spin_go_where_each_program_reads_them():
    atoms = molecule("O2")
    atoms.info.update(charge=-1.0, spin=1.0)
    told = {name: with_electrons(program, {}, atoms) for name, program in PROGRAMS.items()}
    assert told["orca"] == {"charge": -1, "mult": 2}
    assert told["psi4"] == {"charge": -1, "multiplicity": 2, "reference": "uhf"}
    assert told["gamess_us"] == {"contrl": {"icharg": -1, "mult": 2, "scftyp": "uhf"}}
    assert told["turbomole"] == {"total charge": -1, "multiplicity": 2}
    assert told["vasp"] == {"charge": -1, "nupdown": 1, "ispin": 2}
    assert told["nwchem"] == {"charge": -1}
    assert atoms.get_initial_magnetic_moments().sum() == 1
    system = told["espresso"]["input_data"]["system"]
    assert system == {"tot_charge": -1, "tot_magnetization": 1, "nspin": 2}


def test_a_molecule_without_spin_gets_the_lowest_unless_the_options_say_more():
    cation = molecule("H2O")
    cation.info["charge"] = 1.0
    assert with_electrons(PROGRAMS["orca"], {}, cation) == {"charge": 1, "mult": 2}
    assert with_electrons(PROGRAMS["orca"], {"mult": 4}, cation) == {"charge": 1, "mult": 4}
    assert with_electrons(PROGRAMS["orca"], {"charge": -1}, molecule("H2O"))["mult"] == 2
    assert with_electrons(PROGRAMS["vasp"], {}, bulk("Cu")) == {}


def test_nested_options_are_set_beside_others():
    options = {"input_data": {"system": {"ecutwfc": 30}}}
    assert set_option(options, "input_data.system.nspin", 2) == {
        "input_data": {"system": {"ecutwfc": 30, "nspin": 2}}
    }
    assert options == {"input_data": {"system": {"ecutwfc": 30}}}


def test_electrons_that_would_not_arrive_are_refused(make):
    class Deaf(EMT):
        name = "deaf"

    sys.modules[__name__].Deaf = Deaf
    ion = {**to_sample(bulk("Cu")), "charge": np.array(1.0)}
    with pytest.raises(ContractError, match=r"sample has charge 1, .* electrons = { charge ="):
        make(f"{__name__}:Deaf").label(ion)
    make(f"{__name__}:Deaf", electrons={"charge": "info"}).label(ion)
    make("emt").label(ion)


def test_a_calculator_that_reads_the_charge_itself_hears_of_every_change(make):
    class Ionic(EMT):
        def calculate(self, atoms=None, properties=None, system_changes=()):
            super().calculate(atoms, properties, system_changes)
            self.results["energy"] += atoms.info["charge"]

    sys.modules[__name__].Ionic = Ionic
    oracle = make(f"{__name__}:Ionic", electrons={"charge": "info"})
    copper = to_sample(bulk("Cu"))
    energies = [
        float(oracle.label({**copper, "charge": np.array(charge)})["energy"])
        for charge in (0.0, 1.0, 0.0)
    ]
    assert energies[1] == pytest.approx(energies[0] + 1)
    assert energies[2] == energies[0]


def test_placeholders_in_options_are_filled(make, tmp_path):
    class Noted(EMT):
        options = None

        def __init__(self, **options):
            Noted.options = options
            super().__init__()

    sys.modules[__name__].Noted = Noted
    given = {"num_threads": "{threads}", "text": "nprocs {threads}", "paths": ["{home}/basis"]}
    make(f"{__name__}:Noted", threads=3, options=given)
    home = tmp_path / "scratch"
    assert Noted.options == {"num_threads": 3, "text": "nprocs 3", "paths": [f"{home}/basis"]}


# Stand-in programs -------------------------------------------------------------------------


def test_orca_gets_charge_and_multiplicity_and_gives_energy_and_forces(orca, scratch):
    label = orca(threads=3).label({**BENT, "charge": np.array(1.0), "spin": np.array(3.0)})
    energy, forces = springs(BENT, charge=1, extra=0.4)
    assert float(label["energy"]) == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(label["forces"], forces, atol=1e-6)
    assert "NPROCS 3 THREADS 3" in (scratch / "orca.out").read_text()


def test_orca_keeps_the_contract(orca):
    check_oracle(orca, BENT)


def test_dftb_gets_charge_and_spin_and_gives_energy_and_forces(dftb):
    label = dftb().label({**BENT, "charge": np.array(-2.0), "spin": np.array(2.0)})
    energy, forces = springs(BENT, charge=-2, extra=0.2)
    assert float(label["energy"]) == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(label["forces"], forces, atol=1e-6)


@pytest.mark.parametrize("program", ["orca", "dftb"])
def test_what_does_not_converge_is_refused_with_the_last_words(program, request):
    oracle = request.getfixturevalue(program)()
    last = {
        "orca": r"Error: The SCF has not converged\nORCA finished by error termination in SCF$",
        "dftb": r"ERROR!\n-> SCC is NOT converged, maximal SCC iterations exceeded$",
    }
    with pytest.raises(
        LabelFailure, match=rf"calculator '{program}' failed: (?s:.*){last[program]}"
    ):
        oracle.label(SQUEEZED)


def test_a_text_of_failure_in_a_finished_run_is_failure(orca):
    oracle = orca(unconverged=["O   R   C   A"])
    with pytest.raises(LabelFailure, match=r"not converged \(orca.out says 'O   R   C   A'\)"):
        oracle.label(BENT)


def test_missing_forces_are_the_users_mistake(orca):
    with pytest.raises(ContractError, match=r"'orca' gives no energy and forces .* EnGrad"):
        orca(simple="PBE").label(BENT)


def test_the_next_label_begins_with_the_orbitals_of_the_last(orca, scratch):
    oracle = orca()
    for expected, sample in [
        (False, WATER),
        (True, BENT),
        (False, {**BENT, "charge": np.array(2.0)}),  # another ion: other orbitals
        (False, to_sample(molecule("H2"))),
        (True, WATER),
    ]:
        empty_scratch()
        oracle.label(sample)
        assert ("MOREAD" in (scratch / "orca.out").read_text()) == expected
    empty_scratch()
    orca(keep=[]).label(WATER)
    assert "MOREAD" not in (scratch / "orca.out").read_text()


def test_who_fails_with_old_orbitals_begins_from_scratch(orca, scratch, tmp_path):
    oracle = orca()
    oracle.label(WATER)
    (kept,) = (tmp_path / "kept").glob("*/orca.gbw")
    kept.write_text("poisoned")
    empty_scratch()
    assert np.isfinite(oracle.label(WATER)["energy"])
    assert "MOREAD" not in (scratch / "orca.out").read_text()


def test_cp2k_runs_its_shell_and_ends_it(make, scratch):
    before = set(psutil.Process().children())
    command = f"{sys.executable} {PROGRAMS_HERE / 'cp2k_shell.py'}"
    oracle = make("cp2k", command=command, max_force=1e3)
    boxed = {**BENT, "cell": np.eye(3) * 9.0, "pbc": np.ones(3, bool)}
    label = oracle.label({**boxed, "charge": np.array(-1.0), "spin": np.array(1.0)})
    expected = 0.5 * (BENT["positions"] ** 2).sum() + 1 + 0.2
    assert float(label["energy"]) == pytest.approx(expected, abs=1e-8)
    np.testing.assert_allclose(label["forces"], -BENT["positions"], atol=1e-8)
    assert "UNRESTRICTED_KOHN_SHAM ON" in (scratch / "cp2k.inp").read_text()
    empty_scratch()
    with pytest.raises(LabelFailure, match=r"'cp2k' failed: (?s:.*)ABORT. SCF run NOT converged"):
        oracle.label({**boxed, "positions": SQUEEZED["positions"]})
    assert set(psutil.Process().children()) <= before


@pytest.mark.filterwarnings("ignore:Could not determine USERSCR")
@pytest.mark.parametrize(
    ("program", "options", "file", "expected"),
    [
        ("gaussian", {"method": "hf", "basis": "sto-3g"}, "Gaussian.com", r"\n-1 2\n"),
        ("qchem", {"method": "hf"}, "qchem.inp", r"\$molecule\n +-1 2\n"),
        ("gamess_us", {}, "gamess_us.inp", r"SCFTYP=UHF\s+ICHARG=-1\s+MULT=2"),
        ("nwchem", {"theory": "dft"}, "nwchem.nwi", r"charge -1(?s:.*)mult 2"),
        ("mopac", {}, "mopac.mop", r"CHARGE=-1 DOUBLET UHF"),
        (
            "espresso",
            {"pseudopotentials": {"O": "O.upf", "H": "H.upf"}},
            "espresso.pwi",
            r"tot_charge += -1\n(?s:.*)tot_magnetization += 1\n",
        ),
    ],
)
def test_charge_and_spin_arrive_in_the_input_of(make, scratch, program, options, file, expected):
    more = {"profile": {"pseudo_dir": "/none"}} if program == "espresso" else {}
    oracle = make(program, options=options, command="false", keep=[], **more)
    sample = {**BENT, "charge": np.array(-1.0), "spin": np.array(1.0)}
    if program == "espresso":
        sample |= {"cell": np.eye(3) * 9.0, "pbc": np.ones(3, bool)}
    with pytest.raises(LabelFailure, match=rf"calculator '{program}' failed"):
        oracle.label(sample)
    assert re.search(expected, (scratch / file).read_text())


# Real programs -----------------------------------------------------------------------------


def reference(sample, **molecule_options):
    """Hartree-Fock in PySCF: energy in eV, forces in eV/Å."""
    gto, scf = pytest.importorskip("pyscf.gto"), pytest.importorskip("pyscf.scf")
    atoms = list(zip(sample["numbers"].tolist(), sample["positions"].tolist(), strict=True))
    mol = gto.M(atom=atoms, basis="sto-3g", verbose=0, **molecule_options)
    field = scf.RHF(mol) if mol.spin == 0 else scf.UHF(mol)
    field.conv_tol = 1e-11
    energy = field.kernel()
    return energy * Hartree, -field.nuc_grad_method().kernel() * Hartree / Bohr


@pytest.mark.skipif(shutil.which("nwchem") is None, reason="the program nwchem is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pyscf")
def test_nwchem_agrees_with_pyscf_and_starts_from_its_orbitals(make, scratch):
    oracle = make("nwchem", options={"theory": "scf", "basis": "sto-3g", "scf": {"thresh": 1e-7}})
    energy, forces = reference(BENT)
    for guess in ("Forming initial guess", "Loading old vectors"):
        # The runtime gives each label another folder: nothing kept may name the old one.
        folder = scratch / guess.split()[0]
        folder.mkdir()
        with contextlib.chdir(folder):
            label = oracle.label(BENT)
        assert float(label["energy"]) == pytest.approx(energy, abs=1e-5 * Hartree)
        np.testing.assert_allclose(label["forces"], forces, atol=1e-5 * Hartree / Bohr)
        assert ("Loading old" in (folder / "nwchem.nwo").read_text()) == ("old" in guess)
        shutil.rmtree(folder)


@pytest.mark.skipif(shutil.which("nwchem") is None, reason="the program nwchem is not installed")
def test_nwchem_is_told_charge_and_spin_and_fails_with_its_last_words(make):
    options = {"theory": "scf", "basis": "sto-3g", "scf": {"thresh": 1e-7, "uhf": None}}
    ion = {**BENT, "charge": np.array(1.0), "spin": np.array(1.0)}
    label = make("nwchem", options=options).label(ion)
    energy, _ = reference(BENT, charge=1, spin=1)
    assert float(label["energy"]) == pytest.approx(energy, abs=1e-5 * Hartree)
    empty_scratch()
    oracle = make("nwchem", options={**options, "scf": {"maxiter": 1}})
    with pytest.raises(LabelFailure, match=r"'nwchem' failed: (?s:.*)converge"):
        oracle.label(BENT)


@pytest.mark.skipif(shutil.which("mopac") is None, reason="the program mopac is not installed")
def test_mopac_for_real(make):
    oracle = make("mopac", options={"method": "PM6", "relscf": 1e-4})
    neutral, ion = (oracle.label({**WATER, "charge": np.array(c)}) for c in (0.0, 1.0))
    assert float(neutral["energy"]) == pytest.approx(-2.35, abs=0.2)  # heat of formation, eV
    assert float(ion["energy"] - neutral["energy"]) > 8.0
