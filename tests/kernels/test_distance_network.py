"""The network is a potential: what physics demands of any, and what the runtime demands."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from toy_molecule import NUMBERS, RELAXED, batch_of, stretched

from pal.errors import ContractError, NotFiniteError, ShapeError
from pal.kernels.calculator import CommitteeCalculator
from pal.kernels.models.distance_network import DistanceNetwork
from pal.kernels.models.parts.lessons import Lessons, States, orders_of
from pal.records import Batch, Feedback, LabelledSample
from pal.roles import Context
from pal.testing.checks import check_model

SMALL = {"hidden": [16, 16], "batch_size": 8}


@pytest.fixture(scope="module")
def data():
    return stretched(40)


@pytest.fixture
def make(context):
    return lambda index=0, **options: DistanceNetwork(context(index), **{**SMALL, **options})


@pytest.fixture
def trained(make, data):
    model = make()
    learn(model, data, 60)
    return model


def learn(model, data, epochs):
    return list(itertools.islice(model.train(data), epochs))


def excited(items, count):
    """The springs, and `count` - 1 states above them, the stiffer the higher."""
    rises = 1.0 + 0.3 * np.arange(count)
    return [
        LabelledSample(
            item.identity,
            item.sample,
            {
                "energies": item.label["energy"] * rises + np.arange(count),
                "state_forces": item.label["forces"] * rises[:, None, None],
            },
        )
        for item in items
    ]


def energies(model, frames):
    return model.predict(Batch.stacked({"positions": np.asarray(frames)}))["energy"]


def dynamics(predict):
    """Kinetic and total energies (300,) in eV along a trajectory on what `predict` says."""

    def ask(sample):
        labels = predict(Batch([sample]))
        return Feedback({k: v[0] for k, v in labels.items()}, {}, 0.0, True, 0)

    atoms = Atoms(NUMBERS, RELAXED)
    atoms.set_momenta(np.random.default_rng(0).normal(0, 0.3, RELAXED.shape))
    atoms.calc = CommitteeCalculator(ask)
    verlet = VelocityVerlet(atoms, 0.25 * units.fs)
    kinetic, total = [], []
    for _ in range(300):
        verlet.run(1)
        kinetic.append(atoms.get_kinetic_energy())
        total.append(atoms.get_total_energy())
    return kinetic, total


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_keeps_the_contract(make, data):
    check_model(make, data)


def test_forces_are_the_negative_gradient(trained, data):
    sample = data[0].sample["positions"]
    forces = trained.predict(batch_of(data[:1]))["forces"][0]
    step = 2e-3
    for atom, axis in itertools.product(range(len(sample)), range(3)):
        shift = np.zeros_like(sample)
        shift[atom, axis] = step
        plus, minus = energies(trained, [sample + shift, sample - shift])
        assert -(plus - minus) / (2 * step) == pytest.approx(forces[atom, axis], abs=5e-3)


def test_double_precision_is_exact_to_many_digits(make, data):
    check_model(lambda: make(precision="float64"), data)
    model = make(precision="float64")
    learn(model, data, 5)
    positions = data[0].sample["positions"]
    forces = model.predict(batch_of(data[:1]))["forces"][0]
    for index in ((0, 0), (3, 2)):
        step = np.zeros_like(positions)
        step[index] = 1e-4
        below, above = energies(model, [positions - step, positions + step])
        assert forces[index] == pytest.approx((below - above) / 2e-4, abs=1e-6)
    with pytest.raises(ContractError, match=r'precision = "float32" or "float64", got .half'):
        make(precision="half")


def test_neither_place_nor_orientation_matters(trained, data):
    positions = data[0].sample["positions"]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    moved = positions @ turn + [100.0, -50.0, 7.0]
    result = trained.predict(Batch.stacked({"positions": np.array([positions, moved])}))
    assert result["energy"][0] == pytest.approx(result["energy"][1], abs=1e-5)
    np.testing.assert_allclose(result["forces"][0] @ turn, result["forces"][1], atol=1e-4)


@pytest.fixture(scope="module")
def trained_states(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    model = DistanceNetwork(Context("model", 0, 1, 0, folder), states=3, **SMALL)
    learn(model, excited(data, 3), 200)
    return model


def test_keeps_the_contract_with_several_states(make, data):
    check_model(lambda: make(states=3, state_weights=[2.0, 1.0, 1.0]), excited(data, 3))


def test_forces_of_each_state_are_its_negative_gradient(trained_states, data):
    sample = data[0].sample["positions"]
    forces = trained_states.predict(batch_of(data[:1]))["state_forces"][0]
    step = 2e-3
    for atom, axis in itertools.product(range(len(sample)), range(3)):
        shift = np.zeros_like(sample)
        shift[atom, axis] = step
        frames = Batch.stacked({"positions": np.array([sample + shift, sample - shift])})
        plus, minus = trained_states.predict(frames)["energies"]
        np.testing.assert_allclose(-(plus - minus) / (2 * step), forces[:, atom, axis], atol=5e-3)


def test_dynamics_on_an_excited_state_conserve_energy(trained_states):
    kinetic, total = dynamics(
        lambda batch: {
            "energy": (labels := trained_states.predict(batch))["energies"][:, 1],
            "forces": labels["state_forces"][:, 1],
        }
    )
    assert np.ptp(total) < 0.02 * np.ptp(kinetic)


def test_learns_all_states_and_their_levels(trained_states, data):
    labels = Batch([item.label for item in excited(data, 3)])
    result = trained_states.predict(batch_of(data))
    gaps = np.diff(result["energies"], axis=1)
    np.testing.assert_allclose(gaps, np.diff(labels["energies"], axis=1), atol=0.3)
    off = np.abs(result["state_forces"] - labels["state_forces"]).mean((0, 2, 3))
    assert (off < 0.5 * np.abs(labels["state_forces"]).mean((0, 2, 3))).all()


def test_a_state_without_weight_is_not_learnt(make, data):
    model = make(states=2, state_weights=[1.0, 0.0])
    before = None
    for _ in range(2):
        learn(model, excited(data, 2), 3)
        last = model.get_weights()["weight2"][1]
        assert before is None or np.array_equal(before, last)
        before = last


def test_a_committee_of_states_is_its_members(make, data):
    many = excited(data, 3)
    alone = [make(k, states=3, validation=0.0) for k in range(3)]
    committee = DistanceNetwork.committee([make(k, states=3, validation=0.0) for k in range(3)])
    for model in alone:
        learn(model, many, 3)
    learn(committee, [many] * 3, 3)
    joint = committee.predict(batch_of(data))
    assert joint["state_forces"].shape == (3, len(data), 3, 5, 3)
    for k, model in enumerate(alone):
        for name, array in model.predict(batch_of(data)).items():
            np.testing.assert_allclose(joint[name][k], array, atol=1e-3)


def test_seven_states_of_38_atoms_for_89_walkers_and_4_members(make):
    rng = np.random.default_rng(0)
    place = 3 * rng.normal(size=(38, 3))
    frames = Batch.stacked({"positions": place + 0.1 * rng.normal(size=(89, 38, 3))})
    committee = DistanceNetwork.committee([make(k, states=7) for k in range(4)])
    labels = committee.predict(frames)
    assert labels["energies"].shape == (4, 89, 7)
    assert labels["state_forces"].shape == (4, 89, 7, 38, 3)
    assert np.isfinite(labels["state_forces"]).all()


def test_forces_and_torques_add_up_to_nothing(trained, data):
    forces = trained.predict(batch_of(data))["forces"]
    positions = np.array([item.sample["positions"] for item in data])
    np.testing.assert_allclose(forces.sum(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(np.cross(positions, forces).sum(axis=1), 0, atol=2e-4)


def test_dynamics_on_its_forces_conserve_energy(trained):
    kinetic, total = dynamics(trained.predict)
    assert np.ptp(total) < 0.02 * np.ptp(kinetic)


def test_learns(make, data):
    fresh = stretched(20, seed=9)
    truth = np.array([item.label["forces"] for item in fresh])
    model = make(hidden=[64], validation=0.0)
    metrics = learn(model, data, 300)
    error = np.abs(model.predict(batch_of(fresh))["forces"] - truth).mean()
    assert metrics[-1]["loss"] < 0.1 * metrics[0]["loss"]
    assert error < 0.25 * np.abs(truth).mean()


def test_the_level_of_the_energy_does_not_matter(make, data):
    lifted = [
        LabelledSample(i.identity, i.sample, {**i.label, "energy": i.label["energy"] - 24_000.0})
        for i in data
    ]
    one, other = make(), make()
    learn(one, data, 5)
    learn(other, lifted, 5)
    batch = batch_of(data)
    np.testing.assert_allclose(
        one.predict(batch)["energy"] - 24_000.0, other.predict(batch)["energy"], atol=1e-3
    )


def test_a_committee_predicts_and_learns_what_its_members_do(make, data):
    alone = [make(k, validation=0.0) for k in range(3)]
    committee = DistanceNetwork.committee([make(k, validation=0.0) for k in range(3)])
    for model in alone:
        learn(model, data, 3)
    learn(committee, [data] * 3, 3)
    joint = committee.predict(batch_of(data))
    assert joint["forces"].shape == (3, len(data), 5, 3)
    for k, model in enumerate(alone):
        single = model.predict(batch_of(data))
        for name, array in single.items():
            np.testing.assert_allclose(joint[name][k], array, atol=1e-3)


def test_a_committee_may_learn_from_different_datasets(make, data):
    committee = DistanceNetwork.committee([make(k) for k in range(2)])
    metrics = learn(committee, [data, data[:10] * 2], 2)
    assert len(metrics[0]) == 2


def test_members_differ_by_their_seed_and_by_nothing_else(make, data):
    first, second, other = make(0), make(0), make(1)
    for model in (first, second, other):
        learn(model, data, 4)
    assert same(first.get_weights(), second.get_weights())
    assert not same(first.get_weights(), other.get_weights())


def test_weights_travel_bit_for_bit(make, trained, data):
    committee = DistanceNetwork.committee([make(1), make(2)])
    committee.predict(batch_of(data))
    committee.set_weights(1, trained.get_weights())
    assert same(committee.get_weights()[1], trained.get_weights())


def test_it_starts_from_a_checkpoint(make, trained, tmp_path):
    np.savez(tmp_path / "member-0.npz", **trained.get_weights())
    assert same(make(checkpoint=tmp_path).get_weights(), trained.get_weights())


def test_weights_of_another_network_are_refused(make, trained):
    with pytest.raises(ShapeError, match="hidden"):
        make(hidden=[8]).set_weights(trained.get_weights())
    with pytest.raises(ContractError, match="'mean' is missing"):
        make().set_weights({"other": np.zeros(3)})


def test_training_goes_on_after_an_interruption_as_if_there_was_none(make, data):
    whole, parts = make(), make()
    learn(whole, data, 4)
    learn(parts, data, 2)
    restored = make(7)
    restored.set_state(pickle.loads(pickle.dumps(parts.get_state())))
    learn(restored, data, 2)
    assert same(whole.get_weights(), restored.get_weights())


def test_a_committees_state_is_restored(make, data):
    one, other = (DistanceNetwork.committee([make(k), make(k + 1)]) for k in (0, 5))
    learn(one, [data] * 2, 2)
    other.set_state(pickle.loads(pickle.dumps(one.get_state())))
    learn(one, [data] * 2, 1)
    learn(other, [data] * 2, 1)
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        assert same(mine, theirs)


def test_training_ends_by_itself(make, data):
    epochs = learn(make(patience=2), data[:10], 10_000)
    assert len(epochs) < 10_000
    assert epochs[-1]["learning_rate"] == pytest.approx(epochs[0]["learning_rate"] / 64)


def test_a_sample_stays_on_its_side_of_the_validation(make, data):
    model = make(validation=0.3)
    model.predict(batch_of(data))

    few, many = Lessons([data[:20]], States(1)), Lessons([data], States(1))
    checked_few = model._stack._divide(0, few.rows[0], few)[1]
    checked_many = model._stack._divide(0, many.rows[0], many)[1]
    assert set(checked_few) == {row for row in checked_many if row < 20}


def repelling(positions):
    """Energy (n,) and forces (n, atoms, 3) of charges, alike for atoms of one element."""
    vectors = positions[:, :, None] - positions[:, None]
    lengths = np.linalg.norm(vectors, axis=-1) + np.eye(len(NUMBERS))
    pairs = np.outer(NUMBERS, NUMBERS) * (1 - np.eye(len(NUMBERS))) / lengths
    return 0.5 * pairs.sum((1, 2)), ((pairs / lengths**2)[..., None] * vectors).sum(2)


def charged(count, seed=0):
    positions = np.array([item.sample["positions"] for item in stretched(count, seed)])
    return [
        LabelledSample(
            number, {"positions": one, "numbers": NUMBERS}, {"energy": energy, "forces": forces}
        )
        for number, (one, energy, forces) in enumerate(
            zip(positions, *repelling(positions), strict=True)
        )
    ]


def test_a_label_holds_for_every_order_of_equivalent_atoms():
    lessons = Lessons([charged(4)], States(1), equivalent=[[1, 2, 3]])
    assert lessons.rows[0].tolist() == list(range(24))
    assert lessons.identities.tolist() == np.repeat(range(4), 6).tolist()
    energies, forces = repelling(lessons.positions)
    np.testing.assert_allclose(lessons.energies[:, 0], energies)
    np.testing.assert_allclose(lessons.forces[:, 0], forces)
    hydrogens = lessons.positions[:6, 1:4]
    assert len({one.tobytes() for one in hydrogens}) == 6
    np.testing.assert_array_equal(
        lessons.positions[:6, [0, 4]], lessons.positions[[0] * 6][:, [0, 4]]
    )


def test_equivalent_atoms_are_learned_from_each_other(make):
    """What was labelled in one order only is known in another."""
    items = charged(20)
    own = np.array([item.sample["positions"] for item in items])
    worse = []
    for equivalent in ([], [[1, 2]]):
        model = make(equivalent=equivalent, smoothness=1.0)
        learn(model, items, 200)
        errors = []
        for positions in (own, own[:, [0, 2, 1, 3, 4]]):
            batch = Batch([{"positions": one, "numbers": NUMBERS} for one in positions])
            off = model.predict(batch)["forces"] - repelling(positions)[1]
            errors.append(np.abs(off).mean())
        worse.append(errors[1] / errors[0])
    assert worse[0] > 1.5
    assert worse[1] < 1.2


def test_all_orders_of_a_sample_are_on_one_side_of_the_validation(make):
    model = make(validation=0.3, equivalent=[[1, 2, 3]])
    items = charged(20)
    model.predict(batch_of(items))
    lessons = Lessons([items], States(1), equivalent=[[1, 2, 3]])
    learned, checked = model._stack._divide(0, lessons.rows[0], lessons)
    assert not set(lessons.identities[learned]) & set(lessons.identities[checked])


@pytest.mark.parametrize(
    ("equivalent", "message"),
    [
        ([[1, 5]], "from 0 to 4"),
        ([[1, 2], [2, 3]], "each in one of them"),
        ([[0, 1]], r"nuclear charges \[6, 1\]"),
    ],
)
def test_equivalent_atoms_must_be(make, data, equivalent, message):
    with pytest.raises(ContractError, match=message):
        learn(make(equivalent=equivalent), data, 1)


def test_too_many_orders_are_refused():
    with pytest.raises(ContractError, match="more than 1000 orders"):
        orders_of([list(range(7))], np.ones(7))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("states", [1, 3])
def test_on_a_gpu_it_learns_and_predicts_as_on_a_cpu(context, make, data, states):
    data = data if states == 1 else excited(data, states)
    place = replace(context(), device="cuda:0")
    model = DistanceNetwork(place, states=states, **SMALL)
    learn(model, data, 3)
    other = make(states=states)
    other.set_weights(model.get_weights())
    mine, theirs = model.predict(batch_of(data)), other.predict(batch_of(data))
    for name, array in mine.items():
        np.testing.assert_allclose(array, theirs[name], atol=1e-4)


def test_another_molecule_is_refused(trained):
    other = Batch([{"positions": np.eye(3), "numbers": np.array([1, 1, 8])}])
    with pytest.raises(ShapeError, match="knows a molecule of 5 atoms, got one of 3"):
        trained.predict(other)


def test_other_atoms_or_another_order_are_refused(make, data):
    swapped = {**data[0].sample, "numbers": data[0].sample["numbers"][::-1]}
    message = r"knows the molecule of the atoms \[6, 1, 1, 1, 8\].*got \[8, 1, 1, 1, 6\]"
    model = make()
    learn(model, data, 1)
    for told in (model, make()):
        told.set_weights(model.get_weights())
        with pytest.raises(ShapeError, match=message):
            told.predict(Batch([swapped]))
    with pytest.raises(ShapeError, match=message):
        learn(make(), [*data, LabelledSample(99, swapped, data[0].label)], 1)
    told.predict(Batch([{"positions": swapped["positions"]}]))


def test_molecules_of_several_sizes_are_refused_with_a_way_out(make, data):
    small = {"positions": np.eye(3), "numbers": np.array([1, 1, 8])}
    water = LabelledSample(99, small, {"energy": np.zeros(()), "forces": np.zeros((3, 3))})
    message = r"distance_network learns one molecule.*take schnet"
    with pytest.raises(ShapeError, match=message):
        learn(make(), [*data, water], 1)
    with pytest.raises(ShapeError, match=message):
        make().predict(Batch([data[0].sample, small]))


def test_what_it_cannot_learn_from_is_refused(make, data):
    bare = [LabelledSample(0, data[0].sample, {"energy": data[0].label["energy"]})]
    with pytest.raises(ContractError, match="'forces'"):
        learn(make(), bare, 1)
    with pytest.raises(ContractError, match="empty"):
        learn(make(), [], 1)


def test_states_and_labels_must_agree(make, data):
    with pytest.raises(ContractError, match=r"needs the array 'energies'.*option `states`"):
        learn(make(states=2), data, 1)
    with pytest.raises(ContractError, match=r"needs the array 'energy'.*option `states`"):
        learn(make(), excited(data, 2), 1)
    with pytest.raises(ShapeError, match="needs 2 energies"):
        learn(make(states=2), excited(data, 3), 1)
    two = make(states=2)
    two.predict(batch_of(data))
    with pytest.raises(ShapeError, match="`states`"):
        make().set_weights(two.get_weights())
    for options in ({"states": 0}, {"states": 2, "state_weights": [1.0]}):
        with pytest.raises(ContractError, match="state_weights >= 0 for each"):
            make(**options)


def test_divergence_is_an_error_and_no_silence(make, data):
    with pytest.raises(NotFiniteError, match="lower learning_rate"):
        learn(make(learning_rate=1e30), data, 50)
