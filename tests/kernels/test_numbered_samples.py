"""Displacements, normal modes and frames: what is drawn, from where, and by whom."""

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.io import read, write
from ase.vibrations import Vibrations
from tblite.ase import TBLite
from toy_molecule import NUMBERS, RELAXED, springs
from walking import answer, follow, walk

from pal.errors import ContractError, KernelImportError, LabelFailure
from pal.kernels.atoms import read_samples
from pal.kernels.generators import displacement
from pal.kernels.generators.displacement import Displacement
from pal.kernels.generators.frames import Frames
from pal.kernels.generators.normal_modes import NormalModes
from pal.kernels.generators.parts.vibrations import (
    classical_width,
    finite_differences,
    normal_modes,
    wigner_width,
)
from pal.roles import STOP, Context
from pal.testing.checks import check_generator

OTHER = RELAXED + 0.1


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.xyz"
    write(path, [Atoms(NUMBERS, RELAXED), Atoms(NUMBERS, OTHER)], format="extxyz")
    return path


@pytest.fixture
def one(tmp_path):
    path = tmp_path / "one.xyz"
    write(path, Atoms(NUMBERS, RELAXED), format="extxyz")
    return path


@pytest.fixture
def hessian(tmp_path):
    matrix = finite_differences(lambda p: springs(p)[1], RELAXED, 1e-3)
    np.save(tmp_path / "hessian.npy", matrix)
    return tmp_path / "hessian.npy"


@pytest.fixture
def alone(tmp_path):
    """The context of `initial.kernel`."""
    return Context("initial", 0, 1, 7, tmp_path)


class SpringOracle:
    """Labels of the toy molecule; counts them in a file, as an oracle writes where it stands."""

    def __init__(self, log, fail=False):
        self._log, self._fail = Path(log), fail

    def label(self, sample):
        if self._fail:
            raise LabelFailure("no convergence")
        Path("scratch.out").write_text(os.getcwd())
        with self._log.open("a") as file:
            file.write("1")
        energy, forces = springs(sample["positions"])
        return {"energy": energy, "forces": forces}


def oracle_of(log, **options):
    return {"kernel": SpringOracle, "options": {"log": str(log), **options}}


@pytest.mark.parametrize("kernel", ["displacement", "normal_modes", "frames"])
def test_keeps_the_contract(kernel, context, start, one, hessian):
    make = {
        "displacement": lambda k: Displacement(context(k), start=start),
        "normal_modes": lambda k: NormalModes(context(k, seed=0), start=one, hessian=hessian),
        "frames": lambda k: Frames(context(k), start=start),
    }[kernel]
    check_generator(lambda: make(0), answer)
    walker = make(0)
    walk(walker, 7)
    follow(walker, make(0))


def away(samples, home=RELAXED):
    return np.array([sample["positions"] for sample in samples]) - home


def test_gaussian_displacements_have_their_width(alone, one):
    walker = Displacement(alone, start=one, scales=[0.05], count=400)
    shifts = away(walker)
    assert shifts.std() == pytest.approx(0.05, rel=0.04)  # four standard errors of 6,000 numbers
    assert abs(shifts.mean()) < 0.003


def test_uniform_displacements_have_their_limit(alone, one):
    shifts = away(Displacement(alone, start=one, scales=[0.1], distribution="uniform", count=100))
    assert 0.099 < np.abs(shifts).max() <= 0.1
    assert shifts.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)


def test_geometries_are_taken_in_turn_and_scales_after_them(alone, start):
    samples = list(Displacement(alone, start=start, scales=[0.0, 0.01], count=8))
    assert len(samples) == 8
    homes = [RELAXED, OTHER] * 4
    shifts = [np.abs(s["positions"] - h).max() for s, h in zip(samples, homes, strict=True)]
    assert np.array_equal(np.array(shifts) < 1e-9, [1, 1, 0, 0, 1, 1, 0, 0])


def test_walkers_share_the_geometries(tmp_path, start):
    for index in range(4):
        walker = Displacement(Context("generator", index, 4, index, tmp_path), start=start)
        home = (RELAXED, OTHER)[index % 2]
        assert np.abs(away(walk(walker, 5), home)).max() < 0.3


def test_only_the_chosen_atoms_move(alone, one):
    shifts = away(Displacement(alone, start=one, atoms=[1, 4], count=10))
    assert np.array_equal(np.abs(shifts).max(axis=(0, 2)) > 0, [0, 1, 0, 0, 1])


def test_overlapping_atoms_are_drawn_again(alone, one, monkeypatch):
    samples = list(Displacement(alone, start=one, scales=[0.5], min_distance=0.8, count=30))
    radii = 0.8 * (0.76 + 0.31)
    assert all(np.linalg.norm(s["positions"][1] - s["positions"][0]) > radii for s in samples)
    monkeypatch.setattr(displacement, "TRIES", 1)
    with pytest.raises(ContractError, match="1 random displacements in a row made atoms overlap"):
        list(Displacement(alone, start=one, scales=[0.5], min_distance=0.8, count=30))


