"""Regressors of scikit-learn as members: what they learn, and how they travel."""

import numpy as np
import pytest
from toy_molecule import batch_of, stretched

from pal.building import KernelSpec, build_committee
from pal.errors import ContractError, KernelImportError, ShapeError
from pal.kernels.models.scikit_learn import ScikitLearn
from pal.records import Batch, LabelledSample
from pal.testing.checks import check_model, predicted

FOREST = {
    "estimator": "sklearn.ensemble.RandomForestRegressor",
    "arguments": {"n_estimators": 5},
}
PROCESS = {
    "estimator": "sklearn.gaussian_process.GaussianProcessRegressor",
    "arguments": {
        "alpha": 1e-6,
        "kernel": {
            "class": "sklearn.gaussian_process.kernels.Sum",
            "arguments": {
                "k1": {"class": "sklearn.gaussian_process.kernels.RBF"},
                "k2": {"class": "sklearn.gaussian_process.kernels.WhiteKernel"},
            },
        },
    },
}
VECTORS = {"estimator": "sklearn.svm.SVR", "arguments": {"C": 10.0}}
PIPELINE = {
    "estimator": "sklearn.pipeline.Pipeline",
    "arguments": {
        "steps": [
            ["polynomials", {"class": "sklearn.preprocessing.PolynomialFeatures"}],
            ["fit", {"class": "sklearn.linear_model.Ridge", "arguments": {"alpha": 0.01}}],
        ]
    },
}
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def bowl(count, seed=0):
    """Bare samples (2,) with a bare label () = x^2 + y."""
    points = np.random.default_rng(seed).uniform(-1, 1, (count, 2))
    values = points[:, 0] ** 2 + points[:, 1]
    pairs = zip(points, values, strict=True)
    return [LabelledSample(k, x, np.asarray(y)) for k, (x, y) in enumerate(pairs)]


@pytest.fixture
def make(context):
    return lambda index=0, **options: ScikitLearn(context(index), **options)


def learn(model, data):
    return list(model.train(data))


@quiet
@pytest.mark.parametrize("options", [FOREST, PROCESS, VECTORS, PIPELINE])
def test_keeps_the_contract(make, options):
    check_model(lambda: make(**options), bowl(30))
    check_model(lambda: make(**options, descriptor="inverse_distances"), stretched(20))


@quiet
@pytest.mark.parametrize("options", [PROCESS, PIPELINE])
def test_learns(make, options):
    model, fresh = make(**options), bowl(50, seed=1)
    metrics = learn(model, bowl(60))
    off = model.predict(batch_of(fresh)) - [item.label for item in fresh]
    assert np.abs(off).mean() < 0.02
    assert metrics[-1]["loss"] < 1e-3


def test_inputs_are_chosen_by_name(make):
    def item(k, x):
        sample = {"shape": np.full((2, 2), x), "flow": np.asarray(2 * x), "noise": np.asarray(k)}
        return LabelledSample(k, sample, {"drag": np.asarray(x), "heat": np.array([x, -x])})

    data = [item(k, x) for k, x in enumerate(np.linspace(0, 1, 20))]
    model = make(estimator="sklearn.linear_model.LinearRegression", inputs=["flow", "shape"])
    learn(model, data)
    other = Batch([{**item.sample, "noise": np.asarray(1e9)} for item in data])
    labels = model.predict(other)
    assert labels["drag"].shape == (20,)
    np.testing.assert_allclose(labels["heat"][:, 1], -labels["drag"], atol=1e-9)
    np.testing.assert_allclose(labels["drag"], np.linspace(0, 1, 20), atol=1e-9)


def test_with_the_descriptor_neither_place_nor_orientation_matters(make):
    model, data = make(**VECTORS, descriptor="inverse_distances"), stretched(20)
    learn(model, data)
    positions = data[0].sample["positions"]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    moved = positions @ turn + [10.0, -5.0, 7.0]
    one, other = model.predict(Batch.stacked({"positions": np.array([positions, moved])}))[
        "energy"
    ]
    assert one == pytest.approx(other, abs=1e-9)


def test_members_differ_by_their_seed_and_by_nothing_else(make):
    data, batch = bowl(30), batch_of(bowl(10, seed=3))
    results = []
    for index in (0, 0, 1):
        model = make(index, **FOREST)
        learn(model, data)
        results.append(model.predict(batch))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_a_seed_that_is_given_stays(make):
    forest = {**FOREST, "arguments": {"n_estimators": 3, "random_state": 7}}
    models = [make(index, **forest) for index in (0, 1)]
    for model in models:
        learn(model, bowl(30))
    deviation = predicted(models, batch_of(bowl(10, seed=3))).deviation
    assert not np.asarray(deviation).any()


