"""Allegro from checkpoints; test_graph_potentials.py holds what is true of all graph networks."""

import nequip_checkpoint
import numpy as np
import potential_physics as physics
import pytest

from pal.errors import KernelImportError
from pal.kernels.models.allegro import allegro
from pal.kernels.models.nequip import nequip

SMALL = {"layers": 2, "scalars": 8, "tensors": 4, "batch_size": 4}


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return allegro(context(index), **{**SMALL, "precision": "float64", **options})

    return build


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
