"""How alike samples are: what changes a fingerprint, and what does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from toy_molecule import NUMBERS, RELAXED

from pal.errors import ContractError
from pal.kernels.descriptors import Fingerprint, Seen, check_space, farthest_first, fingerprints
from pal.records import Batch, Prediction


def molecule(positions=RELAXED, **more):
    return {"positions": positions, "numbers": NUMBERS, **more}


def points(*values):
    return [Fingerprint("line", np.array([float(value)])) for value in values]


def gap(one, other, space="distances"):
    first, second = fingerprints(Batch([one, other]), space)
    seen = Seen(2)
    seen.add(first)
    return seen.nearest(second)


@given(st.integers(0, 2**32 - 1))
def test_moving_turning_and_swapping_like_atoms_change_nothing(seed):
    rng = np.random.default_rng(seed)
    turned = Rotation.random(rng=rng).apply(RELAXED) + rng.normal(0, 3, 3)
    order = np.array([0, *rng.permutation([1, 2, 3]), 4])
    assert gap(molecule(), molecule(turned[order])) < 1e-9


def test_another_geometry_composition_or_charge_is_another_sample():
    bent = RELAXED.copy()
    bent[4] += [0.3, 0.0, 0.0]
    assert 0.005 < gap(molecule(), molecule(bent)) < 0.2
    assert gap(molecule(), {"positions": RELAXED, "numbers": NUMBERS[::-1]}) > 0.005
    assert gap(molecule(), {"positions": RELAXED[:4], "numbers": NUMBERS[:4]}) == np.inf
    assert gap(molecule(), molecule(charge=np.array(1.0))) == np.inf


def test_the_nearest_image_counts_in_a_periodic_cell():
    cell, pbc = 8.0 * np.eye(3), np.array([True, True, True])
    across = RELAXED.copy()
    across[1] -= [8.0, 0.0, 0.0]
    periodic = {"cell": cell, "pbc": pbc}
    assert gap(molecule(**periodic), molecule(across, **periodic)) < 1e-9
    assert gap(molecule(), molecule(across)) > 0.1


def test_arrays_are_compared_as_they_are():
    assert gap(np.array([1.0, 2.0]), np.array([1.0, 5.0]), "arrays") == pytest.approx(3 / 2**0.5)
    assert gap(np.array([1.0, 2.0]), np.array([1.0]), "arrays") == np.inf


def test_the_models_own_space_is_read_from_the_prediction():
    mean = Batch.stacked({"energy": np.zeros(2), "hidden": np.array([[0.0, 0.0], [3.0, 4.0]])})
    prediction = Prediction([mean], mean, mean)
    samples = Batch.stacked(np.zeros((2, 1)))
    one, other = fingerprints(samples, "latent:hidden", prediction)
    assert other.vector.tolist() == [3.0, 4.0]
    assert one.kind == other.kind
    with pytest.raises(ContractError, match=r"predict 'latent'; they predict \['energy', 'hidden"):
        fingerprints(samples, "latent:latent", prediction)


def test_wrong_spaces_are_refused():
    with pytest.raises(
        ContractError, match=r"distinct: expected space = 'distances', .*'distnce'"
    ):
        check_space("distnce", "distinct")
    with pytest.raises(
        ContractError, match=r"needs samples of atoms .* a bare array; use 'arrays"
    ):
        fingerprints(Batch([np.zeros(3)]), "distances")


def test_the_oldest_are_forgotten():
    seen = Seen(20)
    for point in points(*range(30)):
        seen.add(point)
    assert len(seen) == 20
    assert seen.nearest(points(29.0)[0]) == 0.0
    assert seen.nearest(points(4.0)[0]) == 6.0
    again = Seen(20)
    again.set_state(seen.get_state())
    again.add(points(4.0)[0])
    assert again.nearest(points(4.0)[0]) == 0.0
    assert seen.nearest(points(4.0)[0]) == 6.0


def test_farthest_first_covers_the_line():
    assert farthest_first(points(0, 1, 5, 10, 9), 3, 0) == [0, 3, 2]
    seen = Seen(4)
    seen.add(points(10)[0])
    assert farthest_first(points(0, 1, 5, 10, 9), 2, 3, seen) == [0, 2]
    assert farthest_first(points(3), 5, 0) == [0]


def test_other_kinds_come_before_near_ones():
    mixed = [*points(0, 0.1), Fingerprint("other", np.zeros(2))]
    assert farthest_first(mixed, 3, 1) == [1, 2, 0]
