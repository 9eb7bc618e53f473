"""Allegro is a potential, for molecules and crystals, charged or not."""

from dataclasses import replace

import nequip_checkpoint
import numpy as np
import potential_physics as physics
import pytest
import torch

from pal.errors import ContractError, KernelImportError
from pal.kernels.models.allegro import allegro
from pal.kernels.models.nequip import nequip
from pal.records import Batch
from pal.testing.checks import check_model

SMALL = {"layers": 2, "scalars": 8, "tensors": 4, "batch_size": 4}


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return allegro(context(index), **{**SMALL, "precision": "float64", **options})

    return build


@pytest.fixture
def trained(make):
    model = make()
    physics.learn(model, physics.methanols(16), 10)
    return model


def test_keeps_the_contract(make):
    check_model(make, physics.mixture(4))


def test_is_a_potential(trained):
    sample = physics.distorted("CH3OH", 5)
    physics.check_gradient(trained, sample)
    physics.check_symmetry(trained, sample)
    physics.check_symmetry(trained, physics.distorted("CH3OH", 6, charge=1, spin=1))


def test_features_of_higher_order_turn_with_the_molecule(make):
    model = make(l_max=2, parity=True)
    physics.check_symmetry(model, physics.distorted("CH3OH", 6, charge=-1))


def test_dynamics_on_its_forces_conserve_energy(trained):
    sample = physics.distorted("CH3OH", 5, spread=0.02)
    physics.check_conservation(trained, sample, steps=100)


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
    physics.check_travel(lambda k: make(k, precision="float32"), physics.methanols(6))


def test_learns(make):
    physics.check_learning(
        lambda: make(precision="float32", scalars=16), physics.methanols(24), epochs=20
    )


def test_the_seed_decides(make):
    physics.check_seed(make, physics.methanols(6))


def test_elements_are_known_or_refused(make):
    physics.check_elements(make, physics.methanols(4))


def test_starts_from_a_checkpoint(make, tmp_path):
    physics.check_checkpoint(make, physics.methanols(4), tmp_path)


def test_the_process_around_it_is_left_alone(make):
    before = torch.get_default_dtype(), np.random.get_state()[1].tolist()
    physics.one(make(), physics.distorted("H2O"))
    assert (torch.get_default_dtype(), np.random.get_state()[1].tolist()) == before


def test_nonsense_is_refused(make):
    for options in ({"layers": 0}, {"scalars": 3}, {"neighbours": 0.0}, {"cutoff": 0.0}):
        with pytest.raises(ContractError, match=next(iter(options))):
            make(**options)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.ckpt"
    model = nequip_checkpoint.write(
        path,
        _target_="allegro.model.AllegroModel",
        radial_chemical_embed={"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
        num_scalar_features=8,
        num_tensor_features=4,
    )
    return path, model


@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_says_what_it_says_in_the_framework(make, saved):
    path, model = saved
    mine = make(checkpoint=str(path))
    assert mine.elements == (8, 1, 6)
    sample = physics.distorted("CH3OH", 3)
    energy, forces = nequip_checkpoint.framework_says(model, sample)
    came = physics.one(mine, sample)
    assert came[0] == pytest.approx(energy, abs=1e-8)
    np.testing.assert_allclose(came[1], forces, atol=1e-8)
    assert physics.one(mine, sample | {"charge": np.array(1.0)})[0] == came[0]
    physics.check_travel(lambda k: make(k, checkpoint=path), physics.methanols(4))


@pytest.mark.filterwarnings("ignore")
def test_saved_models_of_other_kinds_are_refused(make, saved, context):
    path, _ = saved
    with pytest.raises(KernelImportError, match="holds another model; it has the layers"):
        nequip(context(), checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(KernelImportError, match="cannot read checkpoint"):
        make(checkpoint=path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_gives_the_same(context):
    here, there = (
        allegro(replace(context(), device=device), precision="float64", **SMALL)
        for device in ("cpu", "cuda")
    )
    data = physics.methanols(8)
    physics.learn(there, data, 2)
    here.set_weights(there.get_weights())
    mine, theirs = (model.predict(physics.batch_of(data)) for model in (here, there))
    np.testing.assert_allclose(mine["forces"], theirs["forces"], atol=1e-9)
    np.testing.assert_allclose(mine["energy"], theirs["energy"], atol=1e-8)
    joint = type(there).committee([there, there]).predict(physics.batch_of(data))
    assert joint["energy"].shape == (2, 8)
