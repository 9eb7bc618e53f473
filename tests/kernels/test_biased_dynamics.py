"""Coordinates have right slopes, springs hold, and hills fill a well until it is left."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import write
from toy_molecule import NUMBERS, RELAXED
from walking import answer, coupled, follow, lost, toy, walk

from pal.errors import ContractError
from pal.kernels.generators.biased_dynamics import BiasedDynamics
from pal.kernels.generators.parts.biases import Bias, Metadynamics, Restraint
from pal.kernels.generators.parts.coordinates import KINDS, Coordinate
from pal.records import Feedback
from pal.roles import Context
from pal.testing.checks import check_generator

CHOSEN = {
    "distance": [0, 4],
    "difference": [0, 1, 0, 4],
    "angle": [1, 0, 4],
    "dihedral": [1, 0, 4, 3],
}


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.xyz"
    write(path, Atoms(NUMBERS, RELAXED), format="extxyz")
    return path


@pytest.fixture
def make(context, start):
    def build(index=0, coordinate="distance", dynamics=None, **options):
        return BiasedDynamics(
            context(index),
            dynamics={"start": start, **(dynamics or {})},
            coordinate=coordinate,
            atoms=CHOSEN[coordinate],
            **options,
        )

    return build


BIASES = {
    "restraint": {"bias": "restraint", "centres": [1.5]},
    "moving": {"bias": "moving", "centres": [1.3, 1.7], "moving_steps": 15},
    "metadynamics": {"bias": "metadynamics", "width": 0.05, "pace": 3},
}


@pytest.mark.parametrize("options", BIASES.values(), ids=BIASES)
def test_keeps_the_contract(make, options):
    check_generator(lambda: make(**options), answer)
    check_generator(lambda: make(dynamics={"patience": 3}, **options), lost)


@pytest.mark.parametrize("integrator", ["langevin_baoab", "nose_hoover"])
@pytest.mark.parametrize("options", BIASES.values(), ids=BIASES)
def test_a_restored_walker_goes_on_bit_for_bit(make, options, integrator):
    for steps in (20, 33):
        walker = make(dynamics={"integrator": integrator}, **options)
        walk(walker, steps)
        follow(walker, make(1, dynamics={"integrator": integrator}, **options))


def slopes(coordinate, positions):
    shifts = 1e-6 * np.eye(positions.size).reshape(-1, *positions.shape)
    values = [
        coordinate.apart(
            coordinate.measure(positions + s)[0], coordinate.measure(positions - s)[0]
        )
        for s in shifts
    ]
    return np.reshape(values, positions.shape) / 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind):
    rng = np.random.default_rng(1)
    coordinate = Coordinate(kind, CHOSEN[kind], toy(), "test")
    for _ in range(20):
        positions = rng.normal(0, 1.5, (5, 3))
        _, gradient = coordinate.measure(positions)
        np.testing.assert_allclose(gradient, slopes(coordinate, positions), atol=2e-7)


def test_values_are_those_of_ase():
    atoms = Atoms("H5", np.random.default_rng(2).normal(0, 1.5, (5, 3)))
    value = {
        kind: Coordinate(kind, CHOSEN[kind], atoms, "test").measure(atoms.positions)[0]
        for kind in KINDS
    }
    lengths = [atoms.get_distance(0, 1), atoms.get_distance(0, 4)]
    assert value["distance"] == pytest.approx(lengths[1])
    assert value["difference"] == pytest.approx(lengths[0] - lengths[1])
    assert np.degrees(value["angle"]) == pytest.approx(atoms.get_angle(1, 0, 4))
    turn = np.degrees(value["dihedral"]) - atoms.get_dihedral(1, 0, 4, 3)
    assert turn % 360 == pytest.approx(0, abs=1e-9) or turn % 360 == pytest.approx(360)


def test_in_a_cell_distances_go_the_short_way():
    atoms = Atoms("H2", [[0.5, 0, 0], [9.5, 0, 0]], cell=[10, 10, 10], pbc=True)
    value, gradient = Coordinate("distance", [0, 1], atoms, "test").measure(atoms.positions)
    assert value == pytest.approx(1.0)
    np.testing.assert_allclose(gradient[1], [-1, 0, 0])


@pytest.mark.parametrize("positions", [[0, 1, 2], [0, 1, 0.5]])
def test_atoms_in_a_line_give_finite_gradients(positions):
    line = np.zeros((4, 3))
    line[:3, 0], line[3, 0] = positions, 3.0
    atoms = Atoms("H4", line)
    for kind, indices in (("angle", [0, 1, 2]), ("dihedral", [0, 1, 2, 3])):
        assert np.isfinite(Coordinate(kind, indices, atoms, "test").measure(line)[1]).all()


def test_dihedrals_differ_by_the_shorter_way_around():
    coordinate = Coordinate("dihedral", CHOSEN["dihedral"], toy(), "test")
    away = coordinate.apart(np.radians(170.0), np.radians([-170.0, 90.0]))
    np.testing.assert_allclose(np.degrees(away), [-20, 80])


def metadynamics(tmp_path, kind="dihedral", **options):
    coordinate = Coordinate(kind, CHOSEN[kind], toy(), "test")
    given = {"height": 0.1, "width": 0.3, "pace": 1, "bias_factor": 5.0, "temperature_K": 300.0}
    return coordinate, Metadynamics(coordinate, **{**given, **options}, file=tmp_path / "hills")


def test_the_forces_of_a_bias_are_minus_its_gradient(tmp_path):
    coordinate, law = metadynamics(tmp_path)
    for value in (3.0, -3.1, 2.5):
        law.grow(value, 1)
    spring = Restraint(coordinate, 2.0, np.array([-3.0]), 1)
    positions = RELAXED + np.random.default_rng(3).normal(0, 0.3, RELAXED.shape)
    for bias in (Bias(coordinate, law), Bias(coordinate, spring)):
        _, forces = bias.pull(positions)
        shifts = 1e-6 * np.eye(15).reshape(-1, 5, 3)
        numeric = [
            (bias.pull(positions - s)[0] - bias.pull(positions + s)[0]) / 2e-6 for s in shifts
        ]
        np.testing.assert_allclose(forces, np.reshape(numeric, (5, 3)), atol=1e-7)
        np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-12)


def test_tempered_hills_shrink_as_the_bias_grows(tmp_path):
    _, law = metadynamics(tmp_path)
    heights = []
    for clock in range(1, 6):
        before, _ = law.pull(0.0, clock)
        law.grow(0.0, clock)
        heights.append(law.pull(0.0, clock)[0] - before)
        expected = 0.1 * np.exp(-before / (units.kB * 300.0 * 4))
        assert heights[-1] == pytest.approx(expected)
    assert heights[-1] < 0.5 * heights[0]
    _, endless = metadynamics(tmp_path, bias_factor=np.inf)
    for clock in range(3):
        endless.grow(0.0, clock)
    assert endless.pull(0.0, 3)[0] == pytest.approx(0.3)


def test_a_spring_moves_along_its_path_and_back():
    coordinate = Coordinate("distance", [0, 1], toy(), "test")
    spring = Restraint(coordinate, 1.0, np.array([1.0, 2.0, 5.0]), 100)
    there = [spring.centre(clock) for clock in (0, 25, 50, 100, 150, 200, 225)]
    np.testing.assert_allclose(there, [1.0, 2.0, 3.0, 5.0, 3.0, 1.0, 2.0])


def nothing(sample):
    return Feedback({"forces": np.zeros((5, 3))}, {}, 0.0, True, 0)


def test_each_window_has_the_width_of_its_spring(make):
    """Two atoms on nothing but the spring: variance k_B T / stiffness about its centre."""
    found = []
    for index in range(2):
        walker = make(
            index,
            bias="restraint",
            centres=[2.5, 3.5],
            stiffness=8.0,
            dynamics={"friction_per_ps": 100.0, "temperatures_K": [300.0]},
        )
        samples = walk(walker, 4000, nothing)[500:]
        found.append([np.linalg.norm(s["positions"][4] - s["positions"][0]) for s in samples])
    np.testing.assert_allclose(np.mean(found, axis=1), [2.5, 3.5], atol=0.02)
    spread = np.std(found, axis=1) ** 2 * 8.0 / units.kB
    np.testing.assert_allclose(spread, 300, rtol=0.2)


def test_energy_is_conserved_with_that_of_the_spring(make):
    dynamics = {"integrator": "verlet", "timestep_fs": 0.25, "temperatures_K": [300.0]}
    walker = make(
        coordinate="dihedral", bias="restraint", centres=[150.0], stiffness=3.0, dynamics=dynamics
    )
    positions = np.array(
        [s["positions"] for s in walk(walker, 1200, lambda s: answer(s, coupled))[1:]]
    )
    coordinate = Coordinate("dihedral", CHOSEN["dihedral"], toy(), "test")
    bias = Bias(coordinate, Restraint(coordinate, 3.0, np.radians([150.0]), 1))
    velocities = (positions[2:] - positions[:-2]) / (2 * 0.25 * units.fs)
    kinetic = 0.5 * (toy().get_masses()[:, None] * velocities**2).sum(axis=(1, 2))
    springs = np.array([bias.pull(p)[0] for p in positions[1:-1]])
    bare = kinetic + np.array([coupled(p)[0] for p in positions[1:-1]])
    assert np.ptp(springs) > 0.1
    assert np.ptp(bare + springs) < 0.03 * np.ptp(bare)


BARRIER, NEAR, FAR = 0.5, 1.2, 2.4


def double_well(sample):
    """Two atoms with minima at two distances and a barrier of half an electronvolt."""
    positions = sample["positions"]
    arm = positions[1] - positions[0]
    length = np.linalg.norm(arm)
    middle, half = (NEAR + FAR) / 2, (FAR - NEAR) / 2
    x = (length - middle) / half
    slope = BARRIER * 4 * x * (x**2 - 1) / half
    energy = BARRIER * (x**2 - 1) ** 2
    forces = np.array([1.0, -1.0])[:, None] * slope * arm / length
    return Feedback({"energy": np.array(energy), "forces": forces}, {}, 0.0, True, 0)


def lengths(walker, steps):
    samples = walk(walker, steps, double_well)
    return np.array([np.linalg.norm(s["positions"][1] - s["positions"][0]) for s in samples])


@pytest.fixture
def pair(context, tmp_path):
    write(tmp_path / "pair.xyz", Atoms("O2", [[0, 0, 0], [NEAR, 0, 0]]), format="extxyz")
    dynamics = {"start": tmp_path / "pair.xyz", "temperatures_K": [300.0], "timestep_fs": 2.0}
    hills = {"height": 0.04, "width": 0.08, "pace": 15, "bias_factor": 15.0}
    return lambda **options: BiasedDynamics(
        context(), dynamics=dynamics, coordinate="distance", atoms=[0, 1], **{**hills, **options}
    )


def test_metadynamics_leaves_a_well_that_dynamics_does_not(pair, tmp_path):
    """Twenty thermal energies high; and the hills show how deep the well was."""
    free = lengths(pair(height=1e-9), 2000)
    assert free.max() < 1.6
    (tmp_path / "hills.txt").unlink()
    biased = lengths(pair(), 3000)
    assert biased.max() > FAR
    crossing = np.argmax(biased > (NEAR + FAR) / 2)
    _, centres, widths, heights = np.loadtxt(tmp_path / "hills.txt")[: crossing // 15].T
    filled = (heights * np.exp(-0.5 * ((NEAR - centres) / widths) ** 2)).sum()
    assert 0.6 * BARRIER < filled < 1.2 * BARRIER


def test_hills_are_written_once_in_spite_of_a_restart(pair, tmp_path):
    walker = pair()
    walk(walker, 100, double_well)
    other = pair()
    other.set_state(walker.get_state())
    walk(other, 100, double_well)
    head, *rows = (tmp_path / "hills.txt").read_text().splitlines()
    assert head.startswith("# number centre width height")
    assert [int(row.split()[0]) for row in rows] == list(range(len(rows)))
    assert len(rows) >= 11


def test_a_lost_walker_takes_the_spring_back_with_it(make):
    """Untrusted beyond 1.6 Å: it returns there with the spring's centre of that moment."""

    def reply(sample):
        length = np.linalg.norm(sample["positions"][4] - sample["positions"][0])
        return nothing(sample)._replace(trusted=bool(length < 1.6))

    walker = make(
        bias="moving",
        centres=[1.3, 3.0],
        moving_steps=300,
        stiffness=20.0,
        dynamics={"patience": 5, "temperatures_K": [100.0], "friction_per_ps": 50.0},
    )
    samples = walk(walker, 600, reply)
    away = [np.linalg.norm(s["positions"][4] - s["positions"][0]) for s in samples]
    assert 1.6 < max(away) < 1.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamics": {"strt": "x"}}, r"dynamics: unknown option 'strt'; did you mean 'start'"),
        ({"bias": "push"}, r"expected bias = 'restraint', 'moving' or 'metadynamics'; got 'push'"),
        ({"bias": "restraint"}, r"'restraint' needs 1 or more centres"),
        ({"bias": "moving", "centres": [1.0]}, r"'moving' needs 2 or more centres"),
        ({"bias": "restraint", "centres": [1.0], "stiffness": 0.0}, r"stiffness > 0"),
        ({}, r"metadynamics needs height > 0 \(eV\), width > 0 \(Å\)"),
        ({"width": 0.1, "bias_factor": 1.0}, r"bias_factor > 1"),
    ],
)
def test_biases_that_make_no_sense_are_refused(make, options, message):
    with pytest.raises(ContractError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("kind", "indices", "message"),
    [
        ("height", [0, 1], "coordinate = 'height' is not known; expected one of distance"),
        ("distance", [0, 1, 2], "'distance' needs 2 indices of different atoms from 0 to 4"),
        ("distance", [3, 3], "indices of different atoms"),
        ("angle", [0, 1, 5], r"got atoms = \[0, 1, 5\]"),
    ],
)
def test_coordinates_of_nothing_are_refused(tmp_path, start, kind, indices, message):
    with pytest.raises(ContractError, match=message):
        BiasedDynamics(
            Context("generator", 0, 1, 0, tmp_path),
            dynamics={"start": start},
            coordinate=kind,
            atoms=indices,
            width=1.0,
        )
