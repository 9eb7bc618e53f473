"""Delta learning: energies and forces add up, few expensive labels do, committees stay joined."""

import itertools
import pickle

import numpy as np
import pytest
from toy_molecule import RELAXED, batch_of, springs, stretched

from pal.building import KernelSpec, build_committee
from pal.errors import ContractError, LabelFailure
from pal.exchange.reduction import finite_rows
from pal.kernels.models.delta import Delta
from pal.kernels.oracles.fidelities import Fidelities
from pal.records import Batch, LabelledSample, as_batch
from pal.testing.checks import check_model

NETWORK = {"kernel": "distance_network", "options": {"hidden": [16, 16], "batch_size": 8}}


def cheap(positions):
    """Springs, and one bond that is wrong: energy and forces."""
    energy, forces = springs(positions)
    bond = positions[1] - positions[0]
    length = np.linalg.norm(bond)
    pull = 2.0 * (length - 1.0) * bond / length
    forces = forces.copy()
    forces[0] += pull
    forces[1] -= pull
    return np.asarray(energy + (length - 1.0) ** 2), forces


class Cheap:
    """An oracle for the cheap method; it counts, and fails for molecules that are torn."""

    calls = 0

    def label(self, sample):
        Cheap.calls += 1
        if np.ptp(sample["positions"]) > 10:
            raise LabelFailure("not converged")
        energy, forces = cheap(sample["positions"])
        return {"energy": energy, "forces": forces}


ORACLE = {"kernel": Cheap}


def levels(count, expensive, seed=0):
    """Labels of two fidelities; the first `expensive` ones have both levels."""
    items = []
    for item in stretched(count, seed=seed):
        energy, forces = cheap(item.sample["positions"])
        label = {"baseline_energy": energy, "baseline_forces": forces}
        rich = item.identity < expensive
        best = item.label if rich else {"energy": energy, "forces": forces}
        label |= {**best, "fidelity": np.asarray(int(rich))}
        items.append(LabelledSample(item.identity, item.sample, label))
    return items


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return Delta(context(index), **{"model": NETWORK, **options})

    return build


@pytest.fixture(params=["computed", "learned"])
def options(request):
    return {"computed": {"baseline": ORACLE}, "learned": {"baseline_model": NETWORK}}[
        request.param
    ]


def learn(model, data, epochs):
    return list(itertools.islice(model.train(data), epochs))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_keeps_the_contract(make, options):
    check_model(lambda: make(**options), levels(20, 8))


def test_keeps_the_contract_with_a_model_that_has_no_committee(make):
    forest = {
        "kernel": "scikit_learn",
        "options": {
            "estimator": "sklearn.linear_model.Ridge",
            "descriptor": "inverse_distances",
        },
    }
    check_model(lambda: make(model=forest, baseline=ORACLE), stretched(20))


def test_energies_and_forces_add_up(make):
    """Untouched weights: the prediction is the baseline and the correction, each as it is."""
    data = stretched(10)
    model = make(baseline=ORACLE)
    learn(model, data, 5)
    result, correction = model.predict(batch_of(data)), model.correction.predict(batch_of(data))
    for k, item in enumerate(data):
        energy, forces = cheap(item.sample["positions"])
        assert result["energy"][k] == pytest.approx(energy + correction["energy"][k])
        np.testing.assert_allclose(result["forces"][k], forces + correction["forces"][k])
    assert result.keys() == {"energy", "forces"}


def test_forces_are_the_negative_gradient(make, options):
    model = make(**options)
    learn(model, levels(30, 15), 30)
    forces = model.predict(Batch.stacked({"positions": RELAXED[None]}))["forces"][0]
    step = 2e-3
    for atom, axis in itertools.product(range(5), range(3)):
        shift = np.zeros((5, 3))
        shift[atom, axis] = step
        frames = Batch.stacked({"positions": np.array([RELAXED + shift, RELAXED - shift])})
        plus, minus = model.predict(frames)["energy"]
        assert -(plus - minus) / (2 * step) == pytest.approx(forces[atom, axis], abs=5e-3)


