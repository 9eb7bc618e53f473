"""Turbomole through its files: what it is told, what is read, and how failures are told.

Recorded outputs stand in for the programs, see data/turbomole/README.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.units import Bohr

from pal.errors import ContractError, LabelFailure
from pal.kernels.oracles.parts.kept import empty_scratch
from pal.kernels.oracles.parts.turbomole_files import (
    has_group,
    read_energy,
    read_excitations,
    read_gradient,
    with_group,
    without_group,
    write_coordinates,
)
from pal.kernels.oracles.turbomole import Turbomole
from pal.roles import Context
from pal.testing.checks import check_oracle

HERE = Path(__file__).parent
RECORDED = HERE / "data" / "turbomole"
EXPECTED = json.loads((RECORDED / "expected.json").read_text())
SAMPLE = {
    "positions": np.array(EXPECTED["positions"]),
    "numbers": np.array(EXPECTED["numbers"]),
}
MODULES = ("dscf", "ridft", "grad", "rdgrad", "egrad")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "scratch")
    return tmp_path / "scratch"


@pytest.fixture
def make(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in MODULES:
        script = folder / name
        stand_in = HERE / "programs" / "turbomole.py"
        script.write_text(f"#!/bin/sh\nexec {sys.executable} {stand_in} {name} {RECORDED}\n")
        script.chmod(0o755)

    def build(**options):
        context = Context("oracle", 0, 1, 0, tmp_path, threads=2)
        return Turbomole(context, programs=str(folder), **options)

    return build


def told(scratch):
    return json.loads((scratch / "told.json").read_text())


def test_keeps_the_contract(make):
    check_oracle(make, SAMPLE)
    check_oracle(lambda: make(states=3), SAMPLE)


def test_energy_and_forces_of_the_ground_state(make, scratch):
    label = make().label(SAMPLE)
    assert set(label) == {"energy", "forces"}
    assert float(label["energy"]) == pytest.approx(EXPECTED["energies"][0], abs=1e-8)
    np.testing.assert_allclose(label["forces"], EXPECTED["state_forces"][0], atol=1e-10)
    assert [note["program"] for note in told(scratch)] == ["ridft", "rdgrad"]
    assert told(scratch)[0]["threads"] == "2"


def test_energies_and_forces_of_several_states(make, scratch):
    label = make(states=3).label(SAMPLE)
    assert set(label) == {"energies", "state_forces"}
    np.testing.assert_allclose(label["energies"], EXPECTED["energies"], atol=1e-7)
    np.testing.assert_allclose(label["state_forces"], EXPECTED["state_forces"], atol=1e-10)
    assert [note["program"] for note in told(scratch)] == ["ridft", "rdgrad", "egrad", "egrad"]
    first, second = (note["control"] for note in told(scratch)[2:])
    assert "$exopt 1\n" in first
    assert "$exopt 2\n" in second
    assert first.count("$exopt") == second.count("$exopt") == 1
    assert "$soes\n a  2\n" in second


def test_what_the_programs_are_told(make, scratch):
    make(functional="b3-lyp", basis="def2-TZVP", grid="m5", dispersion="disp3 bj").label(SAMPLE)
    control = told(scratch)[0]["control"]
    for line in (
        "functional b3-lyp",
        "gridsize m5",
        "basis = def2-TZVP",
        "jbas = def2-TZVP",
        "$rij",
        "$disp3 bj",
        "$eht charge=0 unpaired=0",
        "$energy file=energy",
    ):
        assert line in control
    assert control.endswith("$end\n")
    rows = told(scratch)[0]["coord"].splitlines()[1:5]
    assert [row.split()[3] for row in rows] == ["o", "c", "h", "h"]
    places = np.array([row.split()[:3] for row in rows], float)
    np.testing.assert_allclose(places * Bohr, SAMPLE["positions"], atol=1e-12)


def test_hartree_fock_without_density_fitting(make, scratch):
    make(functional="", density_fitting=False, control="$cosmo\n  epsilon=78.4\n").label(SAMPLE)
    notes = told(scratch)
    assert [note["program"] for note in notes] == ["dscf", "grad"]
    assert "$dft" not in notes[0]["control"]
    assert "$cosmo\n  epsilon=78.4\n" in notes[0]["control"]


@pytest.mark.parametrize(
    ("options", "electrons", "kind"),
    [
        ({}, {}, "rpas"),
        ({"method": "tda"}, {}, "ciss"),
        ({"triplets": True}, {}, "rpat"),
        ({"charge": 1}, {}, "urpa"),
        ({"method": "tda"}, {"charge": np.array(0.0), "spin": np.array(2.0)}, "ucis"),
    ],
)
def test_the_excited_states_asked_for(make, scratch, options, electrons, kind):
    make(states=2, **options).label({**SAMPLE, **electrons})
    assert f"$scfinstab {kind}\n" in told(scratch)[-1]["control"]


def test_charge_and_spin_come_from_the_sample_or_the_options(make, scratch):
    make(charge=-1).label(SAMPLE)
    assert "$eht charge=-1 unpaired=1" in told(scratch)[0]["control"]
    empty_scratch()
    make(charge=-1).label({**SAMPLE, "charge": np.array(0.0), "spin": np.array(2.0)})
    assert "$eht charge=0 unpaired=2" in told(scratch)[0]["control"]


def test_the_next_label_begins_with_the_orbitals_of_the_last(make, scratch):
    oracle = make(states=3)
    for orbitals, sample in [([], SAMPLE), (["mos"], SAMPLE), ([], {**SAMPLE, "charge": 2.0})]:
        empty_scratch()
        oracle.label(sample)
        first = told(scratch)[0]
        assert first["orbitals"] == orbitals
        assert ("$scfmo file=mos" in first["control"]) == bool(orbitals)
        assert "$exopt" not in first["control"]
    empty_scratch()
    make(restart=False).label(SAMPLE)
    assert not told(scratch)[0]["orbitals"]


def test_a_template_of_ones_own(make, scratch, tmp_path):
    folder = tmp_path / "template"
    folder.mkdir()
    control = "$coord file=coord\n$basis file=basis\n$closed shells\n a 1-8 ( 2 )\n"
    control += "$scfmo file=mos\n$energy file=energy\n$grad file=gradient\n$end\n"
    (folder / "control").write_text(control)
    (folder / "basis").write_text("$basis\n$end\n")
    (folder / "mos").write_text("$scfmo\n$end\n")
    oracle = make(template=str(folder))
    oracle.label(SAMPLE)
    assert told(scratch)[0]["control"] == control
    assert told(scratch)[0]["orbitals"] == ["mos"]
    assert (scratch / "basis").exists()
    with pytest.raises(ContractError, match=r"sample has charge 1 and 1 .* template is for 0 and"):
        oracle.label({**SAMPLE, "charge": np.array(1.0)})
    (folder / "control").write_text(control.replace("$end", "$eht charge=0\n$end"))
    empty_scratch()
    make(template=str(folder)).label({**SAMPLE, "charge": np.array(1.0)})
    assert "$eht charge=1 unpaired=1" in told(scratch)[0]["control"]


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("ridft unconverged", r"ridft failed \(did not converge\): (?s:.*)Check your input"),
        ("ridft abnormally", r"ridft failed \(ended abnormally\): (?s:.*)ridft ended abnormally$"),
        ("ridft problem", r"ridft failed \(it left a file ridft_problem\)"),
        ("rdgrad silently", r"rdgrad failed \(it did not end normally\): +9  -113.9"),
        ("egrad code", r"egrad ended with code 1: (?s:.*)stack overflow \*\*\*$"),
        ("egrad another state", r"gradient of excited state 1 belongs to energy -114.0.*-114.19"),
        (
            "egrad no gradient",
            r"'gradient' holds no energy and gradient of 4 atoms: (?s:.*)all done",
        ),
    ],
)
def test_failures_carry_the_last_words(make, monkeypatch, fails, message):
    monkeypatch.setenv("TURBOMOLE_FAILS", fails)
    with pytest.raises(LabelFailure, match=message):
        make(states=2).label(SAMPLE)


def test_too_large_forces_are_refused(make):
    with pytest.raises(LabelFailure, match="max_force"):
        make(states=3, max_force=0.1).label(SAMPLE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"states": 0}, "states = 0; expected 1 or more"),
        ({"method": "ricc2"}, "method = 'ricc2'; expected 'tddft' or 'tda'"),
        ({"template": "absent"}, "template = 'absent'; expected a folder with a file control"),
        ({"control": "cosmo"}, "control = 'cosmo'; expected groups that begin with"),
    ],
)
def test_bad_options_are_refused_at_the_start(make, options, message):
    with pytest.raises(ContractError, match=message):
        make(**options)


def test_a_template_must_name_the_files_that_are_read(make, tmp_path):
    (tmp_path / "control").write_text("$coord file=coord\n$end\n")
    with pytest.raises(ContractError, match=r"has no \$energy, \$grad; expected"):
        make(template=str(tmp_path))


def test_missing_programs_are_named(context):
    with pytest.raises(ContractError, match=r"turbomole: .*'ridft' was not found .*programs"):
        Turbomole(context())


def test_periodic_samples_are_refused(make):
    with pytest.raises(ContractError, match="turbomole calculates isolated molecules"):
        make().label({**SAMPLE, "cell": np.eye(3) * 9, "pbc": np.ones(3, bool)})


# The files ---------------------------------------------------------------------------------


def test_coordinates_are_written_in_bohr(tmp_path):
    write_coordinates(tmp_path / "coord", ["Cl"], np.array([[Bohr, 0, -2 * Bohr]]))
    text = (tmp_path / "coord").read_text()
    assert text.split() == ["$coord", *["1.00000000000000", "0.00000000000000"],
                            "-2.00000000000000", "cl", "$end"]  # fmt: skip


def test_the_last_cycle_of_a_gradient_file_counts(tmp_path):
    second = (RECORDED / "gradient_2").read_text().splitlines()[1:]
    text = (RECORDED / "gradient").read_text().replace("$end\n", "") + "\n".join(second)
    (tmp_path / "gradient").write_text(text)
    energy, gradient = read_gradient(tmp_path / "gradient", 4, "test")
    assert (energy, gradient.tolist()) == _of("gradient_2")
    with pytest.raises(LabelFailure, match=r"test: the file .* no energy and gradient of 5 atoms"):
        read_gradient(tmp_path / "gradient", 5, "test")


def _of(name):
    energy, gradient = read_gradient(RECORDED / name, 4, "test")
    return energy, gradient.tolist()


def test_energies_are_read(tmp_path):
    assert read_energy(RECORDED / "energy", "test") == pytest.approx(-114.32546542015)
    states = read_excitations(RECORDED / "escf.out", 2, "test")
    np.testing.assert_allclose(states, [_of("gradient_1")[0], _of("gradient_2")[0]], atol=1e-8)
    with pytest.raises(LabelFailure, match=r"test: 2 excited states in .*; expected 3"):
        read_excitations(RECORDED / "escf.out", 3, "test")
    (tmp_path / "energy").write_text("$energy\n$end\n")
    with pytest.raises(LabelFailure, match="holds no energy"):
        read_energy(tmp_path / "energy", "test")


def test_groups_of_a_control_file_are_replaced_and_removed():
    control = "$a 1\n$grad file=x\n$ab\n  2\n$end\n"
    assert with_group(control, "$a 3") == "$grad file=x\n$ab\n  2\n$a 3\n$end\n"
    assert without_group(control, "$ab") == "$a 1\n$grad file=x\n$end\n"
    assert has_group(control, "$ab")
    assert not has_group(control, "$b")
