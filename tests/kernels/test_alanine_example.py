"""The example's data are what they say, and its pieces fit together."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pal.kernels.atoms import read_samples
from pal.kernels.oracles.xtb import Xtb
from pal.ledger.export import read_labelled
from pal.settings import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "alanine"


@pytest.fixture
def initial(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.delitem(sys.modules, "initial", raising=False)
    import initial

    yield initial
    sys.modules.pop("initial", None)


def test_the_walkers_start_at_minima():
    for sample in read_samples(EXAMPLE / "alanine.xyz"):
        assert np.abs(Xtb().label(sample)["forces"]).max() < 0.01


def test_the_first_geometries_are_distorted_but_physical(initial):
    count = load(EXAMPLE / "pal.toml").initial.options["count"]
    samples = list(initial.distorted(count))
    largest = [np.abs(Xtb().label(sample)["forces"]).max() for sample in samples]
    assert len(samples) == count
    assert min(largest) > 1.0
    assert max(largest) < 40.0


def test_the_first_geometries_are_the_same_in_every_run(initial):
    one, same, other = (list(initial.distorted(3, seed=seed)) for seed in (0, 0, 1))
    assert all(
        np.array_equal(a["positions"], b["positions"]) for a, b in zip(one, same, strict=True)
    )
    assert not np.allclose(one[0]["positions"], other[0]["positions"])


def test_the_held_out_labels_are_the_oracles_own():
    heldout = list(read_labelled(EXAMPLE / "heldout.extxyz"))
    assert len(heldout) == 204
    for item in heldout[::100]:
        label = Xtb().label(item.sample)
        np.testing.assert_allclose(item.label["forces"], label["forces"], atol=1e-3)
        np.testing.assert_allclose(item.label["energy"], label["energy"], atol=1e-4)
