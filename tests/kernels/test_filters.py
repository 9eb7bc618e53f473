"""Filters narrow what another selector chose; a pipeline puts them in a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_molecule import NUMBERS, RELAXED

from pal.errors import ContractError
from pal.kernels.selectors.adaptive import Adaptive
from pal.kernels.selectors.calibrated import Calibrated
from pal.kernels.selectors.deviation import Deviation
from pal.kernels.selectors.distinct import Distinct
from pal.kernels.selectors.diversity import Diversity
from pal.kernels.selectors.parts.filters import everything, narrowed
from pal.kernels.selectors.physical import Physical
from pal.kernels.selectors.pipeline import Pipeline
from pal.kernels.selectors.top_k import TopK
from pal.records import Batch, Prediction, Selection
from pal.roles import LearningSelector
from pal.testing.checks import check_selector


def prediction(*uncertainties, forces=0.0):
    """A prediction for molecules of five atoms, whose deviation of the forces is given."""
    size = len(uncertainties)
    deviation = np.zeros((size, 5, 3))
    deviation[:, 1] = np.array(uncertainties)[:, None] * [0.0, 0.6, 0.8]
    mean = np.zeros((size, 5, 3))
    mean[:, 2, 0] = forces
    labels = Batch.stacked({"energy": np.zeros(size), "forces": mean})
    spread = Batch.stacked({"energy": np.zeros(size), "forces": deviation})
    return Prediction([labels], labels, spread)


def molecules(*stretches):
    """Molecules whose last atom is moved by so many Å."""
    found = []
    for stretch in stretches:
        positions = RELAXED.copy()
        positions[4, 2] -= stretch
        found.append({"positions": positions, "numbers": NUMBERS})
    return Batch(found)


def test_keep_the_contract(context):
    samples = molecules(0.0, 0.1, 0.2)
    predictions = [prediction(0.1, 2.0, 0.5), prediction(0, 0, 0), prediction(9, 9, 9)]
    stages = [{"kernel": "deviation", "options": {"threshold": 0.3}}, "physical"]
    for make in (
        lambda: Deviation(0.3, relative=1.0),
        lambda: Adaptive(rate=0.1),
        lambda: Calibrated(threshold=0.3),
        lambda: TopK(count=2),
        lambda: Distinct(distance=0.01),
        lambda: Diversity(count=2),
        lambda: Physical(max_force=10.0, max_uncertainty=1.0),
        lambda: Pipeline(context(), stages=stages),
    ):
        check_selector(make, samples, predictions)


def test_relative_deviation_forgives_large_forces():
    strict, lenient = Deviation(0.4), Deviation(0.4, relative=1.0)
    small, large = prediction(0.5, forces=0.0), prediction(0.5, forces=9.0)
    assert strict.uncertainty(large).tolist() == strict.uncertainty(small).tolist() == [0.5]
    assert lenient.uncertainty(small).tolist() == [0.5]
    moved = prediction(0.5)
    moved.mean["forces"][0, 1, 0] = 9.0
    assert lenient.uncertainty(moved) == pytest.approx([0.05])


def test_top_k_keeps_the_most_uncertain_candidates():
    samples, predicted = molecules(0, 0, 0, 0), prediction(0.1, 0.4, 0.2, 0.3)
    judged = Deviation(0.15).select(samples, predicted)
    kept = TopK(count=2).refine(samples, predicted, judged)
    assert list(kept.candidates) == [1, 3]
    assert kept.trusted.tolist() == [True, False, False, False]


def test_inputs_stay_with_their_candidates():
    selection = Selection([4, 2, 7], np.arange(8.0), np.ones(8, bool), inputs=["e", "c", "h"])
    smaller = narrowed(selection, np.array([2, 0]))
    assert list(smaller.candidates) == [7, 4]
    assert smaller.inputs == ["h", "e"]


@given(st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=30))
def test_distinct_lets_no_geometry_through_twice(stretches):
    selector, chosen = Distinct(distance=0.02), []
    for part in (stretches, stretches[::-1]):
        batch = molecules(*part)
        selected = selector.select(batch, prediction(*range(len(part))))
        chosen += [part[index] for index in selected.candidates]
    rest = Distinct(distance=0.02)
    alone = rest.select(molecules(*chosen), prediction(*range(len(chosen))))
    assert len(alone.candidates) == len(chosen)
    again = selector.select(molecules(*stretches), prediction(*range(len(stretches))))
    assert len(again.candidates) == 0


def test_of_several_alike_the_most_uncertain_stays():
    selected = Distinct(distance=0.02).select(molecules(1.0, 1.0, 2.0), prediction(0.1, 0.5, 0.3))
    assert list(selected.candidates) == [1, 2]


def test_distinct_goes_on_with_its_memory():
    first, second = Distinct(distance=0.02), Distinct(distance=0.02)
    first.select(molecules(1.0), prediction(0.5))
    second.set_state(first.get_state())
    assert list(second.select(molecules(1.0, 2.0), prediction(1, 1)).candidates) == [1]


def test_distinct_looks_through_the_queue():
    ranking = Distinct(distance=0.02).rank(molecules(1.0, 2.0, 1.0), prediction(1, 2, 3))
    assert list(ranking.order) == [0, 1]


def test_diversity_begins_with_the_most_uncertain_and_spreads():
    selector = Diversity(count=2)
    batch = molecules(0.0, 0.05, 2.0, 0.1)
    selected = selector.select(batch, prediction(0.1, 0.9, 0.2, 0.3))
    assert list(selected.candidates) == [1, 2]
    # What is known already is no longer the most different.
    again = selector.select(batch, prediction(0.1, 0.9, 0.2, 0.3))
    assert set(again.candidates) == {0, 3}


def test_diversity_in_the_space_of_arrays():
    samples = Batch.stacked(np.array([[0.0], [10.0], [4.0], [9.0]]))
    ranking = Diversity(count=1, space="arrays").rank(samples, prediction(1, 1, 1, 1))
    assert list(ranking.order) == [0, 1, 2, 3]


def test_physical_drops_overlapping_atoms_and_exploded_forces():
    crushed = RELAXED.copy()
    crushed[1] = crushed[0] + [0.2, 0.0, 0.0]
    samples = Batch([*molecules(0.0, 0.0, 0.0), {"positions": crushed, "numbers": NUMBERS}])
    predicted = prediction(1.0, 1.0, 30.0, 1.0)
    predicted.mean["forces"][1, 2, 0] = 99.0
    selector = Physical(min_distance=0.5, max_force=20.0, max_uncertainty=10.0)
    selected = selector.refine(samples, predicted, everything(predicted))
    assert list(selected.candidates) == [0]
    assert selected.trusted.tolist() == [True, False, False, False]
    assert list(selector.rank(samples, predicted).order) == [0]


def test_physical_sees_overlap_across_a_periodic_wall():
    positions = np.array([[0.1, 0.0, 0.0], [4.9, 0.0, 0.0]])
    sample = {"positions": positions, "numbers": np.array([6, 6])}
    walled = {**sample, "cell": 5.0 * np.eye(3), "pbc": np.array([True, True, True])}
    predicted = Prediction([], Batch.stacked(np.zeros((2, 1))), Batch.stacked(np.zeros((2, 1))))
    assert Physical().sound(Batch([sample, walled]), predicted).tolist() == [True, False]


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_adaptive_holds_the_rate_whatever_the_scale(scale):
    rng = np.random.default_rng(1)
    selector = Adaptive(rate=0.05, window=500)
    chosen = 0
    for round_ in range(400):
        drift = scale * (1 + round_ / 200)
        uncertainties = drift * rng.exponential(size=10)
        chosen += len(
            selector.select(molecules(*np.zeros(10)), prediction(*uncertainties)).candidates
        )
    assert 0.035 < chosen / 4000 < 0.08


def test_adaptive_trusts_what_is_good_enough():
    selector = Adaptive(rate=0.5, minimum=0.2)
    selected = selector.select(molecules(0, 0, 0), prediction(0.1, 0.15, 0.19))
    assert len(selected.candidates) == 0
    assert selected.trusted.all()


def test_adaptive_goes_on_where_it_was():
    first, second = Adaptive(rate=0.1, window=20), Adaptive(rate=0.1, window=20)
    for value in np.linspace(0, 3, 35):
        first.select(molecules(0), prediction(value))
    second.set_state(first.get_state())
    assert first.threshold == second.threshold > 0
    for selector in (first, second):
        selector.select(molecules(0), prediction(9.0))
    assert first.threshold == second.threshold


def noisy(selector, rounds, wrong, seed=0):
    """Teach a selector with models that are `wrong` times worse than they believe."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        deviations = rng.uniform(0.05, 0.5, 8)
        errors = wrong * deviations * np.abs(rng.standard_normal(8))
        predicted = prediction(*deviations)
        truth = np.zeros((8, 5, 3))
        truth[:, 3, 0] = errors
        labels = Batch.stacked({"energy": np.zeros(8), "forces": truth})
        selector.learn(molecules(*np.zeros(8)), labels, predicted)