def test_a_repeated_sample_counts_more_where_weights_are_taken(make):
    points = [LabelledSample(k, np.zeros(1), np.asarray(float(k))) for k in range(2)]
    neighbours = {"estimator": "sklearn.neighbors.KNeighborsRegressor"}
    cases = [
        ({"estimator": "sklearn.linear_model.LinearRegression"}, 0.75),
        ({**neighbours, "arguments": {"n_neighbors": 2}}, 0.5),
    ]
    for options, mean in cases:
        model = make(**options)
        learn(model, [points[0], points[1], points[1], points[1]])
        assert model.predict(Batch([np.zeros(1)]))[0] == pytest.approx(mean, abs=1e-6)


@quiet
def test_a_gaussian_process_stands_samples_that_the_bootstrap_repeats(make):
    model = make(estimator=PROCESS["estimator"])
    learn(model, bowl(20) * 3)


def test_the_number_of_labels_is_bounded_and_the_choice_stays(make):
    model, data = make(**FOREST, max_labels=10), bowl(40)
    assert learn(model, data)[0]["labels"] == 10
    few = {item.identity for item in model._distinct(data[:20])[0]}
    many = {item.identity for item in model._distinct(data)[0]}
    assert {k for k in many if k < 20} <= few
    others = {item.identity for item in make(1, **FOREST, max_labels=10)._distinct(data)[0]}
    assert others != many


def test_a_committee_of_them_is_built_from_settings(context):
    spec = KernelSpec("model", "scikit_learn", options=FOREST)
    committee = build_committee(spec, [context(0), context(1)], training=True)
    metrics = next(iter(committee.train([bowl(30)] * 2)))
    assert [m["labels"] for m in metrics] == [30, 30]
    committee.set_weights(1, committee.get_weights()[0])
    one, other = committee.predict(batch_of(bowl(5)))
    assert np.array_equal(one, other)


def test_before_its_first_fit_it_has_no_weights_and_predicts_nothing(make):
    model = make(**FOREST)
    assert model.get_weights() == {}
    model.set_weights({})
    with pytest.raises(ContractError, match=r"before it has seen a label.*\[initial\]"):
        model.predict(batch_of(bowl(2)))


def test_it_starts_from_a_checkpoint(make, tmp_path):
    model = make(**FOREST)
    learn(model, bowl(10))
    np.savez(tmp_path / "member-0.npz", **model.get_weights())
    other = make(**FOREST, checkpoint=tmp_path)
    batch = batch_of(bowl(5, seed=2))
    assert np.array_equal(model.predict(batch), other.predict(batch))


def test_weights_of_another_version_or_model_are_refused(make):
    model = make(**FOREST)
    learn(model, bowl(10))
    with pytest.raises(ContractError, match=r"made with scikit-learn 0\.1\.2"):
        make(**FOREST).set_weights({**model.get_weights(), "version": np.array("0.1.2")})
    with pytest.raises(ContractError, match="'version' is missing"):
        make(**FOREST).set_weights({"bias": np.zeros(3)})


def test_what_cannot_be_made_is_refused(make):
    with pytest.raises(KernelImportError, match=r"cannot be made.*full name of a class"):
        make(estimator="sklearn.svm.Nothing")
    with pytest.raises(KernelImportError, match="cannot be made"):
        make(estimator="SVR")
    with pytest.raises(KernelImportError, match=r"cannot be made.*'colour'"):
        make(estimator="sklearn.svm.SVR", arguments={"colour": 1})
    with pytest.raises(KernelImportError, match=r"unknown keys \['options'\]"):
        make(estimator="sklearn.svm.SVR", arguments={"C": {"class": "a.B", "options": {}}})
    with pytest.raises(ContractError, match="no fit and predict"):
        make(estimator="sklearn.gaussian_process.kernels.RBF")
    with pytest.raises(ContractError, match="max_labels = 0"):
        make(**FOREST, max_labels=0)
    with pytest.raises(ContractError, match="'positions' among inputs"):
        make(**FOREST, inputs="numbers", descriptor="inverse_distances")


def test_what_it_cannot_learn_from_is_refused(make):
    with pytest.raises(ContractError, match="empty"):
        learn(make(**FOREST), [])
    with pytest.raises(ContractError, match=r"\['speed'\] are missing"):
        learn(make(**FOREST, inputs="speed"), bowl(3))
    with pytest.raises(ContractError, match=r"expected a bare array, got the arrays.*inputs"):
        learn(make(**FOREST), [LabelledSample(0, {"x": np.zeros(2)}, np.zeros(1))])
    with pytest.raises(ContractError, match="descriptor needs 'positions'"):
        learn(make(**FOREST, descriptor="inverse_distances"), bowl(3))
    model = make(**FOREST)
    learn(model, bowl(5))
    with pytest.raises(ShapeError, match=r"expected arrays of the shapes"):
        model.predict(Batch([np.zeros(3)]))
