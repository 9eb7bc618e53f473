"""Relaxations find minima, saddle searches find passes, and what is found is kept."""

import io
import logging
import pickle
import typing
from functools import cache

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from sella import Sella
from tblite.ase import TBLite
from toy_molecule import NUMBERS, RELAXED, springs
from walking import answer, coupled, follow, lost, walk

import pal
from pal.errors import ContractError, KernelImportError
from pal.kernels.generators.parts.searches import append_frame
from pal.kernels.generators.parts.vibrations import finite_differences, normal_modes
from pal.kernels.generators.relaxation import OPTIMISERS, Relaxation
from pal.kernels.generators.saddle_search import SaddleSearch
from pal.kernels.oracles.xtb import Xtb
from pal.records import Feedback
from pal.roles import STOP
from pal.testing.checks import check_generator

GUESS = Atoms("HCN", [[0.45, 1.15, 0.0], [0.0, 0.0, 0.0], [1.18, 0.0, 0.0]])
"""Hydrogen on its way from carbon to nitrogen."""


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.xyz"
    write(path, [Atoms(NUMBERS, RELAXED), Atoms(NUMBERS, RELAXED + 5)], format="extxyz")
    return path


@pytest.fixture
def make(context, start):
    return lambda index=0, **options: Relaxation(context(index), start=start, **options)


@pytest.fixture
def climb(context, tmp_path):
    write(tmp_path / "guess.xyz", GUESS, format="extxyz")
    return lambda index=0, **options: SaddleSearch(
        context(index), **{"start": tmp_path / "guess.xyz", "fmax": 0.01, **options}
    )


def bonds(sample):
    """The toy molecule in free space."""
    return answer(sample, springs)


class ByXtb:
    """A committee that predicts what GFN2-xTB says; every walker has its own."""

    def __init__(self):
        self.oracle = Xtb()

    def __call__(self, sample):
        return Feedback(self.oracle.label(sample), {}, 0.1, True, 3)


def until_stop(walker, reply, limit=3000):
    samples = walk(walker, limit, reply)
    assert samples[-1] is STOP
    return samples[:-1]


def test_the_documented_optimisers_are_those_that_there_are():
    named = typing.get_type_hints(Relaxation.__init__)["optimiser"]
    assert set(typing.get_args(named)) == set(OPTIMISERS)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser_finds_the_minimum_and_is_restored_bit_for_bit(make, tmp_path, optimiser):
    walker = make(optimiser=optimiser, searches=2, fmax=0.02)
    present = walk(walker, 9, bonds)[-1]
    assert present is not STOP
    follow(walker, make(optimiser=optimiser, searches=2, fmax=0.02), bonds)
    (tmp_path / "minima.extxyz").unlink(missing_ok=True)
    until_stop(make(optimiser=optimiser, searches=2, fmax=0.02), bonds)
    minima = read(tmp_path / "minima.extxyz", index=":")
    assert [frame.info["search"] for frame in minima] == [0, 1]
    for frame in minima:
        assert frame.get_potential_energy() == pytest.approx(0, abs=2e-4)
        assert np.linalg.norm(springs(frame.positions)[1], axis=1).max() < 0.02


def test_relaxations_keep_the_contract(make):
    check_generator(lambda: make(), bonds, steps=30)
    check_generator(lambda: make(patience=3), lost, steps=30)


def test_searches_begin_elsewhere_each_time(make):
    walker = make(index=1, searches=3)
    before, begins = None, []
    for sample in until_stop(walker, lambda s: answer(s, coupled)):
        if before is None or np.abs(sample["positions"] - before).max() > 0.12:
            begins.append(sample["positions"])
        before = sample["positions"]
    assert len(begins) >= 3
    assert not np.allclose(begins[0], begins[1])


def test_walkers_share_the_starts(make):
    assert np.abs(make(0).step(None)["positions"] - RELAXED).max() < 0.5
    assert np.abs(make(1).step(None)["positions"] - RELAXED - 5).max() < 0.5
    assert np.abs(make(2).step(None)["positions"] - RELAXED).max() < 0.5


def test_what_is_found_says_where_it_comes_from_and_how_sure_it_is(make, tmp_path):
    def reply(sample):
        return bonds(sample)._replace(trusted=False, uncertainty=0.7, version=12)

    until_stop(make(index=2, searches=1, patience=1000), reply)
    frame = read(tmp_path / "minima.extxyz")
    expected = {"walker": 2, "search": 0, "trusted": False, "uncertainty": 0.7, "version": 12}
    assert {name: frame.info[name] for name in expected} == expected


