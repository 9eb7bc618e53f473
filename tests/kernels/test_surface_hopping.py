"""Surface hopping keeps energy and norm, and hops as theory, mudslide and Boltzmann demand."""

import json
import pickle

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import write

import pal
from pal.errors import ContractError, KernelImportError
from pal.kernels.generators.parts import hopping
from pal.kernels.generators.populations import FILE, populations, recorded
from pal.kernels.generators.surface_hopping import SurfaceHopping
from pal.records import Feedback
from pal.roles import STOP, Context
from pal.testing.checks import check_generator

HARTREE, BOHR = units.Hartree, units.Bohr
ATOMIC_SPEED = units.Bohr / (units._aut * units.s)
MASS = 2000 * units._me / units._amu
"""Tully's particle of 2000 electron masses, in amu."""


def said(energies, forces, trusted=True, version=0):
    """Feedback about one atom, whose `forces` (s, 3) belong to `energies` (s,)."""
    label = {"energies": np.array(energies), "state_forces": np.array(forces)[:, None]}
    return Feedback(label, {}, 0.0, trusted, version)


def diabatic(matrix, slope):
    """Answer from a diabatic model in atomic units, as mudslide's, along x."""

    def answer(sample):
        x = sample["positions"][0, 0] / BOHR
        energies, states = np.linalg.eigh(matrix([x]))
        forces = np.zeros((len(energies), 3))
        forces[:, 0] = -np.einsum("ai,ab,bi->i", states, slope([x])[0], states)
        return said(energies * HARTREE, forces * HARTREE / BOHR)

    return answer


SPLIT, STEEP = 0.007, 0.02
"""A linear crossing: coupling in Hartree, slope of each diabatic state in Hartree per bohr."""


def crossing(x):
    return np.array([[STEEP * x[0], SPLIT], [SPLIT, -STEEP * x[0]]])


def crossing_slope(x):
    return np.array([[[STEEP, 0.0], [0.0, -STEEP]]])


def fly(tmp_path, answer, momentum, far, count, seed=0, start=None, **options):
    """Send particles from the left; return how often (side, state) is reached, (2, 2)."""
    start_at = -far if start is None else start
    particle = Atoms("H", [[start_at * BOHR, 0, 0]], masses=[MASS])
    particle.set_velocities([[momentum / 2000 * ATOMIC_SPEED, 0, 0]])
    write(tmp_path / "particle.xyz", particle, format="extxyz")
    options = {"initial_state": 0, "max_time_fs": 1e4, "substeps": 5} | options
    context = Context("generator", 0, 1, seed, tmp_path)
    outcome = np.zeros((2, 2))
    walker = SurfaceHopping(context, start=tmp_path / "particle.xyz", **options)
    for trajectory in range(count):
        walker.set_state(walker.get_state() | {"here": None, "number": trajectory})
        sample = walker.step(None)
        while abs(sample["positions"][0, 0]) <= 1.0001 * far * BOHR:
            sample = walker.step(answer(sample))
        state = walker.get_state()["here"].active
        outcome[int(sample["positions"][0, 0] > 0), state] += 1
    return outcome / count


def within(one, other, count, other_count, sigma=4.0, tolerance=0.0):
    """Whether two frequencies agree within `sigma` standard errors of their difference."""
    mean = (count * one + other_count * other) / (count + other_count)
    error = np.sqrt(np.maximum(mean * (1 - mean), 0.25 / count) * (1 / count + 1 / other_count))
    return np.all(np.abs(one - other) <= sigma * error + tolerance)


def mudslide_fly(model, momentum, far, count, seed=1, start=None):
    mudslide = pytest.importorskip("mudslide", reason="mudslide, to compare with, is missing")
    begin = float(-far if start is None else start)
    source = mudslide.TrajGenConst([begin], [momentum / 2000], 0, seed=seed)
    batch = mudslide.BatchedTraj(
        model, source, mudslide.SurfaceHoppingMD, samples=count, bounds=[[-far], [far]], dt=20.0
    )
    return np.array(batch.compute().outcomes).T


