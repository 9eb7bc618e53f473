"""What any potential on graphs must do, for the tests of each of them.

`make(index=0, **options)` builds a member; physics is checked in float64, where rounding hides
nothing.
"""

import itertools
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.data import covalent_radii
from ase.md.verlet import VelocityVerlet

from pal.errors import ContractError
from pal.kernels.atoms import to_atoms, to_sample
from pal.kernels.calculator import CommitteeCalculator
from pal.records import Batch, Feedback, LabelledSample

DEPTH, SLOPE = 2.0, 1.5  # eV, 1/Å
OFFSETS = {1: -13.6, 6: -1030.0, 8: -2040.0}  # eV, as large as total energies are


def morse(sample):
    """Label of a toy: Morse springs between all pairs, and large energies of the elements."""
    positions, numbers = sample["positions"], sample["numbers"]
    radii = covalent_radii[numbers]
    vectors = positions[:, None] - positions[None]
    lengths = np.sqrt((vectors**2).sum(-1)) + 1e3 * np.eye(len(numbers))
    decay = np.exp(-SLOPE * (lengths - 1.1 * (radii[:, None] + radii[None])))
    energy = 0.5 * DEPTH * (decay**2 - 2 * decay).sum() + sum(OFFSETS[int(z)] for z in numbers)
    slope = 2 * DEPTH * SLOPE * (decay - decay**2) / lengths
    forces = -(slope[..., None] * vectors).sum(1)
    return {"energy": np.asarray(energy), "forces": forces}


def distorted(name, seed=0, spread=0.08, **arrays):
    """Return a molecule of ASE's, each atom moved at random."""
    sample = to_sample(molecule(name))
    sample["positions"] += np.random.default_rng(seed).normal(0, spread, (len(molecule(name)), 3))
    return sample | {key: np.asarray(value, dtype=float) for key, value in arrays.items()}


def mixture(count=12, seed=0):
    """Return labelled molecules of different sizes and elements."""
    names = itertools.cycle(["H2O", "CH4", "CH3OH", "C2H4"])
    samples = [distorted(name, (seed, k)) for k, name in zip(range(count), names, strict=False)]
    return [LabelledSample(k, sample, morse(sample)) for k, sample in enumerate(samples)]


def methanols(count=24, seed=1):
    """Return labelled geometries of one molecule."""
    samples = [distorted("CH3OH", (seed, k)) for k in range(count)]
    return [LabelledSample(k, sample, morse(sample)) for k, sample in enumerate(samples)]


def batch_of(items):
    return Batch([item.sample for item in items])


def one(model, sample):
    """Return energy () and forces (a, 3) of one sample."""
    labels = model.predict(Batch([sample]))
    return labels["energy"][0], labels["forces"][0]


def row(labels, index):
    """Return the label of one sample of a batch."""
    if isinstance(labels, list):
        return labels[index]
    return {name: column[index] for name, column in labels.items()}


def learn(model, data, epochs):
    return list(itertools.islice(model.train(data), epochs))


def same(weights, others):
    return weights.keys() == others.keys() and all(
        np.array_equal(weights[name], others[name]) for name in weights
    )


# -- physics


def check_gradient(model, sample, step=1e-4):
    """Forces are minus the gradient of the energy: central differences."""
    forces = one(model, sample)[1]
    assert np.abs(forces).max() > 1e-4, "nothing to see"
    for atom, axis in itertools.product(range(len(forces)), range(3)):
        shift = np.zeros_like(forces)
        shift[atom, axis] = step
        plus, minus = (
            one(model, sample | {"positions": sample["positions"] + s})[0] for s in (shift, -shift)
        )
        found = -(plus - minus) / (2 * step)
        assert found == pytest.approx(forces[atom, axis], abs=1e-5 * np.abs(forces).max())


def check_symmetry(model, sample):
    """Neither place, orientation nor the order of atoms matter; forces turn with the molecule."""
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    order = rng.permutation(len(sample["numbers"]))
    energy, forces = one(model, sample)
    positions = (sample["positions"] @ turn + [100.0, -50.0, 7.0])[order]
    moved = sample | {"positions": positions, "numbers": sample["numbers"][order]}
    other, others = one(model, moved)
    largest = np.abs(forces).max()
    assert other == pytest.approx(energy, abs=1e-6 * max(1.0, largest))
    np.testing.assert_allclose(others, (forces @ turn)[order], atol=1e-6 * largest)
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-6 * largest)


