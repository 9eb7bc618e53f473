"""Trajectories in one set of arrays: the physics of each, and company that changes no bit."""

import pickle

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import write
from ase.md.verlet import VelocityVerlet
from toy_molecule import NUMBERS, RELAXED
from walking import STIFFNESS, Exact, answer, coupled, follow, lost, toy, walk

import pal
from pal.errors import ContractError, KernelImportError, ShapeError
from pal.kernels.atoms import to_sample
from pal.kernels.generators.batched_dynamics import BatchedDynamics
from pal.records import Batch, Feedback, Feedbacks
from pal.testing.checks import check_generator

WATER = Atoms("OH2", [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.xyz"
    write(path, [Atoms(NUMBERS, RELAXED), Atoms(NUMBERS, RELAXED + 0.01)], format="extxyz")
    return path


@pytest.fixture
def mixed(tmp_path):
    """Three kinds: the toy molecule, water, and the toy molecule with a charge."""
    path = tmp_path / "mixed.xyz"
    ion = Atoms(NUMBERS, RELAXED, info={"charge": 1.0})
    write(path, [Atoms(NUMBERS, RELAXED), WATER, ion], format="extxyz")
    return path


@pytest.fixture
def make(context, start):
    return lambda index=0, **options: BatchedDynamics(
        context(index), **({"start": start} | options)
    )


@pytest.fixture
def crowd(make):
    """Make an ensemble of so many walkers."""
    return lambda count, **options: BatchedDynamics.ensemble(
        [make(index, **options) for index in range(count)]
    )


def bonds(sample):
    return answer(sample, coupled)


def pull(sample, home):
    """Feedback of a committee that ties the atoms of any molecule to their places."""
    forces = -STIFFNESS * (sample["positions"] - home)
    return Feedback({"energy": np.array(0.0), "forces": forces}, {}, 0.0, True, 0)


def by_springs(samples, trusted=True, forces=None):
    """Feedback of a uniform batch of toy molecules, each atom tied to its place."""
    positions = samples["positions"]
    if forces is None:
        forces = -STIFFNESS * (positions - RELAXED)
    mean = Batch.stacked({"energy": np.zeros(len(samples)), "forces": forces})
    sure = np.broadcast_to(trusted, len(samples))
    return Feedbacks(mean, mean, np.zeros(len(samples)), sure, 0)


def travel(ensemble, count, steps, reply=by_springs):
    """Positions (steps, count, atoms, 3) of all walkers, from the first sample on."""
    rows, feedback, found = np.arange(count), None, []
    for _ in range(steps):
        samples = ensemble.step(rows, feedback)
        feedback = reply(samples)
        found.append(samples["positions"])
    return np.array(found)


@pytest.mark.parametrize("integrator", ["langevin", "verlet"])
def test_keeps_the_contract_alone_and_joined(make, integrator):
    check_generator(lambda: make(integrator=integrator, patience=3), answer)
    check_generator(lambda: make(integrator=integrator, patience=3), lost)
    check_generator(lambda: make(integrator=integrator, max_force=0.5), bonds, steps=70)


@pytest.mark.parametrize("steps", [1, 63, 64, 70])
def test_a_restored_walker_goes_on_bit_for_bit(make, steps):
    walker = make(0)
    walk(walker, steps, bonds)
    follow(walker, make(1), bonds)


def test_agrees_with_ase_to_rounding(make):
    walker = make(integrator="verlet", temperatures_K=[500.0], timestep_fs=0.5)
    atoms = toy()
    atoms.calc = Exact(coupled)
    atoms.set_velocities(walker.get_state()["velocities"])
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    for sample in walk(walker, 200, bonds):
        np.testing.assert_allclose(sample["positions"], atoms.positions, rtol=0, atol=1e-10)
        dynamics.run(1)


def test_verlet_conserves_the_energy_to_second_order_in_the_time_step(make):
    """The full-step velocities of the leapfrog are exactly the central differences."""
    errors = []
    for step in (0.5, 0.25):
        walker = make(integrator="verlet", timestep_fs=step, temperatures_K=[300.0])
        positions = np.array([s["positions"] for s in walk(walker, int(500 / step), bonds)])
        velocities = (positions[2:] - positions[:-2]) / (2 * step * units.fs)
        kinetic = 0.5 * (toy().get_masses()[:, None] * velocities**2).sum(axis=(1, 2))
        total = kinetic + np.array([coupled(p)[0] for p in positions[1:-1]])
        assert abs(np.polyfit(np.arange(len(total)), total, 1)[0] * len(total)) < 2e-3  # no drift
        errors.append(total.std())
    assert errors[0] < 5e-3
    assert 3 < errors[0] / errors[1] < 5.5


@pytest.mark.parametrize("timestep", [0.5, 2.5])
def test_samples_the_boltzmann_distribution_at_any_time_step(crowd, timestep):
    """BAOAB has no error of the time step in the positions of harmonic oscillators.

    <x^2> = k_B T / stiffness, the configurational temperature of a harmonic well. At 2.5 fs
    (hydrogen: omega dt = 0.55) Verlet's positions would be 8 % too hot. Seen with six other
    seeds, the mean scatters by 0.6 % and 0.2 %, that of one atom by 1 %.
    """
    ensemble = crowd(64, temperatures_K=[400.0], friction_per_ps=100.0, timestep_fs=timestep)
    positions = travel(ensemble, 64, int(4000 / timestep))[int(500 / timestep) :]
    kelvin = ((positions - RELAXED) ** 2).mean(axis=(0, 1, 3)) * STIFFNESS / units.kB
    assert kelvin.mean() == pytest.approx(400, rel=0.02)
    assert kelvin == pytest.approx(400, rel=0.05)  # atoms of any mass


def test_the_velocities_are_those_of_the_temperature(crowd):
    """Drawn at first, 4500 numbers: their variance scatters by 2.1 %."""
    ensemble = crowd(300, temperatures_K=[250.0])
    velocities = np.array([ensemble.get_state(row)["velocities"] for row in range(300)])
    kelvin = (toy().get_masses()[:, None] * velocities**2).mean() / units.kB
    assert kelvin == pytest.approx(250, rel=0.065)


def test_company_changes_no_bit(make, crowd):
    """Some move while others wait, some go back, and each lives as it does alone."""
    count, options = 7, {"patience": 3, "temperatures_K": [100.0, 900.0], "friction_per_ps": 40.0}
    alone = [make(row, **options) for row in range(count)]
    ensemble, rng = crowd(count, **options), np.random.default_rng(5)
    samples = list(ensemble.step(np.arange(count), None))
    for walker, sample in zip(alone, samples, strict=True):
        assert np.array_equal(walker.step(None)["positions"], sample["positions"])
    for _ in range(150):
        rows = np.flatnonzero(rng.random(count) < 0.7)
        if not len(rows):
            continue
        heard = [answer(samples[row], trusted=bool(rng.random() < 0.4)) for row in rows]
        moved = ensemble.step(rows, Feedbacks.of(heard))
        for row, feedback, sample in zip(rows, heard, moved, strict=True):
            samples[row] = sample
            assert np.array_equal(alone[row].step(feedback)["positions"], sample["positions"])
    assert sum(ensemble.get_state(row)["returns"] for row in range(count)) > count


def test_molecules_of_several_sizes_move_as_those_alone(make, mixed):
    options = {"start": mixed, "temperatures_K": [300.0, 600.0]}
    alone = [make(row, **options) for row in range(6)]
    ensemble = BatchedDynamics.ensemble([make(row, **options) for row in range(6)])
    homes = [toy().positions, WATER.positions, toy().positions] * 2
    samples = list(ensemble.step(np.arange(6), None))
    assert [set(s) for s in samples[:3]] == [{"positions", "numbers"}] * 2 + [
        {"positions", "numbers", "charge"}
    ]
    for turn in range(80):
        rows = np.arange(6) if turn % 3 else np.array([1, 2, 4])
        heard = [pull(samples[row], homes[row]) for row in rows]
        for row, sample, feedback in zip(
            rows, ensemble.step(rows, Feedbacks.of(heard)), heard, strict=True
        ):
            samples[row] = sample
            own = alone[row].step(feedback)
            assert own.keys() == sample.keys()
            assert all(np.array_equal(own[name], sample[name]) for name in own)
    assert len(samples[1]["numbers"]) == 3


def test_samples_are_stacked_and_given_away(crowd):
    ensemble = crowd(4)
    first = ensemble.step(np.arange(4), None)
    kept = first["positions"].copy()
    second = ensemble.step(np.arange(4), by_springs(first))
    ensemble.step(np.arange(4), by_springs(second))
    assert first["positions"].shape == (4, 5, 3)
    assert np.array_equal(first["positions"], kept)
    assert first["numbers"].tolist() == [NUMBERS.tolist()] * 4


def test_walkers_take_their_start_and_temperature_in_turn(make):
    firsts = [make(k).step(None)["positions"] for k in range(3)]
    np.testing.assert_allclose(firsts[1] - firsts[0], 0.01)
    np.testing.assert_allclose(firsts[2], firsts[0])
    hot = [make(k, temperatures_K=[1.0, 2000.0]) for k in range(2)]
    cold, warm = (np.ptp([s["positions"] for s in walk(w, 100)], axis=0).max() for w in hot)
    assert warm > 5 * cold


def test_the_same_seed_gives_the_same_trajectory(make):
    one, same, other = (walk(make(k), 20)[-1]["positions"] for k in (0, 0, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_only_the_lost_go_back_to_their_last_trusted_geometry(crowd):
    """Walker 1 of three is not trusted: three steps of patience, then back."""
    ensemble, rows = crowd(3, patience=3, integrator="verlet"), np.arange(3)
    samples = ensemble.step(rows, None)
    for _ in range(10):
        samples = ensemble.step(rows, by_springs(samples))
    refuge = samples["positions"][1].copy()
    samples = ensemble.step(rows, by_springs(samples))
    before = [ensemble.get_state(row)["velocities"] for row in rows]
    for turn in range(3):
        samples = ensemble.step(rows, by_springs(samples, trusted=np.array([True, False, True])))
        assert np.array_equal(samples["positions"][1], refuge) == (turn == 2)
    after = [ensemble.get_state(row) for row in rows]
    assert [state["returns"] for state in after] == [0, 1, 0]
    assert not np.allclose(after[1]["velocities"], before[1], atol=1e-3)


def test_goes_home_when_it_is_lost_again_without_a_trusted_step(make):
    samples = walk(make(patience=2), 40, lost)
    at_home = [np.array_equal(s["positions"], RELAXED) for s in samples]
    assert sum(at_home) > 5


@pytest.mark.parametrize("strength", [1e3, -1e3, np.nan, np.inf])
def test_an_absurd_force_sends_one_back_at_once(crowd, strength):
    ensemble, rows = crowd(3, max_force=20.0), np.arange(3)
    samples = ensemble.step(rows, None)
    for _ in range(5):
        refuge = samples["positions"][2].copy()
        samples = ensemble.step(rows, by_springs(samples))
    forces = np.zeros((3, 5, 3))
    forces[2, 4, 1] = strength
    samples = ensemble.step(rows, by_springs(samples, forces=forces))
    assert np.array_equal(samples["positions"][2], refuge)
    assert np.isfinite(samples["positions"]).all()
    assert [ensemble.get_state(row)["returns"] for row in rows] == [0, 0, 1]


def test_without_feedback_it_sends_the_present_sample_again(make):
    walker = make()
    present = walk(walker, 5)[-1]["positions"].copy()
    assert np.array_equal(walker.step(None)["positions"], present)


def test_walkers_keep_their_states_when_they_are_joined(make, crowd):
    walkers = [make(row) for row in range(3)]
    for steps, walker in zip((4, 90, 0), walkers, strict=True):
        walk(walker, steps)
    states = [pickle.dumps(walker.get_state()) for walker in walkers]
    ensemble = BatchedDynamics.ensemble(walkers)
    assert [pickle.dumps(ensemble.get_state(row)) for row in range(3)] == states


def test_periodic_cells_and_charges_travel_with_the_samples(make, tmp_path):
    atoms = Atoms(
        NUMBERS, RELAXED, cell=[9.0, 9, 9], pbc=[True, True, False], info={"charge": -1.0}
    )
    write(tmp_path / "cell.xyz", atoms, format="extxyz")
    sample = walk(make(start=tmp_path / "cell.xyz"), 3)[-1]
    expected = to_sample(atoms)
    assert sample.keys() == expected.keys()
    for name in expected.keys() - {"positions"}:
        np.testing.assert_array_equal(sample[name], expected[name])


def test_large_molecules_draw_shorter_blocks(make, tmp_path):
    """Bounded memory; the numbers are the same after a restart in the midst of a block."""
    large = Atoms("H300", np.random.default_rng(0).uniform(0, 40, (300, 3)))
    write(tmp_path / "large.xyz", large, format="extxyz")
    one, other = (make(k, start=tmp_path / "large.xyz") for k in (0, 1))
    walk(one, 40, lambda sample: pull(sample, large.positions))
    follow(one, other, lambda sample: pull(sample, large.positions), steps=30)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"integrator": "leapfrog"}, r"integrator = 'leapfrog' is not known"),
        ({"temperatures_K": []}, "expected temperatures_K"),
        ({"temperatures_K": [-1.0]}, "expected temperatures_K, each >= 0"),
        ({"timestep_fs": 0.0}, "timestep_fs > 0"),
        ({"friction_per_ps": -1.0}, "friction_per_ps >= 0"),
        ({"patience": 0}, "patience >= 1"),
        ({"max_force": 0.0}, "max_force > 0"),
    ],
)
def test_bad_options_are_refused(make, options, words):
    with pytest.raises(ContractError, match=f"batched_dynamics: .*{words}"):
        make(**options)