def test_strain_deforms_cell_and_atoms_alike(alone, tmp_path):
    crystal = bulk("Cu", cubic=True)
    write(tmp_path / "cu.xyz", crystal, format="extxyz")
    walker = Displacement(alone, start=tmp_path / "cu.xyz", scales=[0.0], strain=0.02, count=200)
    samples = list(walker)
    strains = np.array([np.linalg.solve(crystal.cell, s["cell"]) - np.eye(3) for s in samples])
    np.testing.assert_allclose(strains, strains.transpose(0, 2, 1), atol=1e-12)
    assert strains.std() == pytest.approx(0.02, rel=0.08)
    fractional = samples[0]["positions"] @ np.linalg.inv(samples[0]["cell"])
    np.testing.assert_allclose(fractional, crystal.get_scaled_positions(), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, "expected one or more scales >= 0"),
        ({"scales": [-0.1]}, "expected one or more scales >= 0"),
        ({"distribution": "flat"}, "expected distribution = 'gaussian' or 'uniform'; got 'flat'"),
        ({"atoms": [5]}, r"indices of atoms from 0 to 4; got atoms = \[5\]"),
        ({"atoms": []}, "indices of atoms from 0 to 4"),
        ({"min_distance": -1.0}, "expected 0 <= min_distance < 1"),
    ],
)
def test_displacements_that_make_no_sense_are_refused(alone, one, options, message):
    with pytest.raises(ContractError, match=message):
        Displacement(alone, start=one, **options)


def test_the_mean_energy_of_classical_modes_is_half_k_t_each(alone, one, hessian):
    """Nine vibrations of five atoms; harmonic energies, 300 draws: four standard errors."""
    walker = NormalModes(
        alone, start=one, hessian=hessian, temperatures_K=[200.0], count=300, min_distance=0.0
    )
    shifts = away(walker).reshape(300, -1)
    matrix = np.load(hessian)
    energies = 0.5 * np.einsum("ni,ij,nj->n", shifts, matrix, shifts)
    expected = 9 * 0.5 * units.kB * 200
    error = expected * np.sqrt(2 / 9 / 300)
    assert abs(energies.mean() - expected) < 4 * error


def test_the_wigner_distribution_has_the_quantum_energy(alone, one, hessian):
    """Potential energy of a mode: hbar omega / 4 coth(hbar omega / 2 k T); at 0 K the half."""
    matrix = np.load(hessian)
    wavenumbers, _ = normal_modes(Atoms(NUMBERS, RELAXED), matrix)
    quanta = wavenumbers[wavenumbers > 50] * units.invcm
    for kelvin in (0.0, 1500.0):
        walker = NormalModes(
            alone,
            start=one,
            hessian=hessian,
            distribution="wigner",
            temperatures_K=[kelvin],
            count=300,
            min_distance=0.0,
        )
        shifts = away(walker).reshape(300, -1)
        energies = 0.5 * np.einsum("ni,ij,nj->n", shifts, matrix, shifts)
        coth = 1.0 if kelvin == 0 else 1 / np.tanh(quanta / (2 * units.kB * kelvin))
        each = 0.25 * quanta * coth
        error = np.sqrt(2 * (each**2).sum() / 300)
        assert abs(energies.mean() - each.sum()) < 4 * error


def test_hot_quantum_vibrations_are_classical():
    wavenumbers = np.array([500.0, 3000.0])
    ratio = wigner_width(wavenumbers, 1e5) / classical_width(wavenumbers, 1e5)
    np.testing.assert_allclose(ratio, 1, atol=1e-3)
    assert (wigner_width(wavenumbers, 300) > 1.1 * classical_width(wavenumbers, 300)).all()


def test_molecules_neither_move_nor_turn_as_a_whole(alone, one, hessian):
    masses = Atoms(NUMBERS, RELAXED).get_masses()[:, None]
    for shift in away(NormalModes(alone, start=one, hessian=hessian, count=20)):
        np.testing.assert_allclose((masses * shift).sum(axis=0), 0, atol=1e-8)
        arms = RELAXED - (masses * RELAXED).sum(axis=0) / masses.sum()
        np.testing.assert_allclose(np.cross(arms, masses * shift).sum(axis=0), 0, atol=1e-8)


def test_wavenumbers_of_two_atoms_are_the_textbooks():
    """omega = sqrt(k / mu), five motions are rigid, and a barrier is an imaginary wavenumber."""
    atoms = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]])
    for stiffness in (143.0, -143.0):  # eV/Å^2; 2294 N/m gives 2359 1/cm
        matrix = np.zeros((6, 6))
        matrix[2, 2] = matrix[5, 5] = stiffness
        matrix[2, 5] = matrix[5, 2] = -stiffness
        wavenumbers, _ = normal_modes(atoms, matrix)
        assert np.count_nonzero(wavenumbers) == 1
        largest = wavenumbers[np.argmax(np.abs(wavenumbers))]
        assert largest == pytest.approx(np.sign(stiffness) * 2355, abs=15)


