"""Graphs hold all neighbours within the cutoff, and nothing else."""

import itertools

import numpy as np
import potential_physics as physics
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from pal.errors import ContractError, ShapeError
from pal.kernels.atoms import to_sample
from pal.kernels.models.parts.graphs import DENSE, collate, element_table
from pal.records import Batch


def lengths(graphs):
    return graphs.vectors().norm(dim=-1).numpy()


def neighbours(atoms, cutoff):
    """The sorted distances per atom, by another program."""
    centre, distance = neighbor_list("id", atoms, cutoff)
    return [np.sort(distance[centre == index]) for index in range(len(atoms))]


def check(graphs, systems, cutoff):
    expected = list(itertools.chain(*(neighbours(atoms, cutoff) for atoms in systems)))
    found, centres = lengths(graphs), graphs.edges[1].numpy()
    assert np.all(np.diff(centres) >= 0)
    for index, distances in enumerate(expected):
        np.testing.assert_allclose(np.sort(found[centres == index]), distances, atol=1e-6)
    assert torch.equal(graphs.molecule[graphs.edges[0]], graphs.molecule[graphs.edges[1]])


@pytest.fixture
def systems():
    """Molecules, two of one size; a slab; an atom; a cluster too large for all pairs."""
    slab = bulk("C", "diamond", a=3.567, cubic=True)
    slab.pbc = (True, True, False)
    cluster = bulk("Cu", "fcc", a=3.6, cubic=True).repeat(3)
    cluster.pbc = False
    assert len(cluster) > DENSE
    crystal = bulk("Cu", "fcc", a=3.6)
    return [
        molecule("CH3OH"),
        slab,
        molecule("H2O"),
        molecule("CH3OH"),
        cluster,
        crystal,
        Atoms("H"),
    ]


@pytest.mark.parametrize("cutoff", [1.7, 4.0])
def test_neighbours_are_all_within_the_cutoff(systems, cutoff):
    graphs = collate([to_sample(atoms) for atoms in systems], cutoff, torch.float64)
    check(graphs, systems, cutoff)
    assert graphs.counts == tuple(len(atoms) for atoms in systems)
    assert graphs.size == len(systems)
    assert not graphs.uniform


def test_one_size_and_periodic_ones_likewise():
    for systems in ([molecule("CH3OH")] * 5, [bulk("Cu", "fcc", a=3.6)] * 3):
        graphs = collate(Batch([to_sample(atoms) for atoms in systems]), 4.0, torch.float64)
        check(graphs, systems, 4.0)
        assert graphs.uniform


def test_all_arrays_are_in_the_order_of_the_samples(systems):
    samples = [to_sample(atoms) for atoms in systems]
    samples[2] |= {"charge": np.array(-1.0), "spin": np.array(2.0)}
    graphs = collate(samples, 3.0, torch.float64)
    numbers = np.concatenate([sample["numbers"] for sample in samples])
    centred = [s["positions"] - s["positions"].mean(0) for s in samples]
    assert graphs.numbers.tolist() == numbers.tolist()
    np.testing.assert_allclose(graphs.positions, np.concatenate(centred))
    assert graphs.molecule.tolist() == np.repeat(range(len(systems)), graphs.counts).tolist()
    assert graphs.charge.tolist() == [0, 0, -1, 0, 0, 0, 0]
    assert graphs.spin.tolist() == [0, 0, 2, 0, 0, 0, 0]
    np.testing.assert_allclose(graphs.cell[1], systems[1].cell)
    assert not graphs.cell[0].any()


def test_single_precision_holds_far_from_the_origin():
    near = physics.distorted("CH3OH")
    far = near | {"positions": near["positions"] + 1e4}
    one, other = (collate([sample], 4.0, torch.float32) for sample in (near, far))
    np.testing.assert_allclose(lengths(one), lengths(other), atol=1e-6)


def test_sums_go_where_they_belong():
    graphs = collate([physics.distorted("H2O"), physics.distorted("CH4")], 5.0)
    assert graphs.total(torch.ones(8)).tolist() == [3, 5]
    assert graphs.gathered(torch.ones(graphs.edges.shape[1])).tolist() == [2] * 3 + [4] * 5


def test_repeated_is_the_same_many_times(systems):
    samples = [to_sample(atoms) for atoms in systems]
    once, thrice = collate(samples, 3.0), collate(samples * 3, 3.0)
    for name in thrice.__slots__:
        mine, theirs = getattr(once.repeated(3), name), getattr(thrice, name)
        assert mine == theirs if name == "counts" else torch.equal(mine, theirs)


def test_a_lonely_atom_has_no_neighbours():
    graphs = collate([to_sample(Atoms("H"))], 5.0)
    assert graphs.edges.shape == (2, 0)
    assert graphs.vectors().shape == (0, 3)


def test_the_table_knows_its_elements_and_no_others():
    table = element_table((1, 8))
    assert (table[1], table[8], table[6]) == (0, 1, -1)


def test_what_is_no_molecule_is_refused():
    with pytest.raises(
        ContractError, match=r"schnet: .*'positions' and 'numbers'; got \['numbers'\]"
    ):
        collate([{"numbers": np.array([1])}], 5.0, kernel="schnet")
    with pytest.raises(ContractError, match="'positions' and 'numbers'"):
        collate([np.zeros(3)], 5.0)
    with pytest.raises(ShapeError, match=r"got \(2, 3\) and \(3,\)"):
        collate([{"positions": np.zeros((2, 3)), "numbers": np.array([1, 1, 8])}], 5.0)
