"""NequIP from checkpoints; test_graph_potentials.py holds what is true of every graph network."""

import nequip_checkpoint
import numpy as np
import potential_physics as physics
import pytest

from pal.errors import KernelImportError
from pal.kernels.models.allegro import allegro
from pal.kernels.models.nequip import nequip

SMALL = {"layers": 2, "features": 4, "radial_width": 8, "batch_size": 4}


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return nequip(context(index), **{**SMALL, "precision": "float64", **options})

    return build


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path / "last.ckpt")


def save(path, **options):
    model = nequip_checkpoint.write(
        path,
        _target_="nequip.model.NequIPGNNModel",
        num_features=4,
        radial_mlp_depth=1,
        radial_mlp_width=8,
        **options,
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
        allegro(context(), checkpoint=path)
    field = {"field": "charge", "num_features": 2, "min": -1, "max": 1}
    save(path, categorical_graph_field_embed=[field])
    with pytest.raises(KernelImportError, match=r"wants \['charge'\] of each system"):
        make(checkpoint=path)
    save(
        path,
        type_names=["Oxygen", "H", "C"],
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
    )
    with pytest.raises(KernelImportError, match=r"names types of atoms \['Oxygen'\]"):
        make(checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(KernelImportError, match="cannot read checkpoint"):
        make(checkpoint=path)