def check_smooth_at_cutoff(model, cutoff, numbers=(6, 8)):
    """A pair's energy has no step, and its force none, where it crosses the cutoff."""

    def pair(distance):
        positions = np.array([[0.0, 0, 0], [distance, 0, 0]])
        return one(model, {"positions": positions, "numbers": np.array(numbers)})

    inside, outside = pair(cutoff - 1e-4), pair(cutoff + 1e-4)
    assert inside[0] == pytest.approx(outside[0], abs=1e-5)
    np.testing.assert_allclose(inside[1], outside[1], atol=1e-2)
    np.testing.assert_allclose(outside[1], 0, atol=1e-10)


def check_conservation(model, sample, steps=200, timestep=0.25, temperature=300.0):
    """Dynamics at constant energy keep it: its range is a small part of the kinetic energy's."""

    def ask(present):
        energy, forces = one(model, present)
        return Feedback({"energy": energy, "forces": forces}, {}, 0.0, True, 0)

    atoms: Atoms = to_atoms(sample)
    spread = np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * spread)
    atoms.calc = CommitteeCalculator(ask)
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    kinetic, total = [], []
    for _ in range(steps):
        dynamics.run(1)
        kinetic.append(atoms.get_kinetic_energy())
        total.append(atoms.get_total_energy())
    assert np.ptp(total) < 0.02 * np.ptp(kinetic)


def check_mixed_sizes(model):
    """A batch of molecules of different sizes gives the same as one after the other."""
    data = mixture(7)
    together = model.predict(batch_of(data))
    for index, item in enumerate(data):
        energy, forces = one(model, item.sample)
        label = row(together, index)
        assert float(label["energy"]) == pytest.approx(float(energy), rel=1e-10, abs=1e-9)
        np.testing.assert_allclose(label["forces"], forces, atol=1e-8)


def check_periodic(model):
    """A crystal's energy grows with its size, and does not know where its cell begins."""
    crystal = bulk("C", "diamond", a=3.567, cubic=True)
    crystal.positions += np.random.default_rng(3).normal(0, 0.05, crystal.positions.shape)
    energy, forces = one(model, to_sample(crystal))
    moved = crystal.copy()
    moved.positions += [1.3, 0.4, -0.7]
    moved.wrap()
    again, turned = one(model, to_sample(moved))
    double, forces_of_double = one(model, to_sample(crystal.repeat((2, 1, 1))))
    vacuum = crystal.copy()
    vacuum.pbc = False
    assert again == pytest.approx(energy, abs=1e-7)
    np.testing.assert_allclose(turned, forces, atol=1e-7)
    assert double == pytest.approx(2 * energy, abs=1e-6)
    np.testing.assert_allclose(forces_of_double[: len(forces)], forces, atol=1e-6)
    assert abs(one(model, to_sample(vacuum))[0] - energy) > 1e-3
    small = bulk("C", "diamond", a=3.567)
    small.rattle(0.2, seed=4)
    check_gradient(model, to_sample(small))


def check_charge_and_spin(model):
    """Total charge and spin change energy and forces, each of them."""
    states = [
        {},
        {"charge": 1},
        {"charge": -1},
        {"spin": 1},
        {"spin": 2},
        {"charge": 1, "spin": 1},
    ]
    energies = [float(one(model, distorted("CH3OH", 0, **state))[0]) for state in states]
    assert np.abs(np.subtract.outer(energies, energies)[~np.eye(6, dtype=bool)]).min() > 1e-6
    plain, neutral = (one(model, distorted("CH3OH", 0, **s))[1] for s in ({}, {"charge": 0}))
    np.testing.assert_array_equal(plain, neutral)
    assert not np.allclose(one(model, distorted("CH3OH", 0, charge=1))[1], plain)


# -- the committee, training and what travels


