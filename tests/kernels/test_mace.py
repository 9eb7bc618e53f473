"""MACE is a potential, for molecules and crystals, charged or not, from scratch or pretrained."""

import importlib.util
import json
import os
from dataclasses import replace

import numpy as np
import potential_physics as physics
import pytest
import torch

from pal.errors import ContractError, Failure, KernelImportError
from pal.records import Batch
from pal.runtime.campaign import Campaign
from pal.testing.checks import check_model

if importlib.util.find_spec("mace") is None:
    pytest.skip(
        "MACE has an environment of its own; `make test` runs both", allow_module_level=True
    )

from pal.kernels.models.mace import mace
from pal.kernels.models.mace_library import GUARD, modules, o3

THEIRS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The TorchScript type")
"""The library, used directly, calls what torch warns of."""

SMALL = {
    "channels": 4,
    "l_max": 1,
    "correlation": 2,
    "radial_width": 8,
    "batch_size": 4,
}


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return mace(context(index), **{**SMALL, "precision": "float64", **options})

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
    model = make(l_max=2, l_hidden=2, correlation=3)
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
        lambda: make(precision="float32", channels=8), physics.methanols(24), epochs=20
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
    for options in ({"layers": 0}, {"l_hidden": 2}, {"neighbours": 0.0}, {"cutoff": 0.0}):
        with pytest.raises(ContractError, match=next(iter(options))):
            make(**options)


def test_guard_against_files_that_run_code_stays_up():
    assert GUARD not in os.environ


@pytest.fixture
def saved(tmp_path):
    """Make and save a model as the library does: compiled, float64, with energies of atoms."""

    def make(**options):
        torch.manual_seed(3)
        torch.set_default_dtype(torch.float64)
        try:
            model = library_model(**options)
        finally:
            torch.set_default_dtype(torch.float32)
        path = tmp_path / "pretrained.model"
        torch.save(model, path)
        return path, model

    return make


def library_model(kind=modules.ScaleShiftMACE, **options):
    standard = {
        "r_max": 4.0,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": modules.RealAgnosticResidualInteractionBlock,
        "interaction_cls_first": modules.RealAgnosticInteractionBlock,
        "num_interactions": 2,
        "num_elements": 3,
        "hidden_irreps": o3.Irreps("4x0e+4x1o"),
        "MLP_irreps": o3.Irreps("4x0e"),
        "atomic_energies": np.array([-13.0, -1030.0, -2041.0]),
        "avg_num_neighbors": 6.0,
        "atomic_numbers": [1, 6, 8],
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "atomic_inter_scale": 1.7,
        "atomic_inter_shift": 0.2,
    }
    return kind(**standard | options)


def library_says(model, samples, **inputs):
    """Return energies and forces as the library computes them from its own data."""
    from ase.neighborlist import neighbor_list

    from pal.kernels.atoms import to_atoms

    (sample,) = samples
    atoms = to_atoms(sample)
    i, j = neighbor_list("ij", atoms, float(model.r_max))
    kinds = [model.atomic_numbers.tolist().index(number) for number in atoms.numbers]
    data = {
        "positions": torch.tensor(atoms.positions),
        "node_attrs": torch.eye(len(model.atomic_numbers), dtype=torch.float64)[kinds],
        "edge_index": torch.tensor(np.array([j, i])),
        "shifts": torch.zeros(len(i), 3, dtype=torch.float64),
        "unit_shifts": torch.zeros(len(i), 3, dtype=torch.float64),
        "cell": torch.zeros(3, 3, dtype=torch.float64),
        "batch": torch.zeros(len(atoms), dtype=torch.int64),
        "ptr": torch.tensor([0, len(atoms)]),
        **{name: torch.tensor(value) for name, value in inputs.items()},
    }
    torch.set_default_dtype(torch.float64)
    try:
        result = model(data)
    finally:
        torch.set_default_dtype(torch.float32)
    return float(result["energy"].detach()[0]), result["forces"].detach().numpy()


