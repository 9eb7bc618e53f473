"""The hydrogen transfer example: it learns barriers, and what is unseen is never seen."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from pal.building import KernelSpec
from pal.catalogue import check_options
from pal.kernels.atoms import read_samples
from pal.kernels.oracles.xtb import Xtb
from pal.ledger.export import read_labelled
from pal.records import Batch
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.settings import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "hydrogen_transfer"


@pytest.fixture
def barriers(monkeypatch):
    """Import the example's analysis, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield import_module("barriers")
    sys.modules.pop("barriers", None)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Run the small version, once."""
    directory = tmp_path_factory.mktemp("hydrogen_transfer") / "run"
    overrides = {"directory": str(directory)}
    Campaign.from_file(EXAMPLE / "small.toml", fresh=True, overrides=overrides).run()
    return directory


@pytest.fixture(scope="module")
def labelled(ended):
    return read_labelled(ended / "dataset.extxyz")


@pytest.fixture(scope="module")
def summary(ended):
    return json.loads((ended / "summary.json").read_text())


def lengths(positions):
    """Return the hydrogen's distances from donor and acceptor, and theirs from each other."""
    donor, hydrogen, acceptor = positions[:3]
    pairs = ((donor, hydrogen), (hydrogen, acceptor), (donor, acceptor))
    return [np.linalg.norm(one - other) for one, other in pairs]


def test_the_committee_learns_reactions_that_it_never_sees(summary):
    errors = [evaluation["error"] for evaluation in summary["evaluations"]]
    assert summary["labels"] >= load(EXAMPLE / "small.toml").stop.labels
    assert errors[-1] < 0.9 * errors[0]


def test_the_committee_begins_with_weights_that_know_radicals():
    """Pre-trained on other reactions, it is nearer to the held-out forces than to nothing."""
    held = read_labelled(EXAMPLE / "heldout.extxyz")[::13]
    model = load(EXAMPLE / "pal.toml").model
    options = {**model.options, "checkpoint": EXAMPLE / model.options["checkpoint"]}
    for index in range(model.members):
        context = Context("model", index, model.members, index, EXAMPLE)
        member = KernelSpec.of("model", model.kernel, options).build(context)
        labels = member.predict(Batch([item.sample for item in held]))
        off = [
            np.abs(label["forces"] - item.label["forces"]).mean()
            for label, item in zip(labels, held, strict=True)
        ]
        assert np.mean(off) < 0.4 * np.mean([np.abs(item.label["forces"]).mean() for item in held])


def test_labels_are_the_oracles_for_doublets(labelled):
    oracle = Xtb(**load(EXAMPLE / "small.toml").oracle.options)
    for item in labelled[::40]:
        exact = oracle.label(item.sample)
        assert float(item.label["energy"]) == pytest.approx(float(exact["energy"]), abs=1e-3)
        np.testing.assert_allclose(item.label["forces"], exact["forces"], atol=0.02)


def test_labels_lie_on_either_side_of_the_barrier_and_between(labelled):
    """Of the transfer coordinate, donor-hydrogen minus acceptor-hydrogen, in Å."""
    pairs = [item.sample["positions"] for item in labelled if len(item.sample["numbers"]) > 8]
    along = np.array([one - other for one, other, _ in map(lengths, pairs)])
    assert (along < -0.5).any()
    assert (np.abs(along) < 0.3).any()
    assert (along > 0.5).any()


def test_all_explorers_take_part(ended):
    """Each leaves its traces: reactions of two fragments, and fragments alone."""
    sizes = {len(atoms) for atoms in read(EXAMPLE / "reactions.xyz", ":")}
    alone = {len(atoms) for atoms in read(EXAMPLE / "fragments.xyz", ":")} - sizes
    count = sum(load(EXAMPLE / "small.toml").initial.options.values())
    found = {len(item.sample["numbers"]) for item in read_labelled(ended / "dataset.extxyz")}
    assert count < len(read_labelled(ended / "dataset.extxyz"))
    assert found & sizes
    assert found & alone


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("*.toml")), ids=lambda path: path.stem)
def test_settings_are_valid_and_their_kernels_take_these_options(path):
    settings = load(path)
    for role in ("generator", "model", "oracle", "selector", "initial"):
        section = getattr(settings, role)
        check_options(role, section.kernel, section.options)
    for entry in settings.generator.options.get("entries", ()):
        check_options("generator", entry["kernel"], entry["options"])
        if "start" in entry["options"]:
            assert (EXAMPLE / entry["options"]["start"]).exists()
    assert settings.evaluation.data is None or settings.evaluation.data.exists()