def test_a_few_expensive_labels_do(make, context):
    """The sum is better than the baseline, and than a plain model with the same labels."""
    data, fresh = levels(20, 20), stretched(20, seed=5)
    truth = np.array([item.label["forces"] for item in fresh])
    options = {"hidden": [32], "batch_size": 8, "learning_rate": 0.01, "validation": 0.0}
    network = {"kernel": "distance_network", "options": options}
    model = make(model=network, baseline=ORACLE)
    plain = KernelSpec("model", "distance_network", options=options).build(context())
    errors = []
    for each in (model, plain):
        learn(each, data, 60)
        errors.append(np.abs(each.predict(batch_of(fresh))["forces"] - truth).mean())
    baseline = [cheap(item.sample["positions"])[1] for item in fresh]
    assert errors[0] < 0.3 * errors[1]
    assert errors[0] < 0.6 * np.abs(np.array(baseline) - truth).mean()


def test_the_correction_learns_from_expensive_labels_and_the_baseline_from_all(make, monkeypatch):
    model = make(baseline_model=NETWORK)
    seen = {}

    def spy(part, name):
        train = part.train

        def wrapped(dataset):
            seen[name] = dataset
            return train(dataset)

        monkeypatch.setattr(part, "train", wrapped)

    spy(model.correction, "correction")
    spy(model.model, "baseline")
    data = levels(12, 5)
    metrics = learn(model, data * 2, 1)
    assert len(seen["baseline"]) == 24
    assert [item.identity for item in seen["correction"]] == list(range(5)) * 2
    for item in seen["correction"]:
        label = data[item.identity].label
        difference = label["energy"] - label["baseline_energy"]
        assert item.label["energy"] == pytest.approx(difference)
        assert item.label.keys() == {"energy", "forces"}
    assert {"loss", "baseline_loss"} <= metrics[0].keys()


def test_cheap_labels_alone_teach_the_baseline_alone(make):
    model = make(baseline_model=NETWORK)
    before = learn(model, levels(10, 10), 1) and model.get_weights()
    metrics = learn(model, levels(10, 0), 1)
    after = model.get_weights()
    assert metrics[0].keys() == {k for k in metrics[0] if k.startswith("baseline_")}
    changed = {k.partition(".")[0] for k in after if not np.array_equal(after[k], before[k])}
    assert changed == {"baseline"}
    assert learn(make(baseline=ORACLE), levels(10, 0), 1) == []


def test_a_member_whose_bootstrap_has_no_expensive_label_learns_from_those_of_all(make):
    data = levels(10, 4)
    committee = Delta.committee([make(k, baseline_model=NETWORK) for k in range(2)])
    metrics = learn(committee, [data, data[5:]], 1)
    assert all("loss" in each for each in metrics[0])


def test_a_baseline_is_computed_once_for_all_members_and_all_rounds(make):
    committee = Delta.committee([make(k, baseline=ORACLE) for k in range(3)])
    data = stretched(8)
    Cheap.calls = 0
    learn(committee, [data, data * 2, data[:4]], 1)
    learn(committee, [data] * 3, 1)
    assert Cheap.calls == 8
    committee.predict(batch_of(data))
    assert Cheap.calls == 16


def test_a_committee_is_that_of_the_inner_models(make, options):
    data = levels(12, 6)
    alone = [make(k, **options) for k in range(3)]
    committee = Delta.committee([make(k, **options) for k in range(3)])
    assert type(committee._correction).__name__ == "DistanceCommittee"
    learn(committee, [data] * 3, 2)
    for k, model in enumerate(alone):
        learn(model, data, 2)
        committee.set_weights(k, model.get_weights())
    joint = committee.predict(batch_of(data))
    for k, model in enumerate(alone):
        for name, array in model.predict(batch_of(data)).items():
            np.testing.assert_allclose(joint[k][name], array, atol=1e-5)
        assert same(committee.get_weights()[k], model.get_weights())