def test_a_restart_finds_nothing_twice(make, tmp_path):
    walker = make()
    walk(walker, 60, bonds)
    state = pickle.dumps(walker.get_state())
    found = (tmp_path / "minima.extxyz").read_bytes()
    other = make()
    other.set_state(pickle.loads(state))
    other.step(None)
    assert (tmp_path / "minima.extxyz").read_bytes() == found
    assert found.count(b"Properties") >= 2


def test_a_search_ends_when_its_steps_are_spent(make, tmp_path):
    samples = until_stop(make(searches=3, max_steps=4, fmax=1e-9), bonds)
    assert len(samples) == 12
    assert not (tmp_path / "minima.extxyz").exists()


def test_a_search_that_is_lost_goes_back_once_and_then_gives_up(make):
    """Trusted for five steps, then never again: the refuge is tried once more, with no luck."""
    heard = []

    def reply(sample):
        heard.append(sample["positions"])
        return bonds(sample)._replace(trusted=len(heard) <= 5)

    samples = until_stop(make(searches=1, patience=3, fmax=1e-9), reply)
    assert len(samples) == 5 + 3 + 1 + 3
    assert np.array_equal(samples[8]["positions"], samples[4]["positions"])


def test_an_absurd_force_sends_it_back(make):
    walker = make(max_force=10.0)
    before = walk(walker, 3, bonds)[-1]
    wild = answer(before, springs, forces=np.full((5, 3), 100.0))
    again = walker.step(wild)
    assert np.abs(again["positions"] - RELAXED).max() < 0.5


def test_searches_that_fail_are_told_and_in_the_end_refused(make, caplog):
    def no_energy(sample):
        return Feedback({"forces": springs(sample["positions"])[1]}, {}, 0.0, True, 0)

    walker = make()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ContractError, match="20 searches in a row failed, the last with Prop"),
    ):
        walk(walker, 100, no_energy)
    assert "search 0 given up: PropertyNotImplementedError" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimiser": "Newton"}, r"optimiser = 'Newton' is not known; expected one of BFGS"),
        ({"arguments": {"speed": 1}}, r"does not take arguments = \{'speed': 1\}.*speed"),
        ({"fmax": 0.0}, r"expected fmax > 0"),
        ({"perturbation": -1.0}, r"expected perturbation >= 0 \(Å\), max_steps >= 2"),
        ({"max_steps": 1}, r"max_steps >= 2"),
        ({"patience": 0}, r"needs patience >= 1"),
        ({"min_distance": 0.97}, r"overlap or stand alone"),
    ],
)
def test_relaxations_that_make_no_sense_are_refused(make, options, message):
    with pytest.raises(ContractError, match=message):
        make(**options)


def test_frames_are_appended_whole(tmp_path):
    path = tmp_path / "frames.extxyz"
    for number in range(3):
        frame = GUESS.copy()
        frame.info["search"] = number
        append_frame(path, frame)
    assert [f.info["search"] for f in read(path, index=":")] == [0, 1, 2]
    assert len(read(io.StringIO(path.read_text()), index=":", format="extxyz")) == 3


@cache
def reference():
    """Energy of the pass between HCN and HNC by Sella alone, GFN2-xTB, tightly converged."""
    atoms = GUESS.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    assert Sella(atoms, logfile=None).run(fmax=0.001, steps=100)
    return atoms.get_potential_energy()


@pytest.mark.parametrize("internal", [False, True])
def test_the_pass_between_hcn_and_hnc_is_found(climb, tmp_path, internal):
    """Within 1 meV of Sella alone, with exactly one imaginary vibration."""
    committee = ByXtb()
    until_stop(climb(internal=internal, searches=2), committee, limit=300)
    found = read(tmp_path / "saddle_points.extxyz", index=":")
    assert len(found) == 2
    oracle = Xtb(accuracy=0.1)
    for atoms in found:
        assert atoms.get_potential_energy() == pytest.approx(reference(), abs=1e-3)
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.01

        def forces(positions):
            return oracle.label({"positions": positions, "numbers": GUESS.numbers})["forces"]

        wavenumbers, _ = normal_modes(atoms, finite_differences(forces, atoms.positions, 0.01))
        assert (wavenumbers < -100).sum() == 1
        assert (wavenumbers > 100).sum() == 2