def test_scaling_makes_the_uncertainty_right_on_the_mean():
    selector = Calibrated(threshold=0.2, window=2000)
    noisy(selector, 200, wrong=3.0)
    assert selector.factor == pytest.approx(3.0, rel=0.1)
    assert selector.uncertainty(prediction(0.1)) == pytest.approx([0.1 * selector.factor])


def test_conformal_covers_the_errors_of_labels_to_come():
    selector = Calibrated(threshold=0.2, method="conformal", coverage=0.9, window=1000)
    noisy(selector, 125, wrong=2.0)
    fresh = np.abs(np.random.default_rng(7).standard_normal(20_000)) * 2.0
    assert np.mean(fresh <= selector.factor) == pytest.approx(0.9, abs=0.03)


def test_calibration_waits_for_enough_labels_and_survives_a_restart():
    selector = Calibrated(threshold=0.2, least=20)
    noisy(selector, 2, wrong=3.0)
    assert selector.factor == 1.0
    noisy(selector, 2, wrong=3.0)
    assert selector.factor > 1.5
    other = Calibrated(threshold=0.2, least=20)
    other.set_state(selector.get_state())
    assert other.factor == selector.factor


def test_a_pipeline_judges_first_and_narrows_then(context):
    stages = [
        {"kernel": "deviation", "options": {"threshold": 0.15}},
        {"kernel": "distinct", "options": {"distance": 0.02}},
        {"kernel": "top_k", "options": {"count": 1}},
    ]
    pipeline = Pipeline(context(), stages=stages)
    samples, predicted = molecules(0.0, 1.0, 1.0, 2.0), prediction(0.1, 0.9, 0.8, 0.3)
    selected = pipeline.select(samples, predicted)
    assert list(selected.candidates) == [1]
    assert selected.uncertainty == pytest.approx([0.1, 0.9, 0.8, 0.3])
    assert selected.trusted.tolist() == [True, False, False, False]
    # The last one stands alone now: the first is trusted, and the other two are known.
    assert list(pipeline.select(samples, predicted).candidates) == []
    assert list(pipeline.rank(samples, predicted).order) == [1, 3]
    assert not isinstance(pipeline, LearningSelector)


