"""Several fidelities: cheap labels for all, costly ones for what is new, within the budget."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from toy_molecule import NUMBERS, RELAXED, stretched

from pal.errors import ContractError, LabelFailure
from pal.kernels.oracles.fidelities import BROKEN, Fidelities
from pal.testing.checks import check_oracle

SAMPLE = {"positions": RELAXED, "numbers": NUMBERS}


class Springs:
    """Springs to the origin; `calls` counts the labels of all instances of one stiffness."""

    calls: dict[float, int] = {}  # noqa: RUF012

    def __init__(self, stiffness, fails_beyond=np.inf):
        self.stiffness = stiffness
        self.fails_beyond = fails_beyond
        self.seen = 0

    def label(self, sample):
        self.seen += 1
        Path("scratch").write_text(str(self.stiffness))
        self.calls[self.stiffness] = self.calls.get(self.stiffness, 0) + 1
        positions = np.asarray(sample["positions"])
        if np.abs(positions).max() > self.fails_beyond:
            raise LabelFailure("springs: not converged: overstretched")
        energy = 0.5 * self.stiffness * (positions**2).sum()
        return {"energy": np.asarray(energy), "forces": -self.stiffness * positions}

    def get_state(self):
        return self.seen

    def set_state(self, state):
        self.seen = state


def line(sample):
    return 2.0 * sample


def curve(sample):
    return 2.0 * sample + sample**2


def wrong(sample):
    return sample[:1]


def other(sample):
    return {"energy": np.zeros(1)}


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Springs.calls.clear()


def springs(stiffness, cost, **options):
    options = {"stiffness": stiffness, **options}
    return {"kernel": f"{__name__}:Springs", "options": options, "cost": cost}


CHEAP, DEAR, DEAREST = springs(1.0, 1.0), springs(1.1, 10.0), springs(1.2, 100.0)
BARE = [{"kernel": f"{__name__}:line", "cost": 1}, {"kernel": f"{__name__}:curve", "cost": 5}]


@pytest.fixture
def make(context):
    def build(levels=(CHEAP, DEAR), novelty=0.01, **options):
        return Fidelities(context(), levels=levels, novelty=novelty, **options)

    return build


def fidelity(label):
    return int(label["fidelity"])


def test_keeps_the_contract(make):
    check_oracle(make, SAMPLE)
    check_oracle(lambda: make(BARE), np.array([1.0, 2.0]))


def test_a_label_has_the_best_and_the_cheapest_level(make):
    label = make().label(SAMPLE)
    assert set(label) == {"energy", "forces", "baseline_energy", "baseline_forces", "fidelity"}
    np.testing.assert_allclose(label["forces"], -1.1 * RELAXED)
    np.testing.assert_allclose(label["baseline_forces"], -1.0 * RELAXED)
    assert float(label["energy"]) == pytest.approx(1.1 * float(label["baseline_energy"]))
    assert fidelity(label) == 1
    assert label["fidelity"].shape == ()


def test_only_what_is_new_gets_the_costly_level(make):
    oracle = make(first=1)
    assert fidelity(oracle.label(SAMPLE)) == 1
    again = oracle.label(SAMPLE)
    assert fidelity(again) == 0
    np.testing.assert_array_equal(again["forces"], again["baseline_forces"])
    # The same molecule elsewhere, turned, with two hydrogen atoms swapped, is nothing new.
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    moved = {**SAMPLE, "positions": RELAXED[[0, 2, 1, 3, 4]] @ turn + 3.0}
    assert fidelity(oracle.label(moved)) == 0
    assert fidelity(oracle.label({**SAMPLE, "positions": 1.2 * RELAXED})) == 1
    assert fidelity(oracle.label({**SAMPLE, "numbers": NUMBERS[::-1].copy()})) == 1
    assert Springs.calls == {1.0: 5, 1.1: 3}


def test_the_first_samples_get_the_costly_level_in_any_case(make):
    oracle = make(first=3, budget=1.0)
    assert [fidelity(oracle.label(SAMPLE)) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_the_mean_cost_stays_within_the_budget(make):
    samples = [item.sample for item in stretched(60, spread=0.3)]
    costs = []
    oracle = make(novelty=0.0, first=0, budget=3.0)
    for sample in samples:
        costs.append(1.0 + 10.0 * fidelity(oracle.label(sample)))
        assert np.mean(costs) <= 3.0
    assert np.mean(costs) > 2.7  # and is spent


def test_every_sample_is_paid_for_where_all_are_new_and_nothing_limits(make):
    oracle = make(novelty=0.0, first=0)
    samples = [item.sample for item in stretched(5)]
    assert [fidelity(oracle.label(sample)) for sample in samples] == [1] * 5


def test_the_costliest_of_three_levels_is_asked_most_rarely(make):
    oracle = make([CHEAP, DEAR, DEAREST], novelty=[0.05, 0.09], first=1)
    found = [fidelity(oracle.label(item.sample)) for item in stretched(80, spread=0.15)]
    counts = np.bincount(found, minlength=3)
    assert found[0] == 2
    assert counts[0] > 0
    assert counts[1] > counts[2] > 1


def test_a_costly_level_that_fails_loses_nothing(make, caplog):
    levels = [CHEAP, DEAR, springs(1.2, 100.0, fails_beyond=0.5)]
    with caplog.at_level(logging.WARNING):
        label = make(levels).label(SAMPLE)
    assert fidelity(label) == 1
    assert "level 2 failed: springs: not converged: overstretched" in caplog.text
    label = make([CHEAP, springs(1.1, 10.0, fails_beyond=0.5)]).label(SAMPLE)
    assert fidelity(label) == 0
    np.testing.assert_allclose(label["forces"], -RELAXED)


def test_a_costly_level_that_always_fails_is_no_secret(make):
    oracle = make([CHEAP, springs(1.1, 10.0, fails_beyond=0.5)], novelty=1e-9)
    for _ in range(BROKEN - 1):
        assert oracle.label(SAMPLE)["fidelity"] == 0
    other = make([CHEAP, springs(1.1, 10.0, fails_beyond=0.5)], novelty=1e-9)
    other.set_state(oracle.get_state())
    for broken in (oracle, other):
        with pytest.raises(LabelFailure, match=r"level 1 failed 20 times in a row.*overstretched"):
            broken.label(SAMPLE)


def test_the_cheapest_level_that_fails_is_a_failure(make):
    with pytest.raises(LabelFailure, match="overstretched"):
        make([springs(1.0, 1.0, fails_beyond=0.5), DEAR]).label(SAMPLE)


def test_bare_arrays(make):
    oracle = make(BARE, novelty=0.5, first=1)
    label = oracle.label(np.array([1.0, 3.0]))
    np.testing.assert_array_equal(label["value"], [3.0, 15.0])
    np.testing.assert_array_equal(label["baseline_value"], [2.0, 6.0])
    assert fidelity(oracle.label(np.array([1.1, 3.1]))) == 0
    assert fidelity(oracle.label(np.array([2.0, 3.0]))) == 1


def test_each_level_has_folders_of_its_own(make, tmp_path):
    make().label(SAMPLE)
    assert (tmp_path / "level-0" / "scratch").read_text() == "1.0"
    assert (tmp_path / "level-1" / "scratch").read_text() == "1.1"


def test_goes_on_from_a_saved_state_as_if_never_stopped(make):
    samples = [item.sample for item in stretched(40, spread=0.1)]
    options = {"novelty": 0.03, "first": 2, "budget": 5.0}
    whole = make(**options)
    expected = [fidelity(whole.label(sample)) for sample in samples]
    assert 0 < sum(expected) < 40
    half = make(**options)
    found = [fidelity(half.label(sample)) for sample in samples[:20]]
    rest = make(**options)
    rest.set_state(pickle.loads(pickle.dumps(half.get_state())))
    found += [fidelity(rest.label(sample)) for sample in samples[20:]]
    assert found == expected
    assert rest.get_state()["levels"] == whole.get_state()["levels"]


@pytest.mark.parametrize(
    ("levels", "options", "message"),
    [
        ([CHEAP], {}, "fidelities: 1 levels; expected two or more"),
        ([CHEAP, {"kernel": "xtb"}], {}, r"levels\[1\] has cost = None; expected a table"),
        ([CHEAP, {"kernel": "xtb", "cost": -1}], {}, r"levels\[1\] has cost = -1"),
        ([CHEAP, {**DEAR, "weight": 1}], {}, r"levels\[1\]: expected a kernel's name"),
        ([CHEAP, DEAR], {"novelty": [1.0, 2.0]}, r"novelty = \[1.0, 2.0\]; expected one number"),
        ([CHEAP, DEAR], {"novelty": -1.0}, "novelty = -1.0; expected one number of 0 or more"),
        ([CHEAP, DEAR], {"budget": 0.5}, "budget = 0.5 a label is less than the cheapest"),
        ([CHEAP, DEAR], {"space": "soap"}, "fidelities: expected space"),
        ([CHEAP, DEAR], {"space": "latent:x"}, "an oracle knows no predictions"),
    ],
)
def test_bad_options_are_refused_at_the_start(make, levels, options, message):
    with pytest.raises(ContractError, match=message):
        make(levels, **options)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("other", r"level 1 gives no value, as the cheapest level does; it gives \['energy'\]"),
        ("wrong", r"level 1 gives value of shape \(1,\); the cheapest level gives \(2,\)"),
    ],
)
def test_levels_must_give_the_same_arrays(make, kernel, message):
    oracle = make([BARE[0], {"kernel": f"{__name__}:{kernel}", "cost": 2}])
    with pytest.raises(ContractError, match=message):
        oracle.label(np.array([1.0, 2.0]))
