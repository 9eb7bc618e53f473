"""SchNet is a potential, for molecules and crystals, charged or not."""

from dataclasses import replace

import numpy as np
import potential_physics as physics
import pytest
import torch

from pal.errors import ContractError
from pal.kernels.models.schnet import SchNet, interaction, schnet
from pal.records import Batch
from pal.testing.checks import check_model

SMALL = {"hidden": 16, "filters": 16, "interactions": 2, "gaussians": 12, "batch_size": 4}


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return schnet(context(index), **{**SMALL, "precision": "float64", **options})

    return build


@pytest.fixture
def trained(make):
    model = make()
    physics.learn(model, physics.methanols(16), 20)
    return model


def test_keeps_the_contract(make):
    check_model(make, physics.methanols(10))
    check_model(make, physics.mixture(8))


def test_is_a_potential(trained):
    sample = physics.distorted("CH3OH", 5)
    physics.check_gradient(trained, sample)
    physics.check_symmetry(trained, sample)
    physics.check_symmetry(trained, physics.distorted("CH3OH", 6, charge=1, spin=1))


def test_dynamics_on_its_forces_conserve_energy(trained):
    physics.check_conservation(trained, physics.distorted("CH3OH", 5, spread=0.02))


def test_is_smooth_where_neighbours_come_and_go(make):
    physics.check_smooth_at_cutoff(make(cutoff=4.0), 4.0)


def test_takes_all_sizes_in_one_call(make):
    physics.check_mixed_sizes(make())


def test_takes_crystals(make):
    physics.check_periodic(make(cutoff=4.0))


def test_charge_and_spin_matter(make):
    physics.check_charge_and_spin(make())


def test_a_charge_is_the_molecules_own(make):
    model = make()
    charged = physics.distorted("CH3OH", 0, charge=1)
    alone = physics.one(model, charged)[0]
    beside = model.predict(Batch([charged, physics.distorted("CH3OH", 1, charge=-1)]))["energy"][0]
    assert beside == pytest.approx(alone, abs=1e-10)


def test_a_committee_predicts_and_learns_what_its_members_do(make):
    physics.check_committee(make)


def test_weights_and_state_travel_bit_for_bit(make):
    physics.check_travel(lambda k: make(k, precision="float32"), physics.methanols(8))


def test_learns(make):
    physics.check_learning(lambda: make(precision="float32"), physics.methanols(32))


def test_learns_from_molecules_of_different_sizes(make):
    metrics = physics.learn(make(), physics.mixture(24), 30)
    assert metrics[-1]["force_mae"] < 0.6 * metrics[0]["force_mae"]


def test_the_seed_decides(make):
    physics.check_seed(make, physics.methanols(8))


def test_elements_are_known_or_refused(make):
    physics.check_elements(make, physics.methanols(6))


def test_starts_from_a_checkpoint(make, tmp_path):
    physics.check_checkpoint(make, physics.methanols(6), tmp_path)


def test_the_interaction_is_that_of_torch_geometric(make):
    network = SchNet(
        (1, 6, 8), hidden=8, filters=8, interactions=1, gaussians=6, cutoff=4.0
    ).double()
    graphs = make(cutoff=4.0).graphs([physics.distorted("CH3OH")])
    block = network.interactions[0]
    features = torch.randn(6, 8, dtype=torch.float64)
    lengths = graphs.vectors().norm(dim=-1)
    theirs = block(features, graphs.edges, lengths, network.expansion(lengths))
    fade = 0.5 * (torch.cos(lengths * np.pi / 4.0) + 1)
    mine = interaction(block, features, network.expansion(lengths), fade, graphs)
    torch.testing.assert_close(mine, theirs)


def test_nonsense_is_refused(make):
    for options in ({"hidden": 1}, {"interactions": 0}, {"cutoff": 0.0}, {"averaging": 1.0}):
        with pytest.raises(ContractError, match=next(iter(options))):
            make(**options)
    with pytest.raises(ContractError, match=r"no symbols of elements: \['Xx'\]"):
        make(elements=["H", "Xx"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_gives_the_same(context):
    here, there = (
        schnet(replace(context(), device=device), precision="float64", **SMALL)
        for device in ("cpu", "cuda")
    )
    data = physics.methanols(8)
    physics.learn(there, data, 2)
    here.set_weights(there.get_weights())
    mine, theirs = (model.predict(physics.batch_of(data)) for model in (here, there))
    np.testing.assert_allclose(mine["forces"], theirs["forces"], atol=1e-9)
    np.testing.assert_allclose(mine["energy"], theirs["energy"], atol=1e-8)
    state = there.get_state()
    there.set_state(state)
    assert physics.learn(there, data, 1)
    joint = type(there).committee([there, there]).predict(physics.batch_of(data))
    assert joint["energy"].shape == (2, 8)