def test_a_pipeline_learns_where_a_stage_does_and_keeps_all_states(context):
    stages = [
        {"kernel": "calibrated", "options": {"threshold": 0.1}},
        {"kernel": "distinct", "options": {"distance": 0.02}},
        {"kernel": "random", "options": {"threshold": 0.1, "every": 1}},
    ]
    pipeline, other = Pipeline(context(), stages=stages), Pipeline(context(), stages=stages)
    assert isinstance(pipeline, LearningSelector)
    noisy(pipeline, 5, wrong=4.0)
    samples, predicted = molecules(0.0, 1.0), prediction(0.05, 0.05)
    assert list(pipeline.select(samples, predicted).candidates) == [0, 1]
    other.set_state(pipeline.get_state())
    assert list(other.select(samples, predicted).candidates) == []
    assert list(other.select(molecules(3.0), prediction(0.05)).candidates) == [0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: TopK(count=0), "top_k: expected count >= 1"),
        (lambda _: Distinct(distance=0), "distinct: expected distance > 0"),
        (lambda _: Distinct(distance=1, space="x"), "distinct: expected space"),
        (lambda _: Diversity(count=0), "diversity: expected count >= 1"),
        (lambda _: Physical(min_distance=2), "physical: expected 0 <= min_distance < 1"),
        (lambda _: Adaptive(rate=1.0), "adaptive: expected 0 < rate < 1"),
        (lambda _: Calibrated(threshold=0.1, method="x"), "calibrated: expected method"),
        (lambda _: Calibrated(threshold=0.1, coverage=2), "calibrated: .* coverage = 2"),
        (lambda _: Deviation(0.1, relative=0.0), "relative > 0"),
        (lambda context: Pipeline(context, stages=[]), "pipeline: expected a list of stages"),
        (
            lambda context: Pipeline(context, stages=[{"kernel": "top_k", "count": 1}]),
            r"pipeline: stages\[0\]: expected a kernel's name or .* got the keys \['count', ",
        ),
    ],
)
def test_wrong_options_are_refused(make, message, context):
    with pytest.raises(ContractError, match=message):
        make(context())