def test_a_committees_state_is_restored(make, options):
    data = levels(10, 6)
    one, other = (Delta.committee([make(k, **options), make(k + 1, **options)]) for k in (0, 5))
    learn(one, [data] * 2, 2)
    other.set_state(pickle.loads(pickle.dumps(one.get_state())))
    learn(one, [data] * 2, 1)
    learn(other, [data] * 2, 1)
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        assert same(mine, theirs)


def test_it_is_built_from_settings(context):
    spec = KernelSpec("model", "delta", options={"model": NETWORK, "baseline_model": NETWORK})
    committee = build_committee(spec, [context(0), context(1)], training=True)
    learn(committee, [levels(10, 5)] * 2, 1)
    assert len(committee.predict(batch_of(stretched(3)))) == 2


class Springs:
    """The expensive oracle."""

    def label(self, sample):
        return dict(zip(("energy", "forces"), springs(sample["positions"]), strict=True))


def test_it_learns_from_the_labels_of_several_fidelities(make, context, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = [{"kernel": Cheap, "cost": 1.0}, {"kernel": Springs, "cost": 10.0}]
    oracle = Fidelities(context(), levels=table, novelty=1e9, first=4)
    data = [
        LabelledSample(item.identity, item.sample, oracle.label(item.sample))
        for item in stretched(8)
    ]
    assert [int(item.label["fidelity"]) for item in data] == [1] * 4 + [0] * 4
    check_model(lambda: make(baseline_model=NETWORK), data)


def test_where_the_baseline_fails_there_is_no_finite_prediction_and_no_lesson(make):
    data = stretched(6)
    torn = {**data[0].sample, "positions": 20 * RELAXED}
    model = make(baseline=ORACLE)
    learn(model, [*data, LabelledSample(99, torn, data[0].label)], 2)
    labels = as_batch(model.predict(Batch([data[0].sample, torn])), 2, "delta")
    assert finite_rows(labels).tolist() == [True, False]
    all_torn = as_batch(model.predict(Batch([torn, torn])), 2, "delta")
    assert finite_rows(all_torn).tolist() == [False, False]


def test_bad_options_are_refused(make):
    with pytest.raises(ContractError, match="one of baseline and baseline_model"):
        make()
    with pytest.raises(ContractError, match="one of baseline and baseline_model"):
        make(baseline=ORACLE, baseline_model=NETWORK)
    with pytest.raises(ContractError, match=r"delta: model: expected a kernel's name"):
        make(model={"name": "x"}, baseline=ORACLE)

    class Fixed:
        def predict(self, samples):
            return np.zeros(len(samples))

    with pytest.raises(ContractError, match="model has no method train"):
        make(model={"kernel": Fixed}, baseline=ORACLE)


def test_what_it_cannot_learn_from_is_refused(make):
    with pytest.raises(ContractError, match="empty"):
        learn(make(baseline=ORACLE), [], 1)
    with pytest.raises(ContractError, match=r"'baseline_energy' or the like.*several fidelities"):
        learn(make(baseline_model=NETWORK), stretched(3), 1)
    bare = [LabelledSample(0, np.zeros(2), np.zeros(2))]
    with pytest.raises(ContractError, match="labels of named arrays"):
        learn(make(baseline_model=NETWORK), bare, 1)
    other = [LabelledSample(0, stretched(1)[0].sample, {"heat": np.zeros(())})]
    with pytest.raises(ContractError, match="at least one name in both"):
        learn(make(baseline=ORACLE), other, 1)
    with pytest.raises(ContractError, match="not its weights"):
        make(baseline=ORACLE).set_weights({"mean": np.zeros(2)})
    learned = make(baseline_model=NETWORK)
    learn(learned, levels(6, 3), 1)
    with pytest.raises(ContractError, match="option baseline_model"):
        make(baseline=ORACLE).set_weights(learned.get_weights())
