"""The photodynamics example: its physics in small, and its pieces."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.io import read
from ase.neighborlist import natural_cutoffs, neighbor_list

from pal.catalogue import check_options
from pal.kernels.generators.populations import recorded
from pal.ledger.export import read_labelled
from pal.runtime.campaign import Campaign
from pal.settings import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "photodynamics"
CALM = 0.4
"""eV/Å that the forces of a molecule may sum up to, through a coarse grid of integration."""


@pytest.fixture
def script(monkeypatch):
    """Import a module of the example's folder, and forget it afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield import_module
    for name in set(sys.modules) - before:
        if str(EXAMPLE) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Run the small version, once."""
    directory = tmp_path_factory.mktemp("photodynamics") / "run"
    overrides = {"directory": str(directory)}
    Campaign.from_file(EXAMPLE / "small.toml", fresh=True, overrides=overrides).run()
    return directory


@pytest.fixture(scope="module")
def summary(ended):
    return json.loads((ended / "summary.json").read_text())


@pytest.fixture(scope="module")
def labelled(ended):
    return read_labelled(ended / "dataset.npz")


def test_it_labels_what_it_is_told_to_and_little_is_refused(summary):
    """TDDFT says no to a geometry now and then, for its forces or because it does not converge."""
    assert summary["labels"] >= load(EXAMPLE / "small.toml").stop.labels
    assert summary["failed"] < summary["labels"] / 4


def test_labels_are_those_of_three_states(labelled):
    """Lowest first; the forces of each sum up to nothing, but for what the coarse grid does to
    them: a few hundredths of the largest one."""
    energies = np.array([item.label["energies"] for item in labelled])
    forces = np.array([item.label["state_forces"] for item in labelled])
    assert np.all(np.diff(energies, axis=1) >= 0)
    left = np.abs(forces.sum(axis=2)).max(axis=(1, 2))
    assert (left < 0.1 * np.abs(forces).max(axis=(1, 2, 3))).all()
    assert np.median(left) < CALM


def test_the_campaign_learns_the_surfaces(summary):
    """On geometries of surface hopping that no walker and no trainer has seen."""
    errors = [evaluation["error"] for evaluation in summary["evaluations"]]
    assert errors[-1] < 0.8 * errors[0]


def test_labels_come_from_further_away_than_the_start(labelled):
    """Beyond the vertical excitations the C-N bond of the excited molecule stretches."""
    count = load(EXAMPLE / "small.toml").initial.options["count"]
    bonds = [np.linalg.norm(np.subtract(*item.sample["positions"][:2])) for item in labelled]
    assert max(bonds[count:]) > max(bonds[:count])


def test_excited_molecules_hop_down_from_the_bright_state(ended):
    records = [record for file in ended.rglob("*.jsonl") for record in recorded(file)]
    visits = [tuple(state for _, state in record["visits"]) for record in records]
    assert all(states[0] == 2 for states in visits)
    assert any(states[:2] == (2, 1) for states in visits)


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("*.toml")), ids=lambda path: path.stem)
def test_settings_are_valid_and_their_kernels_take_these_options(path):
    settings = load(path)
    for role in ("generator", "model", "oracle", "selector"):
        section = getattr(settings, role)
        check_options(role, section.kernel, section.options)
    assert Path(settings.generator.options["start"]).suffix == ".xyz"
    assert (EXAMPLE / settings.generator.options["start"]).exists()
    assert settings.evaluation.data is None or settings.evaluation.data.exists()


def test_the_cluster_has_the_papers_sizes():
    settings = load(EXAMPLE / "cluster.toml")
    states = settings.model.options["states"]
    atoms = len(read(EXAMPLE / settings.generator.options["start"]))
    assert (settings.generator.walkers, settings.model.members, atoms) == (89, 4, 38)
    assert states * (3 * atoms + 1) == 805
    assert settings.oracle.options["states"] == states


def test_the_frames_have_the_zero_point_energy():
    """Half of it is kinetic: hbar omega / 4 a mode; 1.41 eV in all for B3LYP/6-31G*."""
    frames = [*read(EXAMPLE / "excited.xyz", ":"), *read(EXAMPLE / "apart.xyz", ":")]
    kinetic = [frame.get_kinetic_energy() for frame in frames]
    error = np.std(kinetic) / np.sqrt(len(kinetic))
    assert abs(np.mean(kinetic) - 1.41 / 2) < 3 * error


def test_wigner_frames_share_the_energy_between_position_and_momentum(script):
    """Of an oscillator of two atoms: k x^2 / 2 = m v^2 / 2 = hbar omega / 4 on the mean."""
    wigner = script("truth").wigner
    atoms = read(EXAMPLE / "methaniminium.xyz")[:2]
    stiffness = 40.0  # eV/Å^2
    along = np.zeros((2, 3))
    along[:, 2] = (1, -1)
    atoms.positions = 0.64 * along
    hessian = stiffness * np.outer(along.ravel(), along.ravel())
    frames = list(wigner(atoms, hessian, 400, kelvin=0.0, seed=3))
    mass = 1 / np.sum(1 / atoms.get_masses())
    quantum = units._hbar * units.J * units.s * np.sqrt(stiffness / mass)
    stretch = [frame.get_distance(0, 1) - atoms.get_distance(0, 1) for frame in frames]
    kinetic = [frame.get_kinetic_energy() for frame in frames]
    assert np.mean(np.square(stretch)) * stiffness / 2 == pytest.approx(quantum / 4, rel=0.2)
    assert np.mean(kinetic) == pytest.approx(quantum / 4, rel=0.2)


def test_held_out_geometries_are_none_that_the_walkers_start_with():
    starts = np.array([frame.positions for frame in read(EXAMPLE / "excited.xyz", ":")])
    for name in ("heldout.npz", "heldout-small.npz"):
        for item in read_labelled(EXAMPLE / name):
            away = np.abs(starts - item.sample["positions"]).max(axis=(1, 2))
            assert away.min() > 0.01


def test_a_direct_trajectory_is_written_as_a_walker_writes_it(script):
    """Times and states of the hops, as `populations` reads them."""
    trajectory = {
        "times_fs": np.arange(6) * 0.5,
        "active": np.array([2, 2, 1, 1, 0, 0]),
        "energies": np.zeros((6, 3)),
        "end": np.array("out of time"),
    }
    entry = script("make_heldout").hops(trajectory, 4)
    assert entry["visits"] == [[0.0, 2], [1.0, 1], [2.0, 0]]
    assert (entry["end"], entry["fs"], entry["states"]) == ("finished", 2.5, 3)


def test_the_sulfone_is_drawn_with_sensible_bonds(script):
    """Before it is relaxed: 38 atoms, nothing overlaps, carbons have three or four neighbours."""
    atoms = script("make_sulfone").sketch()
    assert atoms.get_chemical_formula() == "C19H16O2S"
    neighbours = np.bincount(neighbor_list("i", atoms, natural_cutoffs(atoms, mult=1.15)))
    assert set(neighbours[atoms.numbers == 6]) == {3, 4}
    assert set(neighbours[atoms.numbers == 1]) == {1}
    assert list(neighbours[atoms.numbers == 16]) == [4]


def test_a_direct_trajectory_goes_on_where_it_stood(script, monkeypatch):
    """What its file knows is not asked again; a file of another trajectory is refused."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    direct = script("direct")
    steps = [
        {"positions": np.full((6, 3), float(k)), "energies": np.full(3, k), "state_forces": k}
        for k in range(2)
    ]
    asked = []
    ask = direct.remembering(asked.append, steps)
    assert ask({"positions": np.zeros((6, 3))}).mean["energies"].tolist() == [0, 0, 0]
    with pytest.raises(SystemExit, match="of other trajectories"):
        ask({"positions": np.zeros((6, 3))})
    ask({"positions": np.zeros((6, 3))})
    assert len(asked) == 1
