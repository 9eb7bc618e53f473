"""Which samples are worth a label, and which a model may be trusted with."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pal.errors import ContractError
from pal.kernels.selectors.deviation import Deviation, model_deviation
from pal.kernels.selectors.random import Random
from pal.records import Batch, Prediction
from pal.testing.checks import check_selector, predicted


def forces(*uncertainties):
    """A prediction whose deviation of the forces is given, in the second of three atoms."""
    deviation = np.zeros((len(uncertainties), 3, 3))
    deviation[:, 1] = np.array(uncertainties)[:, None] * [0.0, 0.6, 0.8]
    energy = np.full(len(uncertainties), 1e6)
    batch = Batch.stacked({"energy": energy, "forces": deviation})
    return Prediction([batch], batch, batch)


def samples(prediction):
    return Batch.stacked(np.zeros((len(prediction.deviation), 2)))


def select(selector, *uncertainties):
    prediction = forces(*uncertainties)
    return selector.select(samples(prediction), prediction)


def test_keep_the_contract(context):
    predictions = [forces(0.1, 2.0, 0.5), forces(0, 0, 0), forces(9, 9, 9)]
    batch = samples(predictions[0])
    check_selector(lambda: Deviation(0.3), batch, predictions)
    check_selector(lambda: Deviation(0.3, upper=3.0, every=2), batch, predictions)
    check_selector(lambda: Random(context(), 0.3, every=1), batch, predictions)


def test_model_deviation_is_the_largest_over_atoms_of_a_vectors_length():
    rng = np.random.default_rng(0)
    members = rng.normal(size=(4, 6, 5, 3))

    class Member:
        def __init__(self, labels):
            self.labels = labels

        def predict(self, batch):
            return {"forces": self.labels}

    prediction = predicted([Member(m) for m in members], Batch.stacked(np.zeros((6, 1))))
    spread = members - members.mean(0)
    by_definition = np.sqrt((spread**2).sum(-1).sum(0) / 3).max(-1)
    np.testing.assert_allclose(Deviation(0.0).uncertainty(prediction), by_definition)


def test_vectors_of_several_states_count_whole():
    deviation = np.zeros((2, 4, 5, 3))
    deviation[0, 3, 1] = [0.0, 0.6, 0.8]
    deviation[1, 0, 4] = [2.0, 1.0, 2.0]
    np.testing.assert_allclose(model_deviation(deviation), [1.0, 3.0])


def test_other_fields_and_bare_arrays_count_by_element():
    assert model_deviation(np.array([[1.0, 3.0], [2.0, 0.5]])).tolist() == [3.0, 2.0]
    assert model_deviation(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    energies = forces(0.1, 0.2)
    assert Deviation(0.0, field="energy").uncertainty(energies).tolist() == [1e6, 1e6]
    bare = Batch.stacked(np.array([[0.1, 0.4]]))
    assert Deviation(0.0).uncertainty(Prediction([bare], bare, bare)).tolist() == [0.4]


def test_samples_of_different_shapes_may_be_mixed():
    mixed = Batch([np.array([1.0, 2.0]), np.array([5.0]), np.array([0.5, 0.1])])
    assert Deviation(0.0).uncertainty(Prediction([mixed], mixed, mixed)).tolist() == [2, 5, 0.5]


def test_between_the_thresholds_a_sample_is_worth_a_label():
    selection = select(Deviation(0.5, upper=2.0), 0.1, 0.9, 5.0, 1.5, 0.5)
    assert list(selection.candidates) == [1, 3]
    assert selection.trusted.tolist() == [True, False, False, False, True]


def test_a_candidate_is_earned_by_so_many_samples():
    selector = Deviation(0.5, every=6)
    chosen = [list(select(selector, 1.0, 2.0, 3.0).candidates) for _ in range(6)]
    assert chosen == [[], [2], [], [2], [], [2]]


def test_a_large_batch_earns_several_and_takes_the_most_uncertain():
    selection = select(Deviation(0.5, every=2), 1.0, 4.0, 2.0, 3.0)
    assert list(selection.candidates) == [1, 3]


def test_what_was_not_spent_does_not_pile_up():
    selector = Deviation(0.5, every=2)
    for _ in range(50):
        assert not len(select(selector, 0.0, 0.0).candidates)
    assert len(select(selector, 1.0, 1.0).candidates) == 1
    assert len(select(selector, 1.0).candidates) == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 20))
def test_never_more_candidates_than_earned(uncertainties, every):
    selector = Deviation(1.0, every=every)
    spent = sum(len(select(selector, *uncertainties).candidates) for _ in range(5))
    assert spent <= max(1, 5 * len(uncertainties) // every)


def test_ranking_drops_what_has_been_learnt():
    prediction = forces(0.9, 0.1, 3.0, 0.5)
    ranking = Deviation(0.5).rank(samples(prediction), prediction)
    assert list(ranking.order) == [2, 0]
    np.testing.assert_allclose(ranking.uncertainty, [0.9, 0.1, 3.0, 0.5])


def test_random_takes_its_share_whatever_the_uncertainty(context):
    selector, deviation = Random(context(), 0.5, every=10), Deviation(0.5)
    uncertainties = np.linspace(0, 1, 100)
    picked = np.concatenate(
        [uncertainties[select(selector, *uncertainties).candidates] for _ in range(100)]
    )
    assert len(picked) == pytest.approx(1000, abs=120)
    assert picked.mean() == pytest.approx(0.5, abs=0.05)
    one, other = select(selector, *uncertainties), select(deviation, *uncertainties)
    assert np.array_equal(one.trusted, other.trusted)
    assert np.array_equal(one.uncertainty, other.uncertainty)


def test_random_repeats_itself_with_its_seed(context):
    def picks(seed):
        selector = Random(context(seed=seed), 0.5, every=5)
        return [list(select(selector, *[1.0] * 20).candidates) for _ in range(5)]

    assert picks(1) == picks(1) != picks(2)


def test_nonsense_is_refused(context):
    with pytest.raises(ContractError, match="threshold < upper"):
        Deviation(1.0, upper=0.5)
    with pytest.raises(ContractError, match="every >= 1"):
        Random(context(), 0.5, every=0)
    with pytest.raises(ContractError, match=r"predict \['energy', 'forces'\], not 'stress'"):
        select(Deviation(0.5, field="stress"), 1.0)


def test_selectors_need_no_science():
    code = (
        "import sys, pal.kernels.selectors.deviation, pal.kernels.selectors.random; "
        "print(sorted({'torch', 'ase', 'tblite'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