def test_a_saddle_point_of_known_height(context, tmp_path):
    """Two atoms in a double well along their distance: the top is known exactly."""

    def reply(sample):
        arm = sample["positions"][1] - sample["positions"][0]
        length = np.linalg.norm(arm)
        x = (length - 1.8) / 0.6
        slope = 0.5 * 4 * x * (x**2 - 1) / 0.6
        forces = np.array([1.0, -1.0])[:, None] * slope * arm / length
        return Feedback(
            {"energy": np.array(0.5 * (x**2 - 1) ** 2), "forces": forces}, {}, 0.0, True, 0
        )

    write(tmp_path / "pair.xyz", Atoms("O2", [[0, 0, 0], [1.55, 0, 0]]), format="extxyz")
    walker = SaddleSearch(context(), start=tmp_path / "pair.xyz", searches=1, fmax=1e-3)
    until_stop(walker, reply, limit=200)
    atoms = read(tmp_path / "saddle_points.extxyz")
    assert atoms.get_distance(0, 1) == pytest.approx(1.8, abs=1e-3)
    assert atoms.get_potential_energy() == pytest.approx(0.5, abs=1e-5)


def repeatable(oracle):
    """Label each geometry once: on several threads xTB's sums differ in the last bit."""
    labels = {}

    def label(sample):
        key = sample["positions"].tobytes()
        if key not in labels:
            labels[key] = oracle.label(sample)
        return labels[key]

    return label


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("steps", [1, 8])
def test_a_restored_saddle_search_goes_on_bit_for_bit(climb, internal, steps):
    walker = climb(internal=internal)
    label = repeatable(Xtb(restart=False))

    def reply(sample):
        return Feedback(label(sample), {}, 0.1, True, 3)

    walk(walker, steps, reply)
    follow(walker, climb(internal=internal), reply, steps=12)


def test_saddle_searches_keep_the_contract(climb):
    label = repeatable(Xtb(restart=False))

    def reply(sample, trusted=True):
        return Feedback(label(sample), {}, 0.1, trusted, 3)

    check_generator(lambda: climb(), reply, steps=8)
    check_generator(lambda: climb(patience=2), lambda s: reply(s, False), steps=8)


def test_many_saddle_searches_take_turns_in_one_process(climb):
    walkers = [climb(k, searches=1, internal=True) for k in range(3)]
    replies = [ByXtb() for _ in walkers]
    alone = [s["positions"] for s in until_stop(climb(1, searches=1, internal=True), ByXtb())]
    feedback, mixed = [None] * 3, []
    for _ in range(len(alone)):
        samples = [w.step(f) for w, f in zip(walkers, feedback, strict=True)]
        feedback = [
            None if s is STOP else reply(s) for s, reply in zip(samples, replies, strict=True)
        ]
        mixed.append(samples[1]["positions"])
    np.testing.assert_allclose(mixed, alone, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": -1}, "expected order >= 0 and fmax > 0"),
        ({"fmax": 0.0}, "expected order >= 0 and fmax > 0"),
        ({"searches": -1}, "searches >= 0"),
    ],
)
def test_saddle_searches_that_make_no_sense_are_refused(climb, options, message):
    with pytest.raises(ContractError, match=message):
        climb(**options)


def test_a_start_that_is_not_there_is_named(context):
    with pytest.raises(KernelImportError, match=r"saddle_search: cannot read start = 'nowhere"):
        SaddleSearch(context(), start="nowhere.xyz")


def teach(sample):
    energy, forces = springs(sample["positions"])
    return {"energy": np.array(energy), "forces": forces}


class Knowing:
    """A model that has nothing to learn."""

    def predict(self, samples):
        return [teach(sample) for sample in samples]


def test_a_campaign_from_settings_leaves_the_minima_that_it_found(start, tmp_path):
    summary = pal.Campaign(
        generator={
            "kernel": "relaxation",
            "walkers": 2,
            "hosts": 1,
            "options": {"start": str(start), "searches": 3},
        },
        model={"kernel": Knowing, "members": 2, "train": False},
        oracle={"kernel": teach, "enabled": False},
        selector={"kernel": "deviation", "options": {"threshold": 0.1}},
        directory=tmp_path / "run",
        stop={"final_training": 0, "after": 60},
    ).run()
    assert "asked to stop" in summary.reason
    found = list((tmp_path / "run" / "work").glob("generator-*/minima.extxyz"))
    assert found
    assert read(found[0]).get_potential_energy() == pytest.approx(0, abs=2e-3)
    assert not list((tmp_path / "run" / "work").glob("exchange-*"))
