"""The convolutional network: what it must not see, what it must, and what the runtime demands."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from pal.errors import ContractError, KernelImportError, ShapeError
from pal.kernels.models.convolutional_network import convolutional_network
from pal.kernels.models.parts import images
from pal.kernels.models.parts.images import ImageModel
from pal.records import Batch, LabelledSample
from pal.testing.checks import check_model

SMALL = {"channels": [6, 6], "hidden": 8, "batch_size": 8}
BOTH = ["vertical", "horizontal"]
DIMS = {"vertical": -2, "horizontal": -1}


def channels(count, seed=0, size=(6, 10)):
    """Walls (h, w) of random height, with their drag and heat transfer."""
    rng = np.random.default_rng(seed)
    items = []
    for k in range(count):
        walls = (rng.random(size) < rng.uniform(0.1, 0.6)).astype(float)
        edges = np.abs(np.diff(walls, axis=1, append=walls[:, :1])).mean()
        label = {"Cf": np.asarray(walls.mean() + edges), "St": np.asarray(1e4 + edges**2)}
        items.append(LabelledSample(k, {"walls": walls}, label))
    return items


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return convolutional_network(context(index), **{**SMALL, "inputs": "walls", **options})

    return build


def learn(model, data, epochs):
    return list(itertools.islice(model.train(data), epochs))


def batch_of(items):
    return Batch([item.sample for item in items])


def outputs(model, walls):
    labels = model.predict(Batch.stacked({"walls": np.asarray(walls)}))
    return np.stack([labels["Cf"], labels["St"]])


def started(make, **options):
    """A network with random weights of order 1, whose outputs differ from image to image."""
    model = make(**options)
    learn(model, channels(8), 1)
    rng = np.random.default_rng(1)
    weights = {
        name: rng.normal(0, 0.5, array.shape)
        if name.startswith("network.") and array.ndim and not name.endswith(("mean", "spread"))
        else array
        for name, array in model.get_weights().items()
    }
    model.set_weights(weights)
    return model


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "options", [{}, {"flips": BOTH, "shifts": BOTH}, {"precision": "float64", "shifts": BOTH}]
)
def test_keeps_the_contract(make, options):
    check_model(lambda: make(**options), channels(12))


def test_keeps_the_contract_with_bare_arrays_and_several_channels(make):
    rng = np.random.default_rng(0)
    data = [LabelledSample(k, rng.random((3, 5, 4)), rng.random(2)) for k in range(10)]
    check_model(lambda: make(inputs=None), data)


@pytest.mark.parametrize("shifts", [[], ["vertical"], ["horizontal"], BOTH])
@pytest.mark.parametrize("flips", [[], ["vertical"], ["horizontal"], BOTH])
def test_flips_and_shifts_change_nothing_where_told_and_something_elsewhere(make, flips, shifts):
    model = started(make, flips=flips, shifts=shifts, precision="float64")
    walls = channels(6, seed=3)
    walls = np.array([item.sample["walls"] for item in walls])
    here, unit = outputs(model, walls), model.scale.spread[:, None]
    changes = {("flip", name): np.flip(walls, dim) for name, dim in DIMS.items()}
    changes |= {("shift", name): np.roll(walls, 2, dim) for name, dim in DIMS.items()}
    told = {("flip", name) for name in flips} | {("shift", name) for name in shifts}
    for change, changed in changes.items():
        off = np.abs(outputs(model, changed) - here) / unit
        if change in told:
            assert off.max() < 1e-12 * 1e4 / unit.min(), change
        else:
            assert off.max() > 1e-5, change


def test_it_sees_where_a_wall_is_along_an_axis_that_does_not_shift(make):
    """The label is a place, which the mean over all pixels alone cannot tell."""
    items = []
    for k, row in enumerate(list(range(8)) * 4):
        walls = np.zeros((8, 6))
        walls[row, k % 6] = 1.0
        items.append(LabelledSample(k, {"walls": walls}, np.asarray(float(row))))
    blind = make(shifts=BOTH, validation=0.0)
    seeing = make(shifts=["horizontal"], validation=0.0)
    losses = [learn(model, items, 40)[-1]["loss"] for model in (blind, seeing)]
    assert losses[0] > 0.9
    assert losses[1] < 0.5


def test_learns(make):
    model = make(flips=BOTH, shifts=BOTH, channels=[8, 8], learning_rate=0.01, validation=0.0)
    data, fresh = channels(40), channels(20, seed=5)
    metrics = learn(model, data, 60)
    truth = np.array([[item.label[name] for item in fresh] for name in ("Cf", "St")])
    walls = np.array([item.sample["walls"] for item in fresh])
    off = np.abs(outputs(model, walls) - truth).mean(1) / truth.std(1)
    assert metrics[-1]["loss"] < 0.1 * metrics[0]["loss"]
    assert (off < 0.4).all()


def test_numbers_and_several_images_are_channels(make):
    rng = np.random.default_rng(0)
    data = [
        LabelledSample(
            k,
            {
                "walls": rng.random((4, 4)),
                "flow": rng.random((2, 4, 4)),
                "Re": np.asarray(10.0 * k),
            },
            np.asarray(float(k)),
        )
        for k in range(16)
    ]
    model = make(inputs=["walls", "flow", "Re"], shifts=BOTH, validation=0.0)
    assert learn(model, data, 60)[-1]["loss"] < 0.2
    assert model.get_weights()["channels"] == 4


def test_images_of_different_sizes_are_learnt_and_predicted_together(make):
    data = channels(8) + [
        LabelledSample(100 + item.identity, item.sample, item.label)
        for item in channels(8, size=(4, 7))
    ]
    model = make(shifts=BOTH)
    learn(model, data, 3)
    together = model.predict(batch_of(data))["Cf"]
    alone = [model.predict(batch_of([item]))["Cf"][0] for item in data]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("crowd", [0, 10**9])
def test_a_committee_predicts_and_learns_what_its_members_do(make, monkeypatch, crowd):
    monkeypatch.setattr(images, "CROWD", crowd)
    data, options = channels(12), {"flips": BOTH, "shifts": ["horizontal"]}
    alone = [make(k, **options) for k in range(3)]
    committee = ImageModel.committee([make(k, **options) for k in range(3)])
    for model in alone:
        learn(model, data, 2)
    learn(committee, [data] * 3, 1)
    committee.predict(batch_of(data))
    for k, model in enumerate(alone):
        committee.set_weights(k, model.get_weights())
    joint = committee.predict(batch_of(data))
    assert joint["Cf"].shape == (3, 12)
    for k, model in enumerate(alone):
        for name, array in model.predict(batch_of(data)).items():
            np.testing.assert_allclose(joint[name][k], array, rtol=1e-6)


def test_members_differ_by_their_seed_and_by_nothing_else(make):
    models = [make(0), make(0), make(1)]
    for model in models:
        learn(model, channels(10), 2)
    first, second, other = (model.get_weights() for model in models)
    assert same(first, second)
    assert not same(first, other)


def test_training_goes_on_after_an_interruption_as_if_there_was_none(make):
    whole, parts, restored = make(), make(), make(7)
    learn(whole, channels(10), 4)
    learn(parts, channels(10), 2)
    restored.set_state(pickle.loads(pickle.dumps(parts.get_state())))
    learn(restored, channels(10), 2)
    assert same(whole.get_weights(), restored.get_weights())


def test_a_committees_state_is_restored(make):
    one, other = (ImageModel.committee([make(k), make(k + 1)]) for k in (0, 5))
    other.set_state(one.get_state())
    learn(one, [channels(8)] * 2, 2)
    other.set_state(pickle.loads(pickle.dumps(one.get_state())))
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        assert same(mine, theirs)


def test_it_starts_from_a_checkpoint(make, tmp_path):
    model = make()
    learn(model, channels(8), 2)
    np.savez(tmp_path / "member-0.npz", **model.get_weights())
    other = make(3, checkpoint=tmp_path)
    assert same(model.get_weights(), other.get_weights())
    with pytest.raises(KernelImportError, match="cannot read checkpoint"):
        make(checkpoint=tmp_path / "none.npz")


def test_what_it_cannot_use_is_refused(make):
    model = make()
    with pytest.raises(ContractError, match=r"before it has seen a label.*\[initial\]"):
        model.predict(batch_of(channels(1)))
    with pytest.raises(ContractError, match="empty"):
        learn(model, [], 1)
    with pytest.raises(ContractError, match=r"\['pressure'\] are missing.*option inputs"):
        learn(make(inputs="pressure"), channels(2), 1)
    with pytest.raises(ShapeError, match=r"expected images \(height, width\)"):
        learn(make(inputs=None), [LabelledSample(0, np.zeros(3), np.zeros(1))], 1)
    learn(model, channels(4), 1)
    with pytest.raises(ShapeError, match="images of 1 channels; got 2"):
        model.predict(Batch([{"walls": np.zeros((2, 6, 10))}]))
    with pytest.raises(ContractError, match=r"not its weights.*'outputs'"):
        make().set_weights({"bias": np.zeros(2)})
    with pytest.raises(ShapeError, match="same options"):
        make(hidden=9).set_weights(model.get_weights())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flips": ["diagonal"]}, r"lists of \['horizontal', 'vertical'\]"),
        ({"channels": []}, "one or more channels"),
        ({"kernel_size": 4}, "odd kernel_size"),
        ({"batch_size": 0}, "batch_size >= 1"),
    ],
)
def test_bad_options_are_refused(make, options, words):
    with pytest.raises(ContractError, match=words):
        make(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_predicts_as_on_a_cpu(context):
    data = channels(10)
    model = convolutional_network(context(0), **SMALL, inputs="walls", precision="float64")
    learn(model, data, 2)
    place = replace(context(0), device="cuda:0")
    other = convolutional_network(place, **SMALL, inputs="walls", precision="float64")
    learn(other, data, 1)
    other.set_weights(model.get_weights())
    for committee in (other, ImageModel.committee([other, other])):
        labels = committee.predict(batch_of(data))
        expected = model.predict(batch_of(data))["Cf"]
        np.testing.assert_allclose(np.atleast_2d(labels["Cf"])[0], expected, rtol=1e-9)
