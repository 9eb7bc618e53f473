"""What is the same for all potentials on graphs: on a network one can do by hand."""

import itertools

import numpy as np
import potential_physics as physics
import pytest
import torch
from torch import nn

from pal.errors import ContractError, KernelImportError, NotFiniteError, ShapeError
from pal.kernels.models.parts.fitting import Recipe
from pal.kernels.models.parts.graphs import element_table
from pal.kernels.models.parts.potential import Design, Potential
from pal.kernels.models.parts.references import FLOOR, References
from pal.kernels.models.parts.stacking import Layered, Mapped, stacked
from pal.records import Batch, LabelledSample
from pal.testing.checks import check_model

CUTOFF = 4.0


class Pairs(nn.Module):
    """Energies of pairs, one curve for each pair of elements: sum of w_k(Z_i) w_k(Z_j) g_k(r)."""

    def __init__(self, elements):
        super().__init__()
        self.register_buffer("table", element_table(elements), persistent=False)
        self.kinds = nn.Embedding(len(elements), 12)
        self.register_buffer("centres", torch.linspace(0.5, CUTOFF, 12))

    def forward(self, graphs):
        kinds = self.kinds(self.table[graphs.numbers])
        lengths = torch.linalg.vector_norm(graphs.vectors(), dim=-1)
        waves = torch.exp(-8 * (lengths[:, None] - self.centres) ** 2)
        fade = (1 - lengths / CUTOFF).clamp_min(0) ** 2
        ends = kinds.index_select(0, graphs.edges[0]) * kinds.index_select(0, graphs.edges[1])
        return graphs.total(graphs.gathered((ends * waves).sum(-1) * fade))


class Scaled(Pairs):
    """The same with a parameter that is in no layer."""

    def __init__(self, elements):
        super().__init__(elements)
        self.height = nn.Parameter(torch.randn(()))

    def forward(self, graphs):
        return self.height * super().forward(graphs)


@pytest.fixture
def make(context):
    def build(index=0, *, network=Pairs, batched=True, **options):
        recipe = {"batch_size": 4, "precision": "float64", "learning_rate": 0.01}
        names = set(Recipe.__dataclass_fields__) & set(options)
        recipe |= {name: options.pop(name) for name in names}
        design = Design("pairs", network, CUTOFF, Recipe(**recipe), batched=batched, **options)
        return Potential(context(index), design)

    return build


def test_keeps_the_contract(make):
    check_model(make, physics.methanols(10))
    check_model(lambda: make(batched=False, precision="float32"), physics.mixture(10))


def test_is_a_potential(make):
    model = make()
    physics.learn(model, physics.methanols(12), 20)
    sample = physics.distorted("CH3OH", 5)
    physics.check_gradient(model, sample)
    physics.check_symmetry(model, sample)
    physics.check_conservation(model, physics.distorted("CH3OH", 5, spread=0.02))
    physics.check_smooth_at_cutoff(model, CUTOFF)


def test_takes_all_sizes_and_crystals(make):
    physics.check_mixed_sizes(make())
    physics.check_periodic(make())


@pytest.mark.parametrize(
    ("network", "batched"), [(Pairs, False), (Pairs, True), (Scaled, False), (Scaled, True)]
)
def test_a_committee_predicts_and_learns_what_its_members_do(make, network, batched):
    physics.check_committee(lambda k: make(k, network=network, batched=batched))


def test_large_graphs_go_to_one_member_after_the_other(make):
    physics.check_committee(lambda k: make(k, largest=100))
    committee = Potential.committee([make(k, largest=100) for k in range(2)])
    committee.predict(physics.batch_of(physics.methanols(20)))
    assert committee._stacked is None
    committee.predict(physics.batch_of(physics.methanols(1)))
    assert committee._stacked is not None


def test_layers_are_stacked_as_they_are_and_other_networks_by_vmap():
    assert type(stacked([Pairs((1, 6)) for _ in range(2)])) is Layered
    assert type(stacked([Scaled((1, 6)) for _ in range(2)])) is Mapped


def test_a_committee_sees_new_weights_at_once(make):
    models = [make(k) for k in range(2)]
    committee, batch = Potential.committee(models), physics.batch_of(physics.methanols(3))
    before = committee.predict(batch)
    committee.set_weights(0, models[1].get_weights())
    after = committee.predict(batch)
    np.testing.assert_array_equal(after["forces"][1], before["forces"][1])
    np.testing.assert_allclose(after["forces"][0], before["forces"][1], atol=1e-12)


def test_members_of_a_committee_know_each_others_elements(make):
    """A bootstrap may leave out the only molecule that holds an element."""
    data = physics.mixture(4)
    committee = Potential.committee([make(k) for k in range(2)])
    physics.learn(committee, [data, data[1:2]], 1)
    assert committee.predict(physics.batch_of(data))


def test_a_committees_state_is_restored(make):
    data = physics.methanols(6)
    one, other = (Potential.committee([make(k), make(k + 1)]) for k in (0, 5))
    physics.learn(one, [data] * 2, 2)
    other.set_state(one.get_state())
    physics.learn(one, [data] * 2, 1)
    physics.learn(other, [data] * 2, 1)
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        assert physics.same(mine, theirs)


def test_weights_state_and_checkpoints_travel(make, tmp_path):
    physics.check_travel(make, physics.mixture(8))
    physics.check_checkpoint(make, physics.methanols(6), tmp_path)


def test_learns_with_the_seed_it_is_given(make):
    physics.check_learning(make, physics.methanols(24))
    physics.check_seed(make, physics.methanols(6))


def test_elements_are_known_or_refused(make):
    physics.check_elements(make, physics.methanols(6))