def test_a_start_that_is_not_there_is_named(make):
    with pytest.raises(KernelImportError, match=r"cannot read start = 'nowhere\.xyz'"):
        make(start="nowhere.xyz")


@pytest.mark.parametrize("joined", [1, 2])
def test_predictions_without_forces_are_named(crowd, joined):
    ensemble, rows = crowd(joined), np.arange(joined)
    energies = Batch.stacked({"energy": np.zeros(joined)})
    bare = Batch.stacked(np.zeros((joined, 1)))
    wrong = Batch.stacked({"forces": np.zeros((joined, 4, 3))})
    for mean, error, words in (
        (energies, ContractError, r"'forces' .* they predict \['energy'\]"),
        (bare, ContractError, "they predict an array"),
        (wrong, ShapeError, r"forces of shape \(4, 3\) for a molecule of 5 atoms"),
    ):
        feedback = Feedbacks(mean, mean, np.zeros(joined), np.ones(joined, bool), 0)
        with pytest.raises(error, match=words):
            ensemble.step(rows, feedback)


def test_a_state_of_another_molecule_is_refused(make, mixed):
    walker, other = make(), make(1, start=mixed)
    with pytest.raises(ContractError, match="state is that of 3 atoms, this walker's start has 5"):
        walker.set_state(other.get_state())