ELECTRONS = {
    "total_charge": {"type": "categorical", "per": "graph", "num_classes": 9, "emb_dim": 3},
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 9, "emb_dim": 3},
}


@THEIRS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pair_repulsion": True, "distance_transform": "Agnesi"},
        {"embedding_specs": ELECTRONS, "use_embedding_readout": True},
        {
            "heads": ["small", "large"],
            "atomic_energies": np.array([[-13.0, -1030.0, -2041.0], [-14.0, -1031.0, -2042.0]]),
            "atomic_inter_scale": [1.7, 1.5],
            "atomic_inter_shift": [0.2, 0.1],
        },
    ],
    ids=["plain", "repulsion", "electrons", "heads"],
)
def test_a_saved_model_says_what_it_says_in_the_library(make, saved, options):
    path, model = saved(**options)
    head = options.get("heads", [None])[-1]
    mine = make(checkpoint=str(path), head=head)
    assert mine.elements == (1, 6, 8)
    sample = physics.distorted("CH3OH", 3, charge=1, spin=1)
    place = len(options.get("heads", [None])) - 1
    inputs = {"head": [place], "total_charge": [1], "total_spin": [2]}
    expected = library_says(model, [sample], **inputs)
    came = physics.one(mine, sample)
    assert came[0] == pytest.approx(expected[0], abs=1e-8)
    np.testing.assert_allclose(came[1], expected[1], atol=1e-8)


@THEIRS
def test_a_saved_model_learns_on_and_joins_a_committee(make, saved):
    path, _ = saved()

    def pretrained(index=0, **options):
        return make(index, checkpoint=path, **options)

    physics.check_committee(pretrained)


@THEIRS
def test_saved_models_of_other_kinds_are_refused(make, saved, tmp_path):
    path, _ = saved(heads=["small", "large"], atomic_inter_scale=[1.0] * 2)
    with pytest.raises(KernelImportError, match=r"heads \['small', 'large'\].*None"):
        make(checkpoint=path)
    path, _ = saved(embedding_specs={"field": ELECTRONS["total_charge"]})
    with pytest.raises(KernelImportError, match=r"wants \['field'\]"):
        make(checkpoint=path)
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(KernelImportError, match="holds a Linear; expected a ScaleShiftMACE"):
        make(checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(KernelImportError, match="cannot read checkpoint"):
        make(checkpoint=path)


WATER = "3\nProperties=species:S:1:pos:R:3\nO 0 0 0.117\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n"


def test_a_campaign_runs_from_settings_alone(tmp_path):
    start = tmp_path / "start.xyz"
    start.write_text(WATER)
    data = {
        "directory": str(tmp_path / "run"),
        "generator": {"kernel": "dynamics", "options": {"start": str(start)}, "walkers": 2},
        "model": {
            "kernel": "mace",
            "members": 2,
            "options": {**SMALL, "elements": ["H", "O"], "patience": 1},
        },
        "oracle": {"kernel": "xtb", "options": {"method": "GFN1-xTB"}},
        "selector": {"kernel": "deviation", "options": {"threshold": 0.0}},
        "initial": {"kernel": "displacement", "options": {"start": str(start), "count": 4}},
        "training": {"retrain_size": 2},
        "stop": {"labels": 6, "after": 100, "final_training": 0},
    }
    settings = tmp_path / "pal.json"
    settings.write_text(json.dumps(data))
    failures = [item for item in Campaign.from_file(settings) if isinstance(item, Failure)]
    assert [str(failure) for failure in failures] == []
    weights = next(iter(sorted((tmp_path / "run" / "models").glob("*/member-0.npz"))))
    with np.load(weights) as arrays:
        assert arrays["elements"].tolist() == [1, 8]
        assert arrays["referenced"].all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_gives_the_same(context):
    here, there = (
        mace(replace(context(), device=device), precision="float64", **SMALL)
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
