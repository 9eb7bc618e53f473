"""An atom on its way: within its bounds, of the same fragments, at either end alike."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from scipy.spatial.distance import pdist
from walking import answer

from pal.errors import ContractError, KernelImportError
from pal.kernels.generators.transfer import Transfer
from pal.testing.checks import check_generator

# Ammonia and an amino radical that share a hydrogen: nitrogen, hydrogen, nitrogen, the rest.
SHARED = Atoms(
    "NHNHHHH",
    [[0, 0, 0], [0, 0, 1.3], [0, 0, 2.6],
     [0.94, 0, -0.38], [-0.47, 0.81, -0.38], [0.94, 0, 2.98], [-0.47, 0.81, 2.98]],
)  # fmt: skip
DONOR, ACCEPTOR = [0, 3, 4], [2, 5, 6]
# Malonaldehyde: a hydrogen handed from oxygen to oxygen of one molecule.
WITHIN = Atoms(
    "OHOCCCHHH",
    [[1.29, -1.13, 0], [0.4, -1.6, 0], [-1.29, -1.13, 0], [1.19, 0.16, 0], [0, 0.87, 0],
     [-1.19, 0.16, 0], [2.14, 0.69, 0], [0, 1.95, 0], [-2.14, 0.69, 0]],
)  # fmt: skip


@pytest.fixture
def make(context, tmp_path):
    def made(index=0, home=SHARED, **options):
        write(tmp_path / "start.xyz", home, format="extxyz")
        given = {"start": tmp_path / "start.xyz", "atoms": [0, 1, 2], "scales": [0.0], **options}
        return Transfer(context(index), **given)

    return made


def drawn(transfer):
    return [sample["positions"] for sample in transfer]


def lengths(positions):
    """Return the distances donor-acceptor, donor-hydrogen, hydrogen-acceptor."""
    donor, moving, acceptor = positions[:3]
    pairs = ((donor, acceptor), (donor, moving), (moving, acceptor))
    return [float(np.linalg.norm(one - other)) for one, other in pairs]


def test_the_distances_keep_to_their_bounds_and_fill_them(make):
    found = np.array(
        [lengths(p) for p in drawn(make(distances=[2.4, 3.4], stretch=0.3, count=300))]
    )
    apart, at_donor, at_acceptor = found.T
    assert apart.min() >= 2.4 - 1e-9
    assert apart.max() <= 3.4 + 1e-9
    assert np.ptp(apart) > 0.9
    nearer = np.minimum(at_donor, at_acceptor)
    rest = 0.31 + 0.71
    assert nearer.min() >= rest - 1e-9
    assert nearer.max() <= rest + 0.3 + 1e-9
    np.testing.assert_allclose(at_donor + at_acceptor, apart)


def test_the_atom_is_at_either_end_with_equal_odds(make):
    found = np.array([lengths(p) for p in drawn(make(count=400))])
    at_donor = np.mean(found[:, 1] < found[:, 2])
    assert 0.42 < at_donor < 0.58


def test_the_fragments_are_tilted_and_turned_as_rigid_bodies(make):
    samples = drawn(make(tilt=30.0, distances=[3.0, 3.5], count=50))
    for fragment in (DONOR, ACCEPTOR):
        for positions in samples:
            np.testing.assert_allclose(
                pdist(positions[fragment]), pdist(SHARED.positions[fragment]), atol=1e-9
            )
    axis = SHARED.positions[DONOR].mean(0) / np.linalg.norm(SHARED.positions[DONOR].mean(0))
    turned = [p[DONOR].mean(0) / np.linalg.norm(p[DONOR].mean(0)) for p in samples]
    tilts = np.degrees(np.arccos(np.clip(np.array(turned)[:, 2], -1, 1)))
    own = np.degrees(np.arccos(axis[2]))
    assert np.ptp(tilts) > 10
    assert np.abs(tilts - own).max() <= 30 + 1e-6


def test_within_one_molecule_only_the_atom_moves(make):
    others = [0, *range(2, len(WITHIN))]
    samples = drawn(make(home=WITHIN, count=40))
    for positions in samples:
        np.testing.assert_allclose(positions[others], WITHIN.positions[others])
    assert np.ptp([lengths(p)[1] for p in samples]) > 0.2


def test_displacements_have_their_scales_in_turn(make):
    quiet, loud = (np.array(drawn(make(scales=[s], count=200))) for s in (0.0, 0.05))
    same_fragment = [np.linalg.norm(p[:, 3] - p[:, 0], axis=1) for p in (quiet, loud)]
    assert np.std(same_fragment[0]) < 1e-9
    assert 0.05 < np.std(same_fragment[1]) < 0.09


def test_overlapping_atoms_are_drawn_again(make):
    for positions in drawn(make(scales=[0.15], min_distance=0.7, count=100)):
        hydrogens = positions[[1, 3, 4, 5, 6]]
        assert pdist(hydrogens).min() >= 0.7 * 0.62 - 1e-9


def test_walkers_follow_the_contract_and_differ(make):
    check_generator(lambda: make(scales=[0.05]), still)
    one, other = (make(index, scales=[0.05]).step(None)["positions"] for index in (0, 1))
    assert not np.allclose(one, other)


def still(sample):
    return answer(sample, lambda positions: (0.0, np.zeros_like(positions)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"atoms": [0, 1, 1]}, "three different indices"),
        ({"atoms": [0, 1, 99]}, "three different indices"),
        ({"distances": [3.0, 2.0]}, "smallest, largest"),
        ({"stretch": -0.1}, "stretch >= 0"),
        ({"scales": []}, "scales >= 0"),
    ],
)
def test_wrong_options_are_refused(make, options, told):
    with pytest.raises(ContractError, match=told):
        make(**options)


def test_what_never_fits_is_told(make):
    with pytest.raises(ContractError, match="overlapping"):
        drawn(make(distances=[0.8, 0.9], count=1))


def test_a_missing_file_is_named(context, tmp_path):
    with pytest.raises(KernelImportError, match="nothing"):
        Transfer(context(), start=tmp_path / "nothing.xyz", atoms=[0, 1, 2])