def curved(kind):
    """A model of mudslide's with couplings from the curvature of its gap."""

    def gap(model, x):
        matrix = model.V([x])
        return np.hypot(matrix[0, 0] - matrix[1, 1], 2 * matrix[0, 1])

    class Curved(kind):
        def _compute_derivative_coupling(self, *arguments, **options):
            x, h = self._position[0], 0.05
            here = gap(self, x)
            bend = (gap(self, x + h) - 2 * here + gap(self, x - h)) / h**2
            size = 0.5 * np.sqrt(max(0.0, bend / here))
            return np.array([[0.0, -1.0], [1.0, 0.0]])[..., None] * (size + 1e-12)

    return Curved()


def linear():
    from mudslide.models.electronics import DiabaticModel_

    class Linear(DiabaticModel_):
        def __init__(self):
            super().__init__(representation="adiabatic", reference=None, nstates=2, ndof=1)
            self.mass = np.array([2000.0])

        def V(self, x):  # noqa: N802 - mudslide's
            return crossing(x)

        def dV(self, x):  # noqa: N802 - mudslide's
            return crossing_slope(x)

    return Linear()


COUNTS = [60, pytest.param(600, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", ["curvature", "landau_zener"])
def test_at_a_linear_crossing_both_methods_are_exact(tmp_path, method, count):
    """Landau and Zener's formula, and mudslide with true couplings."""
    answer = diabatic(crossing, crossing_slope)
    ours = fly(tmp_path, answer, 30, 3, count, method=method, timestep_fs=0.25)
    depth = np.hypot(STEEP * 3, SPLIT)
    speed = np.sqrt(2 * (30**2 / 4000 - depth) / 2000)
    change = np.exp(-2 * np.pi * SPLIT**2 / (speed * 2 * STEEP))
    assert within(ours, np.array([[0, 0], [1 - change, change]]), count, 10**9, tolerance=0.03)
    if method == "curvature":
        theirs = mudslide_fly(linear(), 30, 3, count)
        assert within(ours, theirs, count, count, tolerance=0.03)


@pytest.mark.parametrize(
    ("name", "momentum", "far", "count"),
    [
        ("TullySimpleAvoidedCrossing", 15, 4, 60),
        pytest.param("TullySimpleAvoidedCrossing", 15, 4, 600, marks=pytest.mark.slow),
        pytest.param("TullyDualAvoidedCrossing", 25, 6, 600, marks=pytest.mark.slow),
    ],
)
def test_fewest_switches_reproduce_mudslide_on_tullys_models(tmp_path, name, momentum, far, count):
    """With the same couplings, those of the curvature; they are not the true ones there."""
    models = pytest.importorskip("mudslide.models.scattering_models", reason="to compare with")
    kind = getattr(models, name)
    model = kind()
    answer = diabatic(model.V, model.dV)
    ours = fly(tmp_path, answer, momentum, far, count, decoherence="none")
    theirs = mudslide_fly(curved(kind), momentum, far, count // 2)
    assert within(ours, theirs, count, count // 2, tolerance=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [10, 15, 20])
def test_landau_zener_comes_close_to_tullys_simple_avoided_crossing(tmp_path, momentum):
    """Within 0.15 of mudslide with true couplings: the gap levels off beside the crossing."""
    models = pytest.importorskip("mudslide.models.scattering_models", reason="to compare with")
    model = models.TullySimpleAvoidedCrossing()
    answer = diabatic(model.V, model.dV)
    options = {"method": "landau_zener", "timestep_fs": 0.25}
    ours = fly(tmp_path, answer, momentum, 4, 400, **options)
    theirs = mudslide_fly(model, momentum, 4, 400)
    assert within(ours, theirs, 400, 400, sigma=3, tolerance=0.12)


@pytest.mark.slow
def test_landau_zener_reproduces_tullys_dual_avoided_crossing_on_average(tmp_path):
    """It knows no phases between the crossings; an average over momenta washes them out."""
    models = pytest.importorskip("mudslide.models.scattering_models", reason="to compare with")
    model = models.TullyDualAvoidedCrossing()
    answer = diabatic(model.V, model.dV)
    momenta, each = np.linspace(18, 36, 19), 20
    options = {"method": "landau_zener", "timestep_fs": 0.25}
    pairs = [
        (
            fly(tmp_path, answer, momentum, 6, each, seed=int(momentum), **options),
            mudslide_fly(model, momentum, 6, each, seed=int(momentum)),
        )
        for momentum in momenta
    ]
    ours, theirs = np.mean(pairs, axis=0)
    assert within(ours, theirs, 19 * each, 19 * each, sigma=3, tolerance=0.05)


def test_the_published_probability_is_landau_and_zeners():
    """exp(-pi / 2 hbar sqrt(Z^3 / Z'')) = exp(-2 pi V^2 / (hbar rate)) of a linear crossing."""
    coupling, rate, dt = 0.02, 0.8, 1e-4  # eV, eV per time
    times = dt * np.array([-1.0, 0.0, 1.0])
    gaps = np.sqrt((rate * times) ** 2 + 4 * coupling**2)
    probability = hopping.landau_zener(*gaps, dt)
    exact = np.exp(-2 * np.pi * coupling**2 / (hopping.HBAR * rate))
    assert probability == pytest.approx(exact, rel=1e-3)
    assert hopping.landau_zener(*gaps[[1, 0, 2]], dt) == 0.0
    assert hopping.landau_zener(gaps[1], gaps[1], gaps[2], dt) == 0.0


def test_couplings_of_a_linear_crossing_are_exact_at_all_times():
    """T = coupling * rate / Z^2, the rate of the mixing angle; antisymmetric."""
    coupling, rate, dt = 0.02, 0.8, 1e-3
    for middle in (-0.05, 0.0, 0.02):
        times = middle + dt * np.array([-0.5, 0.5])
        gaps = np.sqrt((rate * times) ** 2 + 4 * coupling**2)
        speeds = rate**2 * times / gaps
        energies = tuple(np.array([0.0, gap]) for gap in gaps)
        rates = tuple(np.array([0.0, speed]) for speed in speeds)
        found = hopping.couplings(energies, rates, dt)
        exact = coupling * rate / ((rate * middle) ** 2 + 4 * coupling**2)
        np.testing.assert_allclose(found, exact * np.array([[0, -1], [1, 0]]), rtol=2e-3)


def test_amplitudes_keep_their_norm_and_hazards_are_what_leaves():
    rng = np.random.default_rng(3)
    energies = np.sort(rng.normal(0, 1, (2, 3)))
    coupling = rng.normal(0, 0.3, (3, 3))
    coupling -= coupling.T
    moment = moment_of(energies[0], amplitudes=np.array([0.6, 0.8j, 0.0]))
    after, hazards = hopping.propagated(moment, energies[1], coupling, 0.1, 400)
    assert np.linalg.norm(after) == pytest.approx(1.0, abs=1e-12)
    assert hazards.min() >= 0
    assert hazards[moment.active] == 0
    one_state = hopping.propagated(
        moment_of(energies[0], hopping.pure(3, 1)), energies[1], coupling, 1e-3, 10
    )
    lost = 1 - abs(one_state[0][1]) ** 2
    assert one_state[1].sum() == pytest.approx(lost, rel=0.01)


def moment_of(energies, amplitudes, active=1):
    states = len(energies)
    nowhere, forces = np.zeros((1, 3)), np.zeros((states, 1, 3))
    return hopping.Moment(
        0, nowhere, nowhere, active, amplitudes, energies, forces, None, ((0, active),), 0.0
    )


def test_decoherence_damps_the_other_states_and_keeps_the_norm():
    amplitudes = np.array([0.6, 0.8j])
    energies, dt = np.array([0.0, 1.0]), 0.05
    damped = hopping.decohered(amplitudes, energies, 1, 0.5, dt, 2.7211)
    lifetime = hopping.HBAR / 1.0 * (1 + 2.7211 / 0.5)
    assert abs(damped[0]) == pytest.approx(0.6 * np.exp(-dt / lifetime))
    assert np.linalg.norm(damped) == pytest.approx(1.0)
    assert np.angle(damped[1]) == pytest.approx(np.pi / 2)
    at_rest = hopping.decohered(amplitudes, energies, 1, 0.0, dt, 2.7211)
    np.testing.assert_allclose(at_rest, amplitudes)


@pytest.mark.parametrize("along", [None, "random"])
def test_a_hop_conserves_energy_and_its_reverse_restores_the_velocities(along):
    rng = np.random.default_rng(1)
    masses = rng.uniform(1, 16, (4, 1))
    velocities, direction = rng.normal(0, 0.3, (2, 4, 3))
    direction = None if along is None else direction
    before = hopping.kinetic(velocities, masses)
    after = hopping.rescaled(velocities, masses, 0.02, direction)
    assert hopping.kinetic(after, masses) == pytest.approx(before - 0.02, abs=1e-12)
    back = hopping.rescaled(after, masses, -0.02, direction)
    np.testing.assert_allclose(back, velocities, atol=1e-12)
    assert hopping.rescaled(velocities, masses, 100.0, direction) is None
    turned = hopping.turned(velocities, masses, direction)
    assert hopping.kinetic(turned, masses) == pytest.approx(before, abs=1e-12)
    assert not np.allclose(turned, velocities)
    resting = np.zeros((4, 3))
    assert hopping.rescaled(resting, masses, -0.02) is None
    np.testing.assert_array_equal(hopping.turned(resting, masses), resting)


def test_hazards_become_probabilities_and_a_number_picks_one():
    probabilities = hopping.from_hazards(np.array([0.2, 0.0, 3.0]))
    assert probabilities.sum() == pytest.approx(1 - np.exp(-3.2))
    assert probabilities[2] / probabilities[0] == pytest.approx(15)
    assert hopping.drawn(np.array([0.2, 0.0, 0.5]), 0.1) == 0
    assert hopping.drawn(np.array([0.2, 0.0, 0.5]), 0.3) == 2
    assert hopping.drawn(np.array([0.2, 0.0, 0.5]), 0.8) is None
    np.testing.assert_array_equal(hopping.from_hazards(np.zeros(2)), 0.0)


SPRING, SLOPE, GAP, HEAT = 1.0, 0.5, 0.03, 0.2
"""Two displaced harmonic wells that cross at x = 0: eV/Å^2, eV/Å, eV, and kT in eV."""


def wells(x):
    """Adiabatic energies (2, ...) and forces along x."""
    half = np.hypot(SLOPE * x, GAP)
    bent = SLOPE**2 * x / half
    parabola = 0.5 * SPRING * x**2
    return np.array([parabola - half, parabola + half]), np.array(
        [-SPRING * x + bent, -SPRING * x - bent]
    )


def in_wells(sample, trusted=True, version=0):
    """An atom in the wells along x and in a spring along y and z."""
    place = sample["positions"][0]
    energies, along = wells(place[0])
    forces = np.tile(-SPRING * place, (2, 1))
    forces[:, 0] = along
    rest = 0.5 * SPRING * (place[1:] ** 2).sum()
    return said(energies + rest, forces, trusted, version)


def warm(tmp_path, state, count):
    """Write atoms in thermal equilibrium in one state."""
    rng = np.random.default_rng(state)
    grid = np.linspace(-3, 3, 3001)
    weights = np.exp(-(wells(grid)[0][state] + 1) / HEAT)
    atoms = []
    for x in rng.choice(grid, count, p=weights / weights.sum()):
        place = [[x, *rng.normal(0, np.sqrt(HEAT / SPRING), 2)]]
        atom = Atoms("H", place, masses=[2.0])
        atom.set_momenta(rng.normal(0, np.sqrt(2.0 * HEAT), (1, 3)))
        atoms.append(atom)
    path = tmp_path / "warm.xyz"
    write(path, atoms, format="extxyz")
    return path


def run(walker, answer=in_wells, steps=100_000):
    """Let it walk until it stops; return the samples."""
    samples, sample = [], walker.step(None)
    while sample is not STOP and len(samples) < steps:
        samples.append(sample)
        sample = walker.step(answer(sample))
    return samples


@pytest.mark.parametrize(
    ("method", "count", "tolerance"),
    [
        ("landau_zener", 240, 0.15),
        pytest.param("curvature", 800, 0.5, marks=pytest.mark.slow),
    ],
)
def test_hops_are_in_detailed_balance(tmp_path, method, count, tolerance):
    """In equilibrium as many trajectories go up as down, within 3 sigma and the tolerance.

    Trajectories begin with Boltzmann's distribution of a state, at constant energy; what ends in
    the other state is counted. Fewest switches are known to keep the balance only roughly.
    """
    grid = np.linspace(-3, 3, 3001)
    weights = np.exp(-(wells(grid)[0] + 1) / HEAT).sum(axis=1)
    share = weights / weights.sum()
    flux, error = np.empty(2), np.empty(2)
    for state in (0, 1):
        folder = tmp_path / str(state)
        folder.mkdir()
        walker = SurfaceHopping(
            Context("generator", 0, 1, state + 1, folder),
            start=warm(folder, state, count),
            initial_state=state,
            method=method,
            substeps=5,
            max_time_fs=30.0,
            trajectories=count,
        )
        run(walker)
        final = [record["visits"][-1][1] for record in recorded(folder / FILE)]
        assert len(final) == count
        left = np.mean(np.array(final) != state)
        flux[state] = share[state] * left
        error[state] = share[state] * np.sqrt(left * (1 - left) / count)
    assert flux.min() > 0.05
    assert abs(flux[0] - flux[1]) < 3 * np.hypot(*error) + tolerance * flux.min()


@pytest.fixture
def make(context, tmp_path):
    """Make a walker in the wells that will hop soon."""
    atoms = Atoms("H", [[0.8, 0.1, 0.0]], masses=[2.0])
    atoms.info["charge"] = 1.0
    atoms.set_momenta([[-0.2, 0.1, 0.3]])
    other = atoms.copy()
    other.positions += 0.05
    write(tmp_path / "start.xyz", [atoms, other], format="extxyz")

    def build(index=0, **options):
        return SurfaceHopping(context(index), start=tmp_path / "start.xyz", **options)

    return build


@pytest.mark.parametrize("method", ["curvature", "landau_zener"])
def test_keeps_the_contract(make, method):
    options = {"method": method, "max_time_fs": 20.0, "patience": 3}
    check_generator(lambda: make(**options), in_wells, 60)
    check_generator(lambda: make(**options), lambda s: in_wells(s, trusted=False), 60)
    check_generator(lambda: make(velocities="thermal", **options), in_wells, 60)


@pytest.mark.parametrize("method", ["curvature", "landau_zener"])
@pytest.mark.parametrize("rescale", ["gradient_difference", "velocity"])
def test_conserves_the_energy_through_hops(make, method, rescale):
    walker = make(method=method, rescale=rescale, timestep_fs=0.1, max_time_fs=60.0, substeps=5)
    sample, energies, hops = walker.step(None), [], 0
    for _ in range(590):
        sample = walker.step(in_wells(sample))
        here = walker.get_state()["here"]
        energies.append(hopping.kinetic(here.velocities, np.array([[2.0]])))
        energies[-1] += here.energies[here.active]
        hops = len(here.visits) - 1
        assert np.linalg.norm(here.amplitudes) == pytest.approx(1.0, abs=1e-9)
    assert hops > 0
    assert np.ptp(energies) < 2e-3


def test_goes_on_bit_for_bit_after_a_restart(make):
    walker, other = make(0), make(1)
    walk = run(walker, steps=90)
    other.set_state(pickle.loads(pickle.dumps(walker.get_state())))
    present = walker.step(None)
    assert np.array_equal(other.step(None)["positions"], present["positions"])
    assert present["charge"] == 1.0
    assert set(walk[0]) == {"positions", "numbers", "charge"}
    for _ in range(60):
        answer = in_wells(present)
        present, theirs = walker.step(answer), other.step(answer)
        assert np.array_equal(theirs["positions"], present["positions"])


def test_trajectories_begin_at_the_frames_in_turn_and_leave_a_record(make, tmp_path):
    walker = make(1, max_time_fs=10.0, trajectories=2)
    samples = run(walker)
    assert len(samples) == 42
    np.testing.assert_allclose(samples[0]["positions"], [[0.85, 0.15, 0.05]])
    np.testing.assert_allclose(samples[21]["positions"], [[0.85, 0.15, 0.05]])
    assert walker.step(None) is STOP
    found = recorded(tmp_path / FILE)
    assert [each["end"] for each in found] == ["finished", "finished"]
    assert found[0]["visits"][0] == [0.0, 1]
    assert found[0]["fs"] == 10.0
    np.testing.assert_allclose(run(make(0), steps=1)[0]["positions"], [[0.8, 0.1, 0.0]])


def test_begins_with_the_velocities_it_is_told_to(make):
    speeds = {
        kind: make(velocities=kind, temperature_K=500.0).get_state()["fresh"]
        for kind in ("file", "thermal", "zero")
    }
    np.testing.assert_allclose(speeds["file"], [[-0.1, 0.05, 0.15]], atol=1e-8)
    assert not speeds["zero"].any()
    assert speeds["thermal"].any()
    walker = make(velocities="thermal", temperature_K=500.0, max_time_fs=0.5)
    drawn = []
    for _ in range(400):
        drawn.append(walker.get_state()["fresh"])
        run(walker, steps=2)
    assert np.mean(np.square(drawn)) * 2.0 / units.kB == pytest.approx(500.0, rel=0.15)


def test_states_that_cross_are_put_in_order(make):
    """A model may swap its states; the adiabatic ones do not."""

    def swapped(sample):
        right = in_wells(sample)
        flip = sample["positions"][0, 0] < 0.5
        return right._replace(
            mean={name: array[::-1] if flip else array for name, array in right.mean.items()}
        )

    ordered, mixed = run(make(), steps=60), run(make(), swapped, 60)
    for one, other in zip(ordered, mixed, strict=True):
        assert np.array_equal(one["positions"], other["positions"])


@pytest.mark.parametrize(("frustrated", "sign"), [("keep", 1), ("reverse", -1)])
def test_a_hop_that_costs_too_much_does_not_happen(make, frustrated, sign):
    walker = make(initial_state=0, frustrated=frustrated)
    sample = walker.step(None)
    walker.step(in_wells(sample))
    here = walker.get_state()["here"]
    after = walker._switch(here, 1)
    assert after.active == 0
    assert after.visits == here.visits
    assert after.velocities[0, 0] == pytest.approx(sign * here.velocities[0, 0])


def test_waits_with_patience_then_goes_back_then_begins_anew(make, tmp_path):
    walker = make(patience=3, returns=1, max_time_fs=1000.0)
    trusted = run(walker, steps=10)
    lost = [walker.step(in_wells(trusted[-1]))]
    for _ in range(6):
        lost.append(walker.step(in_wells(lost[-1], trusted=False)))
    places = [sample["positions"][0, 0] for sample in lost]
    assert places[3] == places[0]
    home = run(make(), steps=1)[0]["positions"][0, 0]
    assert places[6] == pytest.approx(home)
    assert [each["end"] for each in recorded(tmp_path / FILE)] == ["untrusted"]


def test_a_trajectory_that_gains_energy_begins_anew(make, tmp_path):
    walker = make(max_drift_eV=0.05)
    sample = run(walker, steps=10)[-1]
    raised = in_wells(sample)
    raised.mean["energies"] += 1.0
    walker.step(raised)
    assert [each["end"] for each in recorded(tmp_path / FILE)] == ["drift"]


def test_new_models_may_move_the_energy(make, tmp_path):
    walker = make(max_drift_eV=0.05)
    sample = walker.step(None)
    for version in (0, 0, 0, 1, 1, 2, 2):
        answer = in_wells(sample, version=version)
        answer.mean["energies"] += 3.0 * version
        sample = walker.step(answer)
    assert not (tmp_path / FILE).exists()
    assert walker.get_state()["here"].step == 6


def test_populations_are_averaged_over_finished_trajectories(tmp_path):
    lines = [
        {"trajectory": 0, "end": "finished", "states": 2, "fs": 9.0, "visits": [[0.0, 1]]},
        {"trajectory": 1, "end": "untrusted", "states": 2, "fs": 3.0, "visits": [[0.0, 1]]},
        {"trajectory": 2, "end": "drift", "states": 2, "fs": 9.0, "visits": [[0.0, 1]]},
        {
            "trajectory": 2,
            "end": "finished",
            "states": 2,
            "fs": 4.0,
            "visits": [[0.0, 1], [2.0, 0]],
        },
    ]
    for walker in ("generator-0", "generator-1"):
        folder = tmp_path / walker
        folder.mkdir()
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / FILE).write_text(text + '\n{"trajectory": 5, "en')
    result = populations(tmp_path, [0.0, 1.0, 2.0, 6.0, 20.0])
    np.testing.assert_allclose(result.mean[:4, 1], [1.0, 1.0, 0.5, 1.0])
    assert result.error[2, 0] == pytest.approx(0.25)
    np.testing.assert_array_equal(result.trajectories, [4, 4, 4, 2, 0])
    assert np.isnan(result.mean[4]).all()
    assert result.abandoned == 2
    with pytest.raises(ContractError, match="none of them finished"):
        populations([tmp_path / "elsewhere"], [0.0])


def test_a_line_cut_short_by_a_crash_spoils_no_other(make, tmp_path):
    (tmp_path / FILE).write_text('{"trajectory": 0, "end": "fin')
    run(make(max_time_fs=1.0, trajectories=1))
    assert [each["end"] for each in recorded(tmp_path / FILE)] == ["finished"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ehrenfest"}, "method = 'ehrenfest' is not known"),
        ({"velocities": "fast"}, "expected file or thermal or zero"),
        ({"decoherence": "yes"}, "decoherence = 'yes'"),
        ({"rescale": "x"}, "rescale = 'x'"),
        ({"frustrated": "x"}, "frustrated = 'x'"),
        ({"initial_state": -1}, "initial_state >= 0"),
        ({"substeps": 0}, "substeps >= 1"),
        ({"returns": -1}, "returns >= 0"),
        ({"trajectories": 0}, "trajectories >= 1"),
        ({"timestep_fs": 0.0}, "timestep_fs > 0"),
        ({"max_time_fs": 0.1}, "max_time_fs >= timestep_fs"),
        ({"patience": 0}, "patience >= 1"),
        ({"min_distance": 2.0}, "min_distance"),
    ],
)
def test_bad_options_are_refused(make, options, message):
    with pytest.raises(ContractError, match=message):
        make(**options)


def test_a_start_that_is_not_there_is_named(context):
    with pytest.raises(KernelImportError, match=r"cannot read start = 'nowhere\.xyz'"):
        SurfaceHopping(context(), start="nowhere.xyz")


def test_velocities_that_are_not_in_the_file_are_missed(context, tmp_path):
    write(tmp_path / "rest.xyz", Atoms("H", [[0.8, 0.1, 0.0]]), format="extxyz")
    with pytest.raises(ContractError, match=r"has no momenta; .*velocities = \"thermal\""):
        SurfaceHopping(context(), start=tmp_path / "rest.xyz")
    SurfaceHopping(context(), start=tmp_path / "rest.xyz", velocities="zero")


def test_models_of_other_kinds_are_refused(make):
    walker = make(initial_state=2)
    sample = walker.step(None)
    with pytest.raises(ContractError, match="at least 3 states"):
        walker.step(in_wells(sample))
    with pytest.raises(ContractError, match="got \\['forces'\\]"):
        walker.step(Feedback({"forces": np.zeros((1, 3))}, {}, 0.0, True, 0))
    with pytest.raises(ContractError, match="a bare array"):
        walker.step(Feedback(np.zeros(3), {}, 0.0, True, 0))


class Knowing:
    """A member that knows the wells."""

    def predict(self, samples):
        return [in_wells(sample).mean for sample in samples]


def test_a_campaign_leaves_populations(make, tmp_path):
    make()
    summary = pal.Campaign(
        generator={
            "kernel": "surface_hopping",
            "walkers": 3,
            "hosts": 1,
            "options": {
                "start": str(tmp_path / "start.xyz"),
                "method": "landau_zener",
                "velocities": "thermal",
                "max_time_fs": 20.0,
                "trajectories": 5,
            },
        },
        model={"kernel": Knowing, "members": 2, "train": False},
        oracle={"kernel": in_wells, "enabled": False},
        selector={
            "kernel": "deviation",
            "options": {"threshold": 0.1, "field": "state_forces"},
        },
        directory=tmp_path / "run",
        stop={"final_training": 0, "after": 60},
    ).run()
    assert "asked to stop" in summary.reason
    result = populations(tmp_path / "run", [0.0, 20.0])
    assert result.trajectories[0] >= 5
    np.testing.assert_allclose(result.mean[0], [0.0, 1.0])
    assert result.mean[1, 0] > 0