def test_what_has_not_been_built_has_no_weights(make):
    model = make()
    assert model.get_weights() == {}
    model.set_weights({})
    other = make(3)
    other.set_state(model.get_state())
    batch = physics.batch_of(physics.methanols(2))
    assert np.array_equal(other.predict(batch)["forces"], model.predict(batch)["forces"])


def test_learns_from_energies_alone(make):
    data = [
        LabelledSample(item.identity, item.sample, {"energy": item.label["energy"]})
        for item in physics.methanols(24)
    ]
    metrics = physics.learn(make(force_weight=0.0), data, 30)
    assert metrics[-1]["validation_energy_mae"] < 0.7 * metrics[0]["validation_energy_mae"]


def test_energies_are_those_of_the_labels_not_relative_ones(make):
    data = physics.mixture(24)
    model = make()
    physics.learn(model, data, 20)
    predicted = [physics.one(model, item.sample)[0] for item in data]
    truth = [float(item.label["energy"]) for item in data]
    assert np.std(truth) > 100
    assert np.abs(np.subtract(predicted, truth)).max() < 5
    assert np.asarray(predicted).dtype == np.float64


# -- references


def test_references_are_recovered():
    references = References((1, 6, 8))
    numbers = [np.array(each) for each in ([1, 1, 8], [6, 1, 1, 1, 1], [6, 8, 8], [6, 1, 1, 8])]
    truth = np.array([-13.6, -1030.0, -2040.0])
    energies = references.compositions(numbers) @ truth
    references.fit(numbers, energies, [np.full((3, 3), 2.0)])
    np.testing.assert_allclose(references.energies, truth)
    assert references.scale == pytest.approx(2.0)


def test_one_composition_gives_its_mean_energy():
    references = References((1, 8))
    numbers = [np.array([1, 1, 8])] * 3
    references.fit(numbers, np.array([-75.0, -76.0, -77.0]), [np.zeros((3, 3))])
    np.testing.assert_allclose(references.compositions(numbers) @ references.energies, -76.0)
    assert references.scale == FLOOR


def test_what_is_known_stays_when_new_elements_come():
    references = References((1, 6, 8))
    water, methane = np.array([1, 1, 8]), np.array([6, 1, 1, 1, 1])
    references.fit([water], np.array([-76.0]), [np.ones((3, 3))])
    before, scale = references.energies.copy(), references.scale
    references.fit([water, methane], np.array([-70.0, -40.0]), [np.ones((3, 3)) * 9] * 2)
    np.testing.assert_array_equal(references.energies[[0, 2]], before[[0, 2]])
    assert references.compositions([methane]) @ references.energies == pytest.approx(-40.0)
    assert references.scale == scale
    restored = References.of(references.weights())
    assert physics.same(restored.weights(), references.weights())


# -- what is refused


def test_samples_and_labels_that_cannot_be_used_are_named(make):
    sample = physics.distorted("H2O")
    bare = [LabelledSample(0, sample, {"energy": np.array(1.0)})]
    with pytest.raises(ContractError, match=r"pairs needs the array 'forces'.*force_weight = 0"):
        physics.learn(make(), bare, 1)
    with pytest.raises(ContractError, match="'energy' in each label; got a bare array"):
        physics.learn(make(), [LabelledSample(0, sample, np.zeros(3))], 1)
    wrong = {"energy": np.array(1.0), "forces": np.zeros((2, 3))}
    with pytest.raises(ShapeError, match=r"'forces' of shape \(3, 3\) .* sample 7, got \(2, 3\)"):
        physics.learn(make(), [LabelledSample(7, sample, wrong)], 1)
    with pytest.raises(ContractError, match="dataset is empty"):
        physics.learn(make(), [], 1)
    with pytest.raises(ContractError, match=r"pairs: .*'positions' and 'numbers'"):
        make().predict(Batch([np.zeros(3)]))


def test_weights_of_something_else_are_refused(make):
    with pytest.raises(ContractError, match="not weights of a potential"):
        make().set_weights({"other": np.zeros(3)})
    model = make()
    model.predict(physics.batch_of(physics.methanols(1)))
    weights = dict(model.get_weights())
    del weights["network.kinds.weight"]
    with pytest.raises(ShapeError, match="same options"):
        make().set_weights(weights)


def test_checkpoints_that_cannot_be_read_are_named(make, tmp_path):
    with pytest.raises(KernelImportError, match=r"pairs: cannot read checkpoint = .*nowhere"):
        make(checkpoint=tmp_path / "nowhere.npz")
    (tmp_path / "damaged.npz").write_bytes(b"nonsense")
    with pytest.raises(KernelImportError, match="npz file of weights"):
        make(checkpoint=tmp_path / "damaged.npz")
    with pytest.raises(KernelImportError, match=r"holds no member-<k>.npz"):
        make(checkpoint=tmp_path)


def test_a_librarys_own_file_is_read_by_its_loader(make, tmp_path):
    source = make(4)
    batch = physics.batch_of(physics.methanols(2))
    expected = source.predict(batch)
    model = make(checkpoint=tmp_path / "theirs.pt", load=lambda path: source.get_weights())
    assert physics.same(model.predict(batch), expected)


def test_divergence_is_an_error_and_no_silence(make):
    with pytest.raises(NotFiniteError, match=r"pairs: .*lower learning_rate"):
        physics.learn(make(learning_rate=1e38, precision="float32"), physics.methanols(8), 50)


def test_weights_below_zero_are_refused(make):
    with pytest.raises(ContractError, match="force_weight = -1"):
        make(force_weight=-1.0)


def test_training_may_be_left_at_any_epoch(make):
    model, data = make(), physics.methanols(8)
    for count in (1, 2):
        training = model.train(data)
        assert len(list(itertools.islice(training, count))) == count
        training.close()
    assert model.predict(physics.batch_of(data))
