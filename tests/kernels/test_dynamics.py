"""Every integrator samples what it is told to, keeps what it should, and is restored exactly."""

import pickle
import typing

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import write
from toy_molecule import NUMBERS, RELAXED
from walking import STIFFNESS, Exact, answer, coupled, follow, lost, toy, walk

from pal.errors import ContractError, KernelImportError
from pal.kernels.generators.dynamics import Dynamics
from pal.kernels.generators.parts.integrators import CLASSES, Integrator
from pal.testing.checks import check_generator

CANONICAL = ["langevin", "langevin_baoab", "nose_hoover", "bussi", "andersen"]


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.xyz"
    write(path, [Atoms(NUMBERS, RELAXED), Atoms(NUMBERS, RELAXED + 0.01)], format="extxyz")
    return path


@pytest.fixture
def make(context, start):
    return lambda index=0, **options: Dynamics(context(index), start=start, **options)


def bonds(sample):
    return answer(sample, coupled)


def kinetic_temperatures(walker, marks):
    """Walk, and return the temperature (K) wherever the walker could be saved without answers."""
    mass = toy().get_masses()[:, None]
    found, feedback = [], None
    while len(found) < marks:
        before = walker.get_state()["mark"]
        feedback = bonds(walker.step(feedback))
        if (mark := walker.get_state()["mark"]) != before:
            kinetic = 0.5 * (pickle.loads(mark)["momenta"] ** 2 / mass).sum()
            found.append(2 * kinetic / (mass.size * 3) / units.kB)
    return np.array(found)


def test_the_documented_integrators_are_those_that_there_are():
    named = typing.get_type_hints(Dynamics.__init__)["integrator"]
    assert set(typing.get_args(named)) == set(CLASSES)


@pytest.mark.parametrize("integrator", CLASSES)
def test_keeps_the_contract(make, integrator):
    check_generator(lambda: make(integrator=integrator, patience=3), answer)
    check_generator(lambda: make(integrator=integrator, patience=3), lost)


@pytest.mark.parametrize("steps", [1, 20, 47])
@pytest.mark.parametrize("integrator", CLASSES)
def test_a_restored_walker_goes_on_bit_for_bit(make, integrator, steps):
    walker = make(0, integrator=integrator)
    walk(walker, steps, bonds)
    follow(walker, make(1, integrator=integrator), bonds)


@pytest.mark.parametrize("integrator", CANONICAL)
def test_the_kinetic_temperature_is_right(make, integrator):
    """Within five standard errors, taken from the scatter of ten blocks, and 1 % of time step."""
    walker = make(
        integrator=integrator,
        temperatures_K=[400.0],
        timestep_fs=0.5,
        friction_per_ps=50.0,
        time_constant_fs=20.0,
    )
    kelvin = kinetic_temperatures(walker, 140)[20:].reshape(10, -1).mean(axis=1)
    error = kelvin.std(ddof=1) / np.sqrt(len(kelvin))
    assert error < 40
    assert abs(kelvin.mean() - 400) < 5 * error + 4


def test_berendsen_goes_to_its_temperature(make):
    walker = make(integrator="berendsen", temperatures_K=[400.0], time_constant_fs=20.0)
    assert kinetic_temperatures(walker, 60)[20:].mean() == pytest.approx(400, rel=0.1)


@pytest.mark.parametrize(
    ("integrator", "kelvin"),
    [("langevin", 150.0), ("langevin", 600.0), ("langevin_baoab", 300.0), ("andersen", 300.0)],
)
def test_samples_the_boltzmann_distribution(make, kelvin, integrator):
    """<x^2> = k_B T / stiffness in a harmonic well, for every coordinate of any mass.

    5,500 steps are some 200 independent amplitudes of 15 coordinates: 10 % are five standard
    errors.
    """
    walker = make(temperatures_K=[kelvin], friction_per_ps=100.0, integrator=integrator)
    positions = np.array([sample["positions"] for sample in walk(walker, 6000)[500:]])
    spread = ((positions - RELAXED) ** 2).mean()
    assert spread * STIFFNESS / units.kB == pytest.approx(kelvin, rel=0.1)


def energies(walker, steps, timestep):
    """Total energies: velocity Verlet's velocities are exactly the central differences."""
    positions = np.array([s["positions"] for s in walk(walker, steps, bonds)[1:]])
    velocities = (positions[2:] - positions[:-2]) / (2 * timestep * units.fs)
    kinetic = 0.5 * (toy().get_masses()[:, None] * velocities**2).sum(axis=(1, 2))
    return kinetic + np.array([coupled(p)[0] for p in positions[1:-1]])


def test_verlet_conserves_the_energy_to_second_order_in_the_time_step(make):
    errors = []
    for step in (0.5, 0.25):
        walker = make(integrator="verlet", timestep_fs=step, temperatures_K=[300.0])
        total = energies(walker, int(500 / step), step)
        assert abs(np.polyfit(np.arange(len(total)), total, 1)[0] * len(total)) < 2e-3  # no drift
        errors.append(total.std())
    assert errors[0] < 5e-3
    assert 3 < errors[0] / errors[1] < 5.5