class Teacher:
    """A member that knows the potential, but for a factor of its own."""

    def __init__(self, context):
        self.factor = 1.0 + 0.1 * context.index

    def predict(self, samples):
        labels = [coupled(positions) for positions in samples["positions"]]
        return {
            "energy": np.array([self.factor * energy for energy, _ in labels]),
            "forces": np.array([self.factor * forces for _, forces in labels]),
        }


def teach(sample):
    energy, forces = coupled(sample["positions"])
    return {"energy": np.array(energy), "forces": forces}


@pytest.mark.parametrize("place", [{"placement": "committee"}, {"hosts": 2}])
def test_explores_in_a_campaign(tmp_path, start, place):
    """As an ensemble in the committee's process, and in hosts."""
    summary = pal.Campaign(
        generator={
            "kernel": "batched_dynamics",
            "walkers": 12,
            "options": {"start": str(start), "temperatures_K": [300, 600]},
            **place,
        },
        model={"kernel": Teacher, "members": 2, "train": False},
        oracle=teach,
        selector={"kernel": "deviation", "options": {"threshold": 0.02}},
        directory=tmp_path / "run",
        stop={"labels": 20, "final_training": 0, "after": 60},
    ).run()
    assert summary.labels >= 20
    assert summary.restarts == summary.failed == 0
