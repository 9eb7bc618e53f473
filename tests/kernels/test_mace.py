"""What is MACE's own; test_graph_potentials.py holds what is true of every graph network."""

import importlib.util
import json
import os

import numpy as np
import potential_physics as physics
import pytest
import torch

from pal.errors import Failure, KernelImportError
from pal.runtime.campaign import Campaign

if importlib.util.find_spec("mace") is None:
    pytest.skip(
        "MACE has an environment of its own; `make test` runs both", allow_module_level=True
    )

from pal.kernels.models.mace import mace
from pal.kernels.models.parts.mace_library import GUARD, modules, o3

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