@pytest.mark.parametrize("integrator", ["nose_hoover", "bussi"])
def test_what_a_thermostat_takes_and_gives_is_accounted_for(integrator):
    atoms = toy()
    atoms.calc = Exact(coupled)
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(0, np.sqrt(0.026 * atoms.get_masses())[:, None], (5, 3)))
    dynamics = Integrator(integrator, 0.25, 300.0, 0.0, 50.0).build(atoms, rng)
    kept, bare = [], []
    for _ in range(400):
        dynamics.step()
        bare.append(atoms.get_total_energy())
        if integrator == "bussi":
            kept.append(bare[-1] - dynamics.transferred_energy)
        else:
            kept.append(dynamics.get_conserved_energy())
    assert np.ptp(kept) < 0.02 * np.ptp(bare)


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
    trusted = walk(walker, 10)[-1]
    away = walk(walker, 4, lost, answer(trusted))
    assert not np.array_equal(away[2]["positions"], trusted["positions"])
    assert np.array_equal(away[3]["positions"], trusted["positions"])


def test_goes_home_when_it_is_lost_again_without_a_trusted_step(make):
    samples = walk(make(patience=2), 40, lost)
    at_home = [np.array_equal(s["positions"], RELAXED) for s in samples]
    assert sum(at_home) > 5


@pytest.mark.parametrize("strength", [1e3, -1e3, np.nan])
def test_an_absurd_force_sends_it_back_at_once(make, strength):
    walker = make(max_force=20.0)
    sample = walk(walker, 5)[-1]
    after = walker.step(answer(sample, forces=np.full((5, 3), strength)))["positions"]
    assert np.abs(after - RELAXED).max() < 0.5


@pytest.mark.parametrize("integrator", ["langevin", "langevin_baoab", "nose_hoover"])
def test_a_walker_that_is_lost_at_every_step_has_a_small_state_too(make, integrator):
    def absurd(sample):
        return answer(sample, forces=np.full((5, 3), 1e3))

    walker = make(integrator=integrator)
    walk(walker, 150, absurd)
    assert len(walker.get_state()["answers"]) < 25
    follow(walker, make(integrator=integrator), absurd)


@pytest.mark.parametrize(
    ("push", "options"), [(-1.0, {"min_distance": 0.7}), (1.0, {"max_distance": 1.4})]
)
def test_atoms_that_overlap_or_leave_send_it_back_at_once(make, push, options):
    """A committee that pushes a hydrogen atom into, or off, its carbon atom, with confidence."""

    def pushed(sample):
        forces = answer(sample).mean["forces"].copy()
        forces[1, 0] += push * 4
        return answer(sample, forces=forces)

    walker = make(temperatures_K=[1.0], friction_per_ps=0.0, **options)
    lengths = [
        np.linalg.norm(s["positions"][1] - s["positions"][0]) for s in walk(walker, 200, pushed)
    ]
    free = make(temperatures_K=[1.0], friction_per_ps=0.0, min_distance=0.0)
    beyond = [
        np.linalg.norm(s["positions"][1] - s["positions"][0]) for s in walk(free, 200, pushed)
    ]
    assert max(abs(np.array(beyond) - 1.1)) > 1.0
    assert max(abs(np.array(lengths) - 1.1)) < 0.7
    assert (np.diff(lengths) * push < -0.2).any()


def test_periodic_atoms_overlap_across_the_border(context, tmp_path):
    path = tmp_path / "cell.xyz"
    atoms = Atoms("H2", [[0.1, 0, 0], [4.9, 0, 0]], cell=[5, 5, 5], pbc=True)
    write(path, atoms, format="extxyz")
    with pytest.raises(ContractError, match=r"H2 in `start` has atoms that overlap"):
        Dynamics(context(), start=path)
    atoms.positions[1, 0] = 4.3
    write(path, atoms, format="extxyz")
    sample = Dynamics(context(), start=path).step(None)
    assert np.array_equal(sample["cell"], 5 * np.eye(3))


def test_without_feedback_it_sends_the_present_sample_again(make):
    walker = make()
    present = walk(walker, 25)[-1]["positions"].copy()
    assert np.array_equal(walker.step(None)["positions"], present)


def test_more_arguments_go_to_the_integrator(make):
    paths = [
        walk(make(integrator="nose_hoover", arguments=more), 10)[-1]["positions"]
        for more in (None, {"tchain": 5})
    ]
    assert not np.array_equal(*paths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integrator": "leapfrog"}, r"integrator = 'leapfrog' is not known; expected one of"),
        ({"arguments": {"tchain": 3}}, r"with arguments = \{'tchain': 3\}: TypeError.*its arg"),
        ({"integrator": "bussi", "temperatures_K": [0.0]}, r"makes no step at 0\.0 K"),
        ({"integrator": "berendsen", "temperatures_K": [0.0]}, r"makes no step at 0\.0 K"),
        ({"temperatures_K": []}, r"temperatures_K is empty"),
        ({"temperatures_K": [-1.0]}, r"expected timestep_fs > 0, temperatures_K >= 0"),
        ({"timestep_fs": 0.0}, r"expected timestep_fs > 0"),
        ({"patience": 0}, r"needs patience >= 1"),
        ({"min_distance": 1.5}, r"expected 0 <= min_distance < 1"),
        ({"min_distance": 0.97}, r"has atoms that overlap or stand alone"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, options, message):
    with pytest.raises(ContractError, match=message):
        make(**options)


@pytest.mark.parametrize("content", ["", "no geometry\n", "2\n\nH 0 0 0\n"])
def test_a_start_that_is_no_geometry_is_named_with_the_reason(context, tmp_path, content):
    file = tmp_path / "start.xyz"
    file.write_text(content)
    with pytest.raises(
        KernelImportError, match=r"start = '.*start\.xyz'.*: \w+Error.*name a file"
    ):
        Dynamics(context(), start=file)


def test_a_start_that_is_not_there_is_named(context):
    with pytest.raises(KernelImportError, match=r"cannot read start = 'nowhere\.xyz'"):
        Dynamics(context(), start="nowhere.xyz")
