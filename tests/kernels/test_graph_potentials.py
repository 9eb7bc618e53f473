"""SchNet, NequIP, Allegro and MACE are potentials, for molecules and crystals, charged or not."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import potential_physics as physics
import pytest
import torch

from pal.errors import ContractError
from pal.kernels.models.parts.potential import Potential
from pal.records import Batch
from pal.roles import Context
from pal.testing.checks import check_model


@dataclass(frozen=True)
class Kind:
    """A graph network: its library, and options for a small one."""

    name: str
    library: str
    small: dict[str, Any]
    wider: dict[str, Any]
    higher: dict[str, Any]
    """Features of the highest order that is quick to test; none where there is one order only."""
    nonsense: tuple[dict[str, Any], ...]

    def build(self, context: Context, **options: Any) -> Potential:
        module = importlib.import_module(f"pal.kernels.models.{self.name}")
        return getattr(module, self.name)(
            context, **{"precision": "float64", "batch_size": 4, **self.small, **options}
        )


KINDS = (
    Kind(
        "schnet",
        "torch_geometric",
        {"hidden": 16, "filters": 16, "interactions": 2, "gaussians": 12},
        {},
        {},
        ({"hidden": 1}, {"interactions": 0}, {"averaging": 1.0}),
    ),
    Kind(
        "nequip",
        "nequip",
        {"layers": 2, "features": 4, "radial_width": 8},
        {"features": 8},
        {"l_max": 2, "parity": True},
        ({"layers": 0}, {"l_max": -1}, {"neighbours": 0.0}),
    ),
    Kind(
        "allegro",
        "allegro",
        {"layers": 2, "scalars": 8, "tensors": 4},
        {},
        {"l_max": 2, "parity": True},
        ({"layers": 0}, {"scalars": 3}, {"neighbours": 0.0}),
    ),
    Kind(
        "mace",
        "mace",
        {"channels": 4, "l_max": 1, "correlation": 2, "radial_width": 8},
        {"channels": 8},
        {"l_max": 2, "l_hidden": 2, "correlation": 3},
        ({"layers": 0}, {"l_hidden": 2}, {"neighbours": 0.0}),
    ),
)


HERE = [kind for kind in KINDS if importlib.util.find_spec(kind.library) is not None]
"""MACE and NequIP exclude each other; `make test` runs both environments."""


def test_every_network_is_tested_in_one_of_the_environments():
    assert {kind.name for kind in HERE} in ({"schnet", "nequip", "allegro"}, {"mace"})


@pytest.fixture(params=HERE, ids=lambda kind: kind.name, scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def trained(kind, tmp_path_factory):
    """A model that has learnt a little; not to be changed."""
    model = kind.build(Context("model", 0, 4, 0, tmp_path_factory.mktemp("model")))
    physics.learn(model, physics.methanols(16), 15)
    return model


@pytest.fixture
def make(kind, context):
    def build(index=0, **options):
        return kind.build(context(index), **options)

    return build


def test_keeps_the_contract(make):
    check_model(make, physics.mixture(4))


def test_is_a_potential(trained):
    sample = physics.distorted("CH3OH", 5)
    physics.check_gradient(trained, sample)
    physics.check_symmetry(trained, sample)
    physics.check_symmetry(trained, physics.distorted("CH3OH", 6, charge=1, spin=1))


def test_features_of_higher_order_turn_with_the_molecule(kind, make):
    physics.check_symmetry(make(**kind.higher), physics.distorted("CH3OH", 6, charge=-1))


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


def test_learns(kind, make):
    physics.check_learning(
        lambda: make(precision="float32", **kind.wider), physics.methanols(24), epochs=25
    )


def test_the_seed_decides(make):
    physics.check_seed(make, physics.methanols(6))


def test_elements_are_known_or_refused(make):
    physics.check_elements(make, physics.methanols(4))
    with pytest.raises(ContractError, match=r"no symbols of elements: \['Xx'\]"):
        make(elements=["H", "Xx"])


def test_starts_from_a_checkpoint(make, tmp_path: Path):
    physics.check_checkpoint(make, physics.methanols(4), tmp_path)


def test_the_process_around_it_is_left_alone(make):
    before = torch.get_default_dtype(), np.random.get_state()[1].tolist()
    physics.one(make(), physics.distorted("H2O"))
    assert (torch.get_default_dtype(), np.random.get_state()[1].tolist()) == before


def test_nonsense_is_refused(kind, make):
    for options in (*kind.nonsense, {"cutoff": 0.0}):
        with pytest.raises(ContractError, match=next(iter(options))):
            make(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_gives_the_same(kind, context):
    here, there = (kind.build(replace(context(), device=device)) for device in ("cpu", "cuda"))
    data = physics.methanols(8)
    physics.learn(there, data, 2)
    here.set_weights(there.get_weights())
    mine, theirs = (model.predict(physics.batch_of(data)) for model in (here, there))
    np.testing.assert_allclose(mine["forces"], theirs["forces"], atol=1e-9)
    np.testing.assert_allclose(mine["energy"], theirs["energy"], atol=1e-8)
    there.set_state(there.get_state())
    assert physics.learn(there, data, 1)
    joint = type(there).committee([there, there]).predict(physics.batch_of(data))
    assert joint["energy"].shape == (2, 8)