def test_an_oracle_gives_the_second_derivatives_once(context, one, hessian, tmp_path):
    log = tmp_path / "log"
    here = os.getcwd()
    walker = NormalModes(context(), start=one, oracle=oracle_of(log))
    assert not log.exists()
    samples = walk(walker, 3)
    assert log.read_text() == "1" * 30
    again = walk(NormalModes(context(), start=one, oracle=oracle_of(log)), 3)
    assert log.read_text() == "1" * 30
    assert np.array_equal(samples[2]["positions"], again[2]["positions"])
    exact = walk(NormalModes(context(), start=one, hessian=hessian), 3)
    np.testing.assert_allclose(np.abs(away(samples)).max(), np.abs(away(exact)).max(), rtol=0.5)
    assert os.getcwd() == here
    assert not list(Path(here).glob("scratch.out"))
    assert [p.name[:8] for p in tmp_path.glob("hessian-*")] == ["hessian-"]


def test_an_oracle_that_fails_is_named(context, one, tmp_path):
    walker = NormalModes(context(), start=one, oracle=oracle_of(tmp_path / "log", fail=True))
    with pytest.raises(ContractError, match=r"the oracle failed beside a start.*no convergence"):
        walker.step(None)


def test_vibrations_of_water_by_xtb_are_those_that_ase_finds(context, tmp_path):
    water = Atoms("OH2", [[0, 0, 0.119], [0, 0.772, -0.478], [0, -0.772, -0.478]])
    write(tmp_path / "water.xyz", water, format="extxyz")
    walker = NormalModes(context(), start=tmp_path / "water.xyz", oracle="xtb")
    walker.step(None)
    matrix = np.load(next(tmp_path.glob("hessian-*.npy")))
    wavenumbers, _ = normal_modes(water, matrix)
    water.calc = TBLite(method="GFN2-xTB", verbosity=0)
    theirs = Vibrations(water, name=tmp_path / "ase", delta=0.005)
    theirs.run()
    np.testing.assert_allclose(wavenumbers[-3:], theirs.get_frequencies()[-3:].real, atol=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of the options hessian and oracle"),
        ({"hessian": "h", "oracle": "xtb"}, "expected one of the options hessian and oracle"),
        ({"oracle": "xtb", "distribution": "flat"}, "distribution = 'classical' or 'wigner'"),
        ({"oracle": "xtb", "min_wavenumber": 0.0}, "min_wavenumber > 0"),
        ({"oracle": "xtb", "temperatures_K": []}, "one or more temperatures_K >= 0"),
    ],
)
def test_vibrations_that_make_no_sense_are_refused(alone, one, options, message):
    with pytest.raises(ContractError, match=message):
        NormalModes(alone, start=one, **options)


def test_second_derivatives_of_something_else_are_refused(alone, one, start, hessian, tmp_path):
    with pytest.raises(KernelImportError, match=r"cannot read hessian = 'nowhere\.npy'"):
        NormalModes(alone, start=one, hessian="nowhere.npy")
    with pytest.raises(ContractError, match=r"shape \(15, 15\).*each of the 2 geometries"):
        NormalModes(alone, start=start, hessian=hessian)
    np.save(tmp_path / "both.npy", np.stack([np.load(hessian)] * 2))
    assert NormalModes(alone, start=start, hessian=tmp_path / "both.npy").step(None)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.xyz"
    write(path, [Atoms("H", [[n, 0, 0]]) for n in range(10)], format="extxyz")
    return path


def played(walker, steps):
    return [-1 if s is STOP else int(s["positions"][0, 0]) for s in walk(walker, steps)]


def test_walkers_replay_the_whole_file_between_them(film, tmp_path):
    walkers = [Frames(Context("generator", k, 3, k, tmp_path), start=film) for k in range(3)]
    assert [played(w, 5) for w in walkers] == [[0, 3, 6, 9, 2], [1, 4, 7, 0, 3], [2, 5, 8, 1, 4]]


def test_the_last_frame_ends_the_campaign_where_it_should(film, tmp_path):
    walkers = [
        Frames(Context("generator", k, 3, k, tmp_path), start=film, at_end="stop")
        for k in range(3)
    ]
    assert [played(w, 5) for w in walkers] == [[0, 3, 6, 9, -1], [1, 4, 7, 0, 3], [2, 5, 8, 1, 4]]


def test_frames_may_be_left_out(film, alone):
    assert played(Frames(alone, start=film, every=4), 4) == [0, 4, 8, 0]


def test_all_frames_once_are_the_first_samples(film, alone):
    assert len(list(Frames(alone, start=film))) == 10
    assert len(list(Frames(alone, start=film, count=3))) == 3
    assert len(list(Frames(alone, start=film, at_end="stop", count=30))) == 10


@pytest.mark.parametrize("options", [{"every": 0}, {"count": -1}, {"at_end": "halt"}])
def test_frames_that_make_no_sense_are_refused(film, alone, options):
    with pytest.raises(ContractError, match="frames: expected every >= 1, count >= 0, and at_end"):
        Frames(alone, start=film, **options)


def test_the_file_is_read_as_it_is(film, alone):
    first = next(iter(Frames(alone, start=film)))
    assert np.array_equal(first["positions"], read(film, index=0).positions)
    assert first.keys() == read_samples(film)[0].keys()
