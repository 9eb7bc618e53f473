"""Known samples have the labels of the file; all others are asked for."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from pal.errors import KernelImportError, LabelFailure
from pal.kernels.atoms import read_samples, to_sample, write_labelled
from pal.kernels.oracles.known import Known
from pal.records import LabelledSample
from pal.testing.checks import check_oracle

ION = molecule("OH")
ION.info["charge"] = -1
SAMPLES = [to_sample(atoms) for atoms in (molecule("H2O"), molecule("OH"), ION)]
LABELS = [
    {"energy": np.array(float(k)), "forces": np.full(sample["positions"].shape, 0.1 * k)}
    for k, sample in enumerate(SAMPLES)
]


class Counted:
    """Labels by the number of the asked."""

    def __init__(self):
        self.asked = 100.0

    def label(self, sample):
        self.asked += 1
        return {"energy": np.array(self.asked), "forces": np.zeros_like(sample["positions"])}

    def get_state(self):
        return self.asked

    def set_state(self, state):
        self.asked = state


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.extxyz"
    pairs = zip(SAMPLES, LABELS, strict=True)
    write_labelled(path, [LabelledSample(k, *pair) for k, pair in enumerate(pairs)])
    return path


def test_samples_of_the_file_have_its_labels(context, data):
    samples = read_samples(data)
    check_oracle(lambda: Known(context(), data=data), samples[0])
    oracle = Known(context(), data=data)
    for sample, label in zip(samples, LABELS, strict=True):
        found = oracle.label(sample)
        assert float(found["energy"]) == float(label["energy"])  # of radical and anion, too
        np.testing.assert_array_equal(found["forces"], label["forces"])


def test_other_samples_are_asked_for(context, data):
    oracle = Known(context(), data=data, oracle={"kernel": f"{__name__}:Counted"})
    moved = {**SAMPLES[0], "positions": SAMPLES[0]["positions"] + 0.01}
    assert float(oracle.label(moved)["energy"]) == 101
    assert float(oracle.label(read_samples(data)[0])["energy"]) == 0
    again = Known(context(), data=data, oracle={"kernel": f"{__name__}:Counted"})
    again.set_state(oracle.get_state())
    assert float(again.label(moved)["energy"]) == 102


def test_without_anybody_to_ask_they_are_refused(context, data):
    oracle = Known(context(), data=data)
    oracle.set_state(oracle.get_state())
    with pytest.raises(LabelFailure, match=r"known: .*data.extxyz does not hold .*option oracle"):
        oracle.label(to_sample(Atoms("He")))


def test_a_missing_file_is_named(context, tmp_path):
    with pytest.raises(KernelImportError, match=r"known: cannot read data = '.*none.xyz'"):
        Known(context(), data=tmp_path / "none.xyz")
