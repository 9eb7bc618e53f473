"""What no sample may be: overlapping atoms, exploded forces, numbers out of bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pal.kernels.selectors.parts.contacts import contact
from pal.kernels.selectors.parts.screen import Screen
from pal.records import Batch

WATER = {
    "numbers": np.array([8, 1, 1]),
    "positions": np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]),
}


def moved(atom: int, place: list[float]) -> dict[str, Any]:
    positions = WATER["positions"].copy()
    positions[atom] = place
    return {**WATER, "positions": positions}


def test_a_molecule_in_one_piece_has_no_contact() -> None:
    assert contact(WATER, 0.6) is None


def test_the_atoms_that_overlap_most_are_named() -> None:
    close = moved(2, [0.9, 0.1, 0.0])
    first, second, distance = contact(close, 0.6) or (0, 0, 0.0)
    assert (first, second) == (1, 2)
    assert distance == pytest.approx(np.hypot(0.06, 0.1))
    assert Screen(min_distance=0.6).overlap(close) == "atoms 1 and 2 are 0.12 Å apart"
    assert Screen().overlap(close) == ""


def test_the_sum_of_the_radii_decides() -> None:
    """O and H: 0.66 Å and 0.31 Å."""
    assert contact(moved(1, [0.6 * 0.97 + 0.001, 0.0, 0.0]), 0.6) is None
    assert contact(moved(1, [0.6 * 0.97 - 0.001, 0.0, 0.0]), 0.6) is not None


@pytest.mark.parametrize("edge", [1.9, 12.0])
@pytest.mark.parametrize("pbc", [[True, True, True], [True, False, False]])
def test_images_count_where_the_cell_repeats(edge: float, pbc: list[bool]) -> None:
    """In a small cell, where an atom meets several images, and in a large one."""
    cell = np.diag([12.0, edge, 12.0])
    pair = {
        "numbers": np.array([6, 6]),
        "positions": np.array([[0.2, 0.0, 0.0], [11.9, 0.1, 0.0]]),
        "cell": cell,
        "pbc": np.array(pbc),
    }
    first, second, distance = contact(pair, 0.6) or (0, 0, 0.0)
    assert {first, second} == {0, 1}
    assert distance == pytest.approx(np.hypot(0.3, 0.1))
    assert contact({**pair, "pbc": np.array([False] * 3)}, 0.6) is None


def test_a_slab_without_a_third_vector_is_a_cell() -> None:
    slab = {**WATER, "cell": np.diag([9.0, 9.0, 0.0]), "pbc": np.array([True, True, False])}
    assert contact(slab, 0.6) is None


def test_skewed_cells_agree_with_a_search_through_many_images() -> None:
    rng = np.random.default_rng(3)
    cell = np.array([[6.0, 0.0, 0.0], [2.9, 5.5, 0.0], [1.0, 2.0, 6.5]])
    images = np.array([[i, j, k] for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)
                       for k in (-2, -1, 0, 1, 2)]) @ cell  # fmt: skip
    for _ in range(20):
        positions = rng.uniform(-8, 8, (3, 3)) @ cell / 6
        sample = {"numbers": np.array([6] * 3), "positions": positions, "cell": cell,
                  "pbc": np.array([True] * 3)}  # fmt: skip
        vectors = positions[:, None, None] - positions[None, :, None] + images
        nearest = np.linalg.norm(vectors, axis=-1).min(axis=-1)[np.triu_indices(3, 1)].min()
        found = contact(sample, 0.99)
        if nearest < 0.99 * 2 * 0.76:
            assert found is not None
            assert found[2] == pytest.approx(nearest)
        else:
            assert found is None


def test_many_atoms_are_looked_at_as_few_are() -> None:
    rng = np.random.default_rng(1)
    grid = np.array([[i, j, k] for i in range(9) for j in range(9) for k in range(9)], float)
    sample = {"numbers": np.full(729, 6), "positions": 2 * grid + rng.normal(0, 0.05, grid.shape)}
    assert contact(sample, 0.6) is None
    sample["positions"][500] = sample["positions"][3] + [0.0, 0.3, 0.0]
    first, second, distance = contact(sample, 0.6) or (0, 0, 0.0)
    assert {first, second} == {3, 500}
    assert distance == pytest.approx(0.3)


def test_what_is_no_atoms_does_not_overlap() -> None:
    assert contact(np.zeros(4), 0.6) is None
    assert contact({"design": np.zeros(3)}, 0.6) is None
    assert contact({"numbers": np.array([1]), "positions": np.zeros((1, 3))}, 0.6) is None


def test_exploded_forces_and_bounds_are_found_row_by_row() -> None:
    samples = Batch.stacked({"x": np.array([[0.0, 1.0], [0.0, -7.0], [0.0, 0.0]])})
    forces = np.zeros((3, 2, 3))
    forces[2, 1, 0] = -80.0
    mean = Batch.stacked({"energy": np.array([0.0, 0.0, 1e9]), "forces": forces})
    screen = Screen(max_force=50.0, bounds={"x": (-5.0, 5.0)})
    assert screen.outside(samples) == {1: "x = -7 is outside [-5, 5]"}
    assert screen.exploded(mean) == {2: "a predicted force of -80 eV/Å exceeds 50"}
    assert Screen().outside(samples) == Screen().exploded(mean) == {}


def test_samples_of_several_sizes_and_bare_ones_are_looked_at() -> None:
    screen = Screen(bounds={"x": (0.0, 1.0)})
    assert screen.outside(Batch([np.zeros(2), np.full(3, 2.0), np.ones(2)])).keys() == {1}
    assert screen.outside(Batch([{"y": np.full(2, 9.0)}])) == {}
