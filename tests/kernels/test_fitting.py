"""The loop that all networks learn by: on a line, where everything is known."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from pal.errors import ContractError, NotFiniteError, ShapeError
from pal.kernels.models.parts.fitting import Fit, Recipe, arrays_of, built, put_arrays, seeded
from pal.records import LabelledSample


def line(count=40, noise=0.0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 2))
    y = x @ [2.0, -1.0] + 0.5 + noise * rng.normal(size=count)
    return [LabelledSample(k, x[k], y[k : k + 1]) for k in range(count)]


def collate(items):
    x = np.array([item.sample for item in items])
    y = np.array([item.label for item in items])
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)


def loss(module, batch):
    off = module(batch[0]) - batch[1]
    return off.square().mean(), off.detach().abs().mean()


def fit(seed=0, module=lambda: nn.Linear(2, 1), **options):
    recipe = Recipe(**{"learning_rate": 0.05, "batch_size": 8, **options})
    network = built(module, seed, recipe.dtype, "cpu")
    return Fit("line", network, collate, loss, recipe, seed, error="mae")


def learn(one, data, epochs):
    return list(itertools.islice(one.epochs(data), epochs))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_finds_the_line():
    one = fit()
    metrics = learn(one, line(), 60)
    weights = one.get_weights()
    np.testing.assert_allclose(weights["weight"], [[2.0, -1.0]], atol=0.02)
    np.testing.assert_allclose(weights["bias"], [0.5], atol=0.02)
    assert set(metrics[0]) == {"loss", "mae", "validation_mae", "learning_rate"}
    assert metrics[-1]["validation_mae"] < 0.05 * metrics[0]["validation_mae"]


def test_the_average_predicts_and_the_raw_weights_go_ahead():
    one = fit(averaging=0.999)
    learn(one, line(noise=0.5), 4)
    ahead, behind = arrays_of(one.module), one.get_weights()
    assert not same(ahead, behind)
    assert not one.averaged.training
    assert not any(p.requires_grad for p in one.averaged.parameters())


def test_without_averaging_the_last_weights_predict():
    one = fit(averaging=0.0)
    learn(one, line(), 2)
    assert same(arrays_of(one.module), one.get_weights())


def test_ends_by_itself_at_the_last_rate():
    metrics = learn(fit(patience=2), line(noise=0.3), 10_000)
    assert len(metrics) < 10_000
    rates = [each["learning_rate"] for each in metrics]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.05 / 32)


def test_a_later_round_goes_on_from_where_the_last_one_was_left():
    one, other = fit(), fit()
    training = one.epochs(line(20))
    next(training)
    training.close()
    learn(other, line(20), 1)
    assert same(one.get_weights(), other.get_weights())
    first = learn(fit(), line(40), 1)[0]["validation_mae"]
    assert learn(one, line(40), 1)[0]["validation_mae"] < first


def test_a_sample_stays_on_its_side_of_the_validation():
    one, other = fit(0, validation=0.3), fit(1, validation=0.3)
    few, many, others = (
        {item.identity for item in each._divide(line(count))[1]}
        for each, count in ((one, 20), (one, 40), (other, 40))
    )
    assert few == {identity for identity in many if identity < 20}
    assert many != others


def test_the_seed_decides_and_nobody_is_disturbed():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    dropping = {"module": lambda: nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))}
    first, again, other = fit(0, **dropping), fit(0, **dropping), fit(1, **dropping)
    for one in (first, again, other):
        learn(one, line(), 2)
        torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first.get_weights(), again.get_weights())
    assert not same(first.get_weights(), other.get_weights())


def test_seeded_leaves_the_random_numbers_as_they_were():
    before = torch.get_rng_state()
    with seeded(1):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_goes_on_bit_for_bit():
    whole, parts, restored = fit(0, weight_decay=0.01), fit(0, weight_decay=0.01), fit(5)
    learn(whole, line(), 2)
    learn(whole, line(), 2)
    learn(parts, line(), 2)
    restored = fit(5, weight_decay=0.01)
    restored.set_state(pickle.loads(pickle.dumps(parts.get_state())))
    learn(restored, line(), 2)
    assert same(whole.get_weights(), restored.get_weights())


def test_buffers_belong_to_the_weights():
    def module():
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    one, other = fit(module=module), fit(9, module=module)
    learn(one, line(), 3)
    assert one.get_weights()["1.num_batches_tracked"] > 0
    other.set_weights(one.get_weights())
    assert same(one.get_weights(), other.get_weights())
    x = collate(line())[0]
    assert torch.equal(one.averaged(x), other.averaged(x))


def test_the_version_tells_of_every_change():
    one = fit()
    seen = [one.version]
    learn(one, line(), 2)
    seen.append(one.version)
    one.set_weights(one.get_weights())
    seen.append(one.version)
    assert len(set(seen)) == 3


def test_precision_is_that_of_the_recipe():
    assert fit(precision="float64").get_weights()["weight"].dtype == np.float64
    assert torch.get_default_dtype() == torch.float32


def test_weights_of_another_network_are_refused():
    with pytest.raises(ShapeError, match=r"line: .*expected \{'weight': \(1, 2\)\}.*\(1, 3\)"):
        put_arrays("line", nn.Linear(2, 1), arrays_of(nn.Linear(3, 1)))
    with pytest.raises(ShapeError, match="2 arrays differ"):
        fit().set_weights({})


def test_divergence_is_an_error_and_no_silence():
    with pytest.raises(NotFiniteError, match=r"line: the training diverged.*lower learning_rate"):
        learn(fit(learning_rate=1e38), line(), 20)


def test_nothing_to_learn_is_said():
    with pytest.raises(ContractError, match="line: the dataset is empty"):
        learn(fit(), [], 1)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"validation": 1.0}, "validation < 1"),
        ({"averaging": 1.0}, "averaging < 1"),
        ({"precision": "half"}, "'float64'"),
        ({"patience": 0}, "patience >= 1"),
        ({"clip": 0.0}, "clip > 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(options, rule):
    with pytest.raises(ContractError, match=rule):
        Recipe(**options)
