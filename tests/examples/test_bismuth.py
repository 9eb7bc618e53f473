"""The bismuth example: what it learns in small, and that its data are what they say."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from pal.catalogue import check_options
from pal.kernels.atoms import read_samples
from pal.kernels.oracles.pyscf import PySCF
from pal.kernels.oracles.xtb import Xtb
from pal.ledger.export import read_labelled
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.settings import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "bismuth"
SETTINGS = sorted(EXAMPLE.glob("*.toml"))
LEFT_OUT = 6
SMALLER = {(size, charge) for size in (2, 3) for charge in (-1, 0, 1)}
SYSTEMS = {(size, charge) for size in (4, 5, 7, 8) for charge in (-1, 0, 1)}


@pytest.fixture
def analyse(monkeypatch):
    """The example's own module, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield import_module("analyse")
    sys.modules.pop("analyse", None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the small version, once."""
    directory = tmp_path_factory.mktemp("bismuth") / "run"
    changes = {"directory": str(directory)}
    Campaign.from_file(EXAMPLE / "small.toml", fresh=True, overrides=changes).run()
    return directory


@pytest.fixture(scope="module")
def labelled(run):
    return read_labelled(run / "dataset.extxyz")


def test_all_sizes_and_charges_are_explored_at_once(run, labelled):
    summary = json.loads((run / "summary.json").read_text())
    chosen = labelled[load(EXAMPLE / "small.toml").initial.options["count"] :]
    found = {(len(item.sample["numbers"]), int(item.sample["charge"])) for item in chosen}
    assert summary["failed"] <= 3  # where GFN1-xTB does not converge
    assert len(chosen) >= 40
    assert found <= SYSTEMS
    assert {charge for _, charge in found} == {-1, 0, 1}
    assert {size for size, _ in found} == {4, 5, 7, 8}


def test_labels_are_those_of_the_charged_clusters(labelled):
    oracle = Xtb(method="GFN1-xTB", restart=False)
    for item in labelled[::25]:
        again = oracle.label(item.sample)
        assert float(item.label["energy"]) == pytest.approx(float(again["energy"]), abs=1e-3)


def test_errors_fall_for_what_was_seen_and_for_the_size_left_out(run, analyse, tmp_path, capsys):
    settings = load(EXAMPLE / "small.toml")
    data = read_labelled(settings.evaluation.data)
    stages = {
        stage: analyse.errors(analyse.Learned(settings, folder), data)
        for stage, folder in analyse.versions(run).items()
    }
    before, after = (stages[stage] for stage in analyse.STAGES)
    assert before.keys() == after.keys() == SYSTEMS | {(LEFT_OUT, q) for q in (-1, 0, 1)}

    def forces(found, wanted):
        return np.mean([found[key].forces for key in found if (key.size == LEFT_OUT) == wanted])

    for left_out in (False, True):
        assert forces(after, left_out) < 0.9 * forces(before, left_out)
    # Electron affinities and ionisation energies are eV; the charge is an input that counts.
    assert max(error.energy for error in after.values()) < 300

    analyse.print_errors(stages, {4, 5, 7, 8})
    analyse.draw(stages, {4, 5, 7, 8}, tmp_path / "errors.svg")
    assert "Bi6, left out | +1" in capsys.readouterr().out
    assert (tmp_path / "errors.svg").stat().st_size > 10_000


def test_dynamics_on_what_was_learned_stay_whole(run, analyse, capsys):
    """The lowest isomers, for half a picosecond at room temperature."""
    starts = read_samples(EXAMPLE / "bi4-bi8.xyz")[:12]
    learned = analyse.Learned(load(EXAMPLE / "small.toml"), analyse.versions(run)["improved"])
    journey = analyse.travel(learned, starts, 0.5, [300.0])
    assert (journey.lived_ps == 0.5).mean() > 0.9
    assert np.nanmedian(np.abs(journey.drift)) < 0.005  # eV an atom
    analyse.print_dynamics(dict.fromkeys(analyse.STAGES, journey), {4, 5, 7, 8})
    assert "| Bi8 | " in capsys.readouterr().out


def test_a_cluster_that_fell_apart_is_not_intact(analyse):
    whole = {"positions": np.diag([3.0, 3.0, 3.0]), "numbers": np.full(3, 83)}
    calm = {"forces": np.zeros((3, 3))}
    assert analyse.intact(whole, calm)
    assert not analyse.intact(whole | {"positions": np.diag([3.0, 3.0, 9.0])}, calm)
    assert not analyse.intact(whole | {"positions": np.diag([1.0, 1.0, 3.0])}, calm)
    assert not analyse.intact(whole, {"forces": np.full((3, 3), 50.0)})


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_every_version_says_what_its_kernels_understand(path):
    settings = load(path)
    for role in ("generator", "model", "oracle", "selector", "initial"):
        section = getattr(settings, role)
        check_options(role, section.kernel, section.options)
    if (inner := settings.oracle.options.get("oracle")) is not None:
        check_options("oracle", inner["kernel"], inner["options"])
    for file in (settings.generator.options["start"], settings.evaluation.data):
        assert (EXAMPLE / file).is_file()


@pytest.mark.parametrize(
    ("file", "count", "systems"),
    [("bi4-bi8.xyz", 36, SYSTEMS), ("bi2-bi3.xyz", 9, SMALLER)],
)
def test_walkers_start_at_minima_of_each_size_and_charge(file, count, systems):
    samples = read_samples(EXAMPLE / file)
    oracle = Xtb(method="GFN1-xTB")
    assert len(samples) == count
    assert {(len(s["numbers"]), int(s["charge"])) for s in samples} == systems
    for sample in samples[::5]:
        assert np.abs(oracle.label(sample)["forces"]).max() < 0.05


def test_held_out_labels_in_small_are_the_oracles_own():
    oracle = Xtb(method="GFN1-xTB", restart=False)
    for item in read_labelled(EXAMPLE / "heldout-xtb.extxyz")[::40]:
        label = oracle.label(item.sample)
        np.testing.assert_allclose(item.label["forces"], label["forces"], atol=2e-3)
        np.testing.assert_allclose(item.label["energy"], label["energy"], atol=1e-3)


def test_dft_labels_are_those_of_the_oracle(tmp_path, monkeypatch):
    """An anion of two atoms: functional, basis and core potential of the publication."""
    monkeypatch.chdir(EXAMPLE)
    options = load(EXAMPLE / "pal.toml").oracle.options["oracle"]["options"]
    oracle = PySCF(Context("oracle", 0, 1, 0, tmp_path), **options)
    data = read_labelled(EXAMPLE / "pre-training.extxyz")
    item = next(i for i in data if (len(i.sample["numbers"]), i.sample["charge"]) == (2, -1))
    monkeypatch.chdir(tmp_path)
    label = oracle.label(item.sample)
    assert float(item.label["energy"]) == pytest.approx(float(label["energy"]), abs=2e-4)
    np.testing.assert_allclose(item.label["forces"], label["forces"], atol=2e-3)


def test_what_learns_from_dft_never_sees_what_judges_it():
    seen = read_samples(EXAMPLE / "pre-training.extxyz")
    judges = read_samples(EXAMPLE / "heldout-dft.extxyz")
    assert {(len(s["numbers"]), int(s["charge"])) for s in seen} == SMALLER
    assert {(len(s["numbers"]), int(s["charge"])) for s in judges} == SMALLER | {
        (4, charge) for charge in (-1, 0, 1)
    }
    for one in judges:
        assert not any(np.array_equal(one["positions"], s["positions"]) for s in seen)
