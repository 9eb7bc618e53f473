"""The walker samples the temperature it is told to, and comes back when it is lost."""

import pickle

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import write
from toy_molecule import NUMBERS, RELAXED

from pal.errors import KernelImportError
from pal.kernels.generators.langevin import Langevin
from pal.records import Feedback
from pal.testing.checks import check_generator

STIFFNESS = 5.0  # eV/Å^2


def spring(sample, trusted=True, forces=None):
    """Feedback of a committee that binds each atom to its place, harmonically."""
    if forces is None:
        forces = -STIFFNESS * (sample["positions"] - RELAXED)
    return Feedback({"forces": forces, "energy": np.array(0.0)}, {}, 0.0, trusted, 0)


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.xyz"
    write(path, [Atoms(NUMBERS, RELAXED), Atoms(NUMBERS, RELAXED + 0.01)], format="extxyz")
    return path


@pytest.fixture
def make(context, start):
    return lambda index=0, **options: Langevin(context(index), start=start, **options)


def walk(walker, steps, answer=spring, feedback=None):
    samples = []
    for _ in range(steps):
        samples.append(walker.step(feedback))
        feedback = answer(samples[-1])
    return samples


def test_keeps_the_contract(make):
    check_generator(lambda: make(patience=3), spring)
    check_generator(lambda: make(patience=3), lambda sample: spring(sample, trusted=False))


@pytest.mark.parametrize("kelvin", [150.0, 600.0])
def test_samples_the_boltzmann_distribution(make, kelvin):
    """<x^2> = k_B T / stiffness in a harmonic well, for every coordinate of any mass."""
    walker = make(temperatures_K=[kelvin], friction_per_ps=100.0)
    positions = np.array([sample["positions"] for sample in walk(walker, 6000)[500:]])
    spread = ((positions - RELAXED) ** 2).mean()
    assert spread * STIFFNESS / units.kB == pytest.approx(kelvin, rel=0.1)


def test_walkers_take_their_start_and_temperature_in_turn(make):
    starts = [make(k).step(None)["positions"] for k in range(3)]
    np.testing.assert_allclose(starts[1] - starts[0], 0.01)
    np.testing.assert_allclose(starts[2], starts[0])
    hot = [make(k, temperatures_K=[1.0, 2000.0]) for k in range(2)]
    cold, warm = (np.ptp([s["positions"] for s in walk(w, 100)], axis=0).max() for w in hot)
    assert warm > 5 * cold


def test_the_same_seed_gives_the_same_trajectory(make):
    one, same, other = (walk(make(k), 20)[-1]["positions"] for k in (0, 0, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_goes_on_while_it_may_hope_then_back_to_the_last_trusted_geometry(make):
    walker = make(patience=3)
    trusted = walk(walker, 10)[-1]["positions"]
    lost = walk(walker, 4, lambda s: spring(s, trusted=False), spring(trusted_sample(trusted)))
    assert not np.array_equal(lost[2]["positions"], trusted)
    assert np.array_equal(lost[3]["positions"], trusted)


def trusted_sample(positions):
    return {"positions": positions}


def test_goes_home_when_it_is_lost_again_without_a_trusted_step(make):
    walker = make(patience=2)
    samples = walk(walker, 40, lambda s: spring(s, trusted=False))
    at_home = [np.array_equal(s["positions"], RELAXED) for s in samples]
    assert sum(at_home) > 5


@pytest.mark.parametrize("strength", [1e3, -1e3])
def test_an_absurd_force_sends_it_back_at_once(make, strength):
    walker = make(max_force=20.0)
    sample = walk(walker, 5)[-1]
    blown = spring(sample, forces=np.full((5, 3), strength))
    after = walker.step(blown)["positions"]
    assert np.abs(after - RELAXED).max() < 0.5


def test_a_restored_walker_asks_again_and_goes_on_alike(make):
    walker, other = make(0), make(3)
    present = walk(walker, 7)[-1]
    other.set_state(pickle.loads(pickle.dumps(walker.get_state())))
    assert np.array_equal(other.step(None)["positions"], present["positions"])
    ahead = [walk(each, 5, feedback=spring(present))[-1] for each in (walker, other)]
    assert np.array_equal(ahead[0]["positions"], ahead[1]["positions"])


def test_without_feedback_it_sends_the_present_sample_again(make):
    walker = make()
    present = walk(walker, 5)[-1]["positions"].copy()
    assert np.array_equal(walker.step(None)["positions"], present)


def test_a_start_that_is_not_there_is_named(context):
    with pytest.raises(KernelImportError, match=r"cannot read start = 'nowhere\.xyz'"):
        Langevin(context(), start="nowhere.xyz")
