"""The bismuth example with MACE, which has an environment of its own."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from pal.building import nested
from pal.kernels.atoms import read_samples
from pal.kernels.oracles.xtb import Xtb
from pal.records import Batch, as_batch
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.runtime.weights import fetch
from pal.settings import load

if importlib.util.find_spec("mace") is None:
    pytest.skip(
        "MACE has an environment of its own; `make test` runs both", allow_module_level=True
    )

SETTINGS = Path(__file__).parents[2] / "examples" / "bismuth" / "mace.toml"
CHANGES = {"stop.labels": 44, "stop.after": 60.0, "stop.final_training": 2.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bismuth") / "run"
    changes = {"directory": str(directory), **CHANGES}
    Campaign.from_file(SETTINGS, fresh=True, overrides=changes).run()
    return directory


@pytest.fixture
def learned(run, tmp_path):
    """The first member, as the campaign left it."""
    settings = load(SETTINGS)
    table = {"kernel": settings.model.kernel, "options": settings.model.options}
    model = nested("model", table, Context("model", 0, 1, 0, tmp_path), "test")
    model.set_weights(fetch(max((run / "models").glob("v*")))[0])
    return model


def test_walkers_of_all_charges_find_labels_and_mace_learns_them(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["labels"] >= CHANGES["stop.labels"]
    assert summary["error_after"] < summary["error_before"]


def test_the_total_charge_is_an_input(learned):
    """The same geometry with one electron more or less: eV apart, as the labels are."""
    sample = read_samples(SETTINGS.with_name("bi4-bi8.xyz"))[4]
    charged = [sample | {"charge": np.array(charge)} for charge in (-1.0, 0.0, 1.0)]
    labels = as_batch(learned.predict(Batch(charged)), len(charged), "mace")
    predicted = [float(label["energy"]) for label in labels]
    oracle = Xtb(method="GFN1-xTB")
    expected = [float(oracle.label(each)["energy"]) for each in charged]
    assert min(np.diff(expected)) > 2.0
    np.testing.assert_allclose(np.diff(predicted), np.diff(expected), rtol=0.5)