def test_the_cluster_labels_as_the_paper_does():
    oracle = load(EXAMPLE / "cluster.toml").oracle
    assert oracle.kernel == "pyscf"
    assert (oracle.options["functional"], oracle.options["basis"]) == ("BMK", "def2-TZVPD")


def test_what_is_unseen_is_in_no_file_that_campaigns_read(barriers):
    guesses, fragments, known = barriers.unseen()
    seen = {
        frozenset((a.info["donor"], a.info["acceptor"]))
        for a in read(EXAMPLE / "reactions.xyz", ":")
    }
    assert not seen & {frozenset(pair) for pair in known}
    assert {(a.info["donor"], a.info["acceptor"]) for a in guesses} == set(known)
    names = {atoms.info["name"] for atoms in read(EXAMPLE / "fragments.xyz", ":")}
    assert "glycine CA, molecule" in names
    assert "glycine CA, radical" not in names
    assert names < set(fragments)


def test_guesses_share_the_hydrogen_between_donor_and_acceptor():
    for sample in read_samples(EXAMPLE / "reactions.xyz"):
        to_donor, to_acceptor, apart = lengths(sample["positions"])
        assert 1.1 < min(to_donor, to_acceptor) <= max(to_donor, to_acceptor) < 1.4
        assert apart == pytest.approx(to_donor + to_acceptor, abs=1e-3)
        assert sample["numbers"].sum() % 2 == 1, "not an open shell"


@pytest.mark.parametrize(
    ("name", "every", "largest"), [("unseen.xyz", 1, 0.03), ("tops.xyz", 4, 0.1)]
)
def test_tops_are_transition_states_of_the_oracle(name, every, largest):
    """Stationary points, as far as the digits go that the file has."""
    oracle = Xtb(**load(EXAMPLE / "pal.toml").oracle.options)
    for sample in read_samples(EXAMPLE / name)[::every]:
        assert max(lengths(sample["positions"])[:2]) < 1.9
        assert np.linalg.norm(oracle.label(sample)["forces"], axis=1).max() < largest


@pytest.mark.parametrize("name", ["tops.xyz", "paths.xyz"])
def test_ways_to_the_barriers_are_those_of_reactions_that_campaigns_explore(name):
    seen = {bytes(sample["numbers"]) for sample in read_samples(EXAMPLE / "reactions.xyz")}
    unseen = {bytes(sample["numbers"]) for sample in read_samples(EXAMPLE / "unseen.xyz")}
    assert not seen & unseen, "the order of the atoms tells reactions apart"
    assert {bytes(sample["numbers"]) for sample in read_samples(EXAMPLE / name)} <= seen


def test_the_oracle_has_the_barriers_that_are_written(barriers):
    guesses, fragments, known = barriers.unseen()
    guess = min(guesses, key=len)
    surface = barriers.Surface(barriers.ORACLE)
    found = barriers.barrier(surface, guess, surface.transition(guess), fragments)
    told = known[guess.info["donor"], guess.info["acceptor"]]
    assert found.forward == pytest.approx(told.forward, abs=0.1)
    assert found.reverse == pytest.approx(told.reverse, abs=0.1)


def test_held_out_labels_are_the_oracles_own():
    held = read_labelled(EXAMPLE / "heldout.extxyz")
    oracle = Xtb(**load(EXAMPLE / "pal.toml").oracle.options)
    for item in held[::29]:
        label = oracle.label(item.sample)
        np.testing.assert_allclose(item.label["forces"], label["forces"], atol=0.02)
        assert float(item.label["energy"]) == pytest.approx(float(label["energy"]), abs=2e-3)
