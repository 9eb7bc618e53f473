"""The program xtb agrees with the library, and its failures are told in its own words."""

import os
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.units import Bohr, Hartree

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import to_sample
from pal.kernels.oracles.xtb import Xtb
from pal.kernels.oracles.xtb_program import XtbProgram
from pal.testing.checks import check_oracle

WATER = to_sample(molecule("H2O"))
HYDROGEN = to_sample(molecule("H2"))
needs_xtb = pytest.mark.skipif(
    shutil.which("xtb") is None, reason="the program xtb is not installed (Debian package xtb)"
)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bent():
    return {**WATER, "positions": WATER["positions"] + [[0, 0, 0.1], [0, 0.05, 0], [0.02, 0, 0]]}


@pytest.fixture
def diary(tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_DIARY", str(tmp_path / "diary"))
    return tmp_path / "diary"


@pytest.fixture
def stand_in(tmp_path, diary, context):
    """Make an oracle that runs the stand-in."""
    program = tmp_path / "xtb"
    script = Path(__file__).parent / "programs" / "xtb.py"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return lambda **options: XtbProgram(context(), program=str(program), **options)


@needs_xtb
def test_keeps_the_contract(bent, context):
    check_oracle(lambda: XtbProgram(context()), bent)


@needs_xtb
@pytest.mark.parametrize(
    ("options", "electrons"),
    [
        ({}, {}),
        ({"electronic_temperature": 2000.0}, {"charge": np.array(1.0)}),
        ({}, {"spin": np.array(2.0)}),
    ],
)
@pytest.mark.parametrize("method", [1, 2])
def test_the_program_agrees_with_the_library(bent, context, method, options, electrons):
    sample = {**bent, **electrons}
    ours = XtbProgram(context(), method=method, accuracy=0.01, **options).label(sample)
    theirs = Xtb(method=f"GFN{method}-xTB", accuracy=0.01, **options).label(sample)
    assert abs(ours["energy"] - theirs["energy"]) < 1e-6 * Hartree
    np.testing.assert_allclose(ours["forces"], theirs["forces"], atol=1e-4)


@needs_xtb
def test_forces_are_the_gradient_where_atoms_share_a_coordinate(bent, context):
    """The program itself is wrong there, by 0.01 eV/Å for this geometry."""
    oracle = XtbProgram(context(), method=1, accuracy=0.01)
    shift = np.zeros((3, 3))
    shift[0, 0] = 1e-3
    plus, minus = (
        float(oracle.label({**bent, "positions": bent["positions"] + s})["energy"])
        for s in (shift, -shift)
    )
    force = oracle.label(bent)["forces"][0, 0]
    assert -(plus - minus) / 2e-3 == pytest.approx(force, abs=1e-4)


@needs_xtb
def test_solvation_binds_water(bent, context):
    alone = XtbProgram(context()).label(bent)
    solved = XtbProgram(context(), solvent="water").label(bent)
    assert -1.0 < solved["energy"] - alone["energy"] < -0.1


@needs_xtb
def test_begins_with_the_last_charges(bent, context, scratch):
    oracle = XtbProgram(context())
    cycles = []
    for _ in range(2):
        oracle.label(bent)
        words = (scratch / "xtb.log").read_text()
        cycles.append(int(words.split("satisfied after")[1].split()[0]))
    assert cycles[1] < cycles[0]


@needs_xtb
def test_what_does_not_converge_is_refused_with_the_last_words(bent, context):
    with pytest.raises(LabelFailure, match=r"(?s)ended with code 1: .*scf: Self cons.* not conv"):
        XtbProgram(context(), max_iterations=1).label(bent)


@needs_xtb
def test_an_unknown_solvent_is_refused_with_the_last_words(bent, context):
    with pytest.raises(LabelFailure, match=r"(?s)'mercury' is not param"):
        XtbProgram(context(), solvent="mercury").label(bent)


def test_reads_energy_and_forces_in_their_units(stand_in):
    label = stand_in().label(HYDROGEN)
    distance = np.diff(HYDROGEN["positions"], axis=0)[0] / Bohr
    assert label["energy"] == pytest.approx(0.05 * distance @ distance * Hartree)
    np.testing.assert_allclose(label["forces"][0], 0.1 * distance * Hartree / Bohr, atol=1e-9)
    np.testing.assert_allclose(label["forces"][1], -label["forces"][0])


def test_options_and_threads_reach_the_program(stand_in, diary, context):
    stand_in(method=1, solvent="thf", electronic_temperature=500.0, accuracy=0.1, charge=-1).label(
        HYDROGEN
    )
    said = diary.read_text()
    assert said.startswith("coord --grad --chrg -1 --uhf 1 --gfn 1 --etemp 500.0 --acc 0.1 ")
    assert "--alpb thf threads=1/1 " in said
    program = diary.parent / "xtb"
    XtbProgram(replace(context(), threads=3), program=str(program)).label(HYDROGEN)
    assert "threads=3/3 " in diary.read_text()


def test_restart_files_outlive_the_oracle_and_belong_to_a_composition(stand_in, diary, scratch):
    for sample in (HYDROGEN, HYDROGEN, {**HYDROGEN, "charge": np.array(1)}):
        stand_in().label(sample)
        (scratch / "xtbrestart").unlink(missing_ok=True)
    stand_in(restart=False).label(HYDROGEN)
    begun = [line.split("restart=")[1] for line in diary.read_text().splitlines()]
    assert begun == ["False", "True", "False", "False"]


def test_who_was_misled_by_old_charges_begins_anew(stand_in, diary, monkeypatch):
    oracle = stand_in()
    oracle.label(HYDROGEN)
    monkeypatch.setenv("STAND_IN", "misled")
    oracle.label(HYDROGEN)
    begun = [line.split("restart=")[1] for line in diary.read_text().splitlines()]
    assert begun == ["False", "True", "False"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("unconverged", r"xtb ended with code 1: (?s:.*)did not converge\nabnormal term"),
        ("silent", r"no energy and gradient of 2 atoms: (?s:.*)normal termination"),
        ("cut", r"no energy and gradient of 2 atoms: (?s:.*)normal termination"),
    ],
)
def test_failures_end_with_the_last_words(stand_in, monkeypatch, how, message):
    monkeypatch.setenv("STAND_IN", how)
    with pytest.raises(LabelFailure, match=message):
        stand_in().label(HYDROGEN)


def test_forces_beyond_physics_are_refused(stand_in):
    with pytest.raises(LabelFailure, match=r"xtb_program: largest force .* max_force"):
        stand_in(max_force=1.0).label(HYDROGEN)


def test_a_missing_program_is_named(context):
    with pytest.raises(ContractError, match=r"xtb_program: the program 'xbt'.*option program"):
        XtbProgram(context(), program="xbt")


def test_an_unknown_method_is_named(stand_in):
    with pytest.raises(ContractError, match="xtb_program: method = 3; expected 0, 1 or 2"):
        stand_in(method=3)


def test_crystals_are_refused(stand_in):
    crystal = {**HYDROGEN, "cell": 9.0 * np.eye(3), "pbc": np.ones(3, bool)}
    with pytest.raises(ContractError, match="calculates isolated molecules"):
        stand_in().label(crystal)


def test_writes_into_the_scratch_folder_and_its_own_only(stand_in, tmp_path):
    oracle = stand_in()
    before = set(os.listdir(tmp_path))
    oracle.label(HYDROGEN)
    assert set(os.listdir(tmp_path)) - before == {"diary", "kept"}