def check_committee(make, **tolerance):
    """A committee predicts what its members do: one size, mixed sizes, and after training."""
    models = [make(k) for k in range(3)]
    committee = type(models[0]).committee(models)
    for data in (methanols(4), mixture(5)):
        joint = committee.predict(batch_of(data))
        for member, model in enumerate(models):
            alone = model.predict(batch_of(data))
            mine = joint[member] if isinstance(joint, list) else row(joint, member)
            for index in range(len(data)):
                for name, array in row(alone, index).items():
                    theirs = row(mine, index)[name]
                    np.testing.assert_allclose(theirs, array, **({"atol": 1e-8} | tolerance))
    data = methanols(6)
    metrics = learn(committee, [data, data[:4], data[2:]], 2)
    assert [len(each) for each in metrics] == [3, 3]
    joint = committee.predict(batch_of(data))
    for member, model in enumerate(models):
        alone = model.predict(batch_of(data))["forces"]
        np.testing.assert_allclose(joint["forces"][member], alone, **({"atol": 1e-8} | tolerance))


def check_travel(make, data):
    """Weights and state go to another instance bit for bit."""
    model, other, restored = make(0), make(1), make(2)
    learn(model, data, 2)
    other.set_weights(pickle.loads(pickle.dumps(model.get_weights())))
    restored.set_state(pickle.loads(pickle.dumps(model.get_state())))
    batch = batch_of(data)
    for each in (other, restored):
        assert same(each.get_weights(), model.get_weights())
        for index in range(len(data)):
            mine, theirs = (row(m.predict(batch), index) for m in (model, each))
            assert same(mine, theirs)
    learn(model, data, 2)
    learn(restored, data, 2)
    assert same(model.get_weights(), restored.get_weights())


def check_learning(make, data, epochs=40, factor=0.5):
    """Training lowers the error of forces it has not seen; references take the large energies."""
    model = make()
    fresh = methanols(8, seed=77)
    metrics = learn(model, data, epochs)
    assert metrics[-1]["validation_force_mae"] < factor * metrics[0]["validation_force_mae"]
    labels = model.predict(batch_of(fresh))
    off = [row(labels, k)["forces"] - item.label["forces"] for k, item in enumerate(fresh)]
    size = [np.abs(item.label["forces"]).mean() for item in fresh]
    assert np.abs(off).mean() < np.mean(size)
    missed = [row(labels, k)["energy"] - item.label["energy"] for k, item in enumerate(fresh)]
    assert np.abs(missed).max() < 5.0


def check_seed(make, data):
    """The seed decides all of it, and nobody else's random numbers are disturbed."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = make(0), make(0), make(1)
    for model in (first, again, other):
        learn(model, data, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first.get_weights(), again.get_weights())
    assert not same(first.get_weights(), other.get_weights())


def check_elements(make, data):
    """What was not there to learn from is refused by name; before, or by option, it is not."""
    model = make()
    model.predict(Batch([distorted("H2O")]))
    model.predict(Batch([distorted("CH4")]))
    assert model.elements == (1, 6, 8)
    learn(model, data, 1)
    strange = Batch([{"positions": np.eye(2, 3), "numbers": np.array([1, 9])}])
    with pytest.raises(ContractError, match=r"knows the elements .*has met \['F'\].*elements"):
        model.predict(strange)
    told = make(elements=["H", "C", "O", "F"])
    learn(told, data, 1)
    told.predict(strange)


def check_checkpoint(make, data, folder):
    """Training starts from a file as the runtime writes it, and from a folder of them."""
    models = [make(k) for k in range(2)]
    for member, model in enumerate(models):
        learn(model, data, 1)
        np.savez(folder / f"member-{member}.npz", **model.get_weights())
    batch = batch_of(data)
    from_file = make(0, checkpoint=str(folder / "member-1.npz"))
    from_folder = [make(k, checkpoint=str(folder)) for k in range(3)]
    for source, started in zip((1, 0, 1, 0), (from_file, *from_folder), strict=True):
        for index in range(len(data)):
            assert same(
                row(models[source].predict(batch), index), row(started.predict(batch), index)
            )
    assert learn(from_file, data, 1)
