"""How alike two samples are: fingerprints that can be compared by their distance.

A fingerprint has a kind and a vector. Samples of different kind (another composition, another
shape) are infinitely far from each other; those of one kind are as far as the root mean square
of the difference of their vectors.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError
from pal.records import Array, Batch, Prediction, Sample, named

DISTANCES: Final = "distances"
ARRAYS: Final = "arrays"
LATENT: Final = "latent:"
SPACES: Final = f"'{DISTANCES}', '{ARRAYS}' or '{LATENT}NAME'"


class Fingerprint(NamedTuple):
    """What a sample is compared by: `vector` is float64 (d,)."""

    kind: Hashable
    vector: NDArray[np.float64]


def check_space(space: str, kernel: str) -> str:
    """Return the name of a space if there is such a one.

    Raises:
        ContractError: naming `kernel`, what came and what is known.
    """
    if space in (DISTANCES, ARRAYS) or (space.startswith(LATENT) and space != LATENT):
        return space
    raise ContractError(f"{kernel}: expected space = {SPACES}, got {space!r}")


def fingerprints(
    samples: Batch, space: str, prediction: Prediction | None = None
) -> list[Fingerprint]:
    """Return a fingerprint of each sample.

    Spaces: 'distances', of atoms, see `of_distances`; 'arrays', all numbers of the sample as they
    are; 'latent:NAME', the array of that name that the models predict beside the labels.

    Raises:
        ContractError: samples without atoms, or models that do not predict the array.
    """
    if space == DISTANCES:
        return [of_distances(sample) for sample in samples]
    if space == ARRAYS:
        return [of_arrays(sample) for sample in samples]
    assert prediction is not None
    return [_latent(label, space.removeprefix(LATENT)) for label in prediction.mean]


def of_distances(sample: Sample) -> Fingerprint:
    """Fingerprint of atoms: 1/r of all pairs, in 1/Å, sorted within each pair of elements.

    It does not change when the molecule moves, turns or swaps like atoms, and hardly when a far
    atom moves. Periodic images: the nearest one, in cells that are not very skewed.
    """
    if not (isinstance(sample, Mapping) and {"positions", "numbers"} <= sample.keys()):
        came = sorted(sample) if isinstance(sample, Mapping) else "a bare array"
        raise ContractError(
            f"space = '{DISTANCES}' needs samples of atoms with 'positions' and 'numbers'; got "
            f"{came}; use '{ARRAYS}' for others"
        )
    numbers = np.asarray(sample["numbers"])
    order = np.argsort(numbers, kind="stable")
    numbers, positions = numbers[order], np.asarray(sample["positions"], float)[order]
    first, second = np.triu_indices(len(numbers), 1)
    vectors = positions[second] - positions[first]
    if np.any(sample.get("pbc", False)):
        vectors = _nearest_image(vectors, np.asarray(sample["cell"]), np.asarray(sample["pbc"]))
    inverse = 1.0 / np.maximum(np.linalg.norm(vectors, axis=-1), 1e-6)
    # Atoms come by element, so a pair's elements are two numbers that sort it.
    pair = numbers[first] * 256 + numbers[second]
    vector = inverse[np.lexsort((inverse, pair))]
    return Fingerprint((numbers.tobytes(), float(sample.get("charge", 0.0))), vector)


def _nearest_image(vectors: Array, cell: Array, periodic: Array) -> Array:
    fractions = np.linalg.solve(cell.T, vectors.T).T
    fractions -= np.where(periodic, np.round(fractions), 0.0)
    return np.asarray(fractions @ cell)


def of_arrays(sample: Sample) -> Fingerprint:
    """Fingerprint of any sample: all its numbers, in the order of their names."""
    arrays = sorted(named(sample).items())
    kind = tuple((name, array.shape) for name, array in arrays)
    return Fingerprint(
        kind, np.concatenate([np.ravel(array).astype(float) for _, array in arrays])
    )


def _latent(label: Any, name: str) -> Fingerprint:
    arrays = named(label)
    if name not in arrays:
        raise ContractError(
            f"space = '{LATENT}{name}' needs models that predict '{name}'; they predict "
            f"{sorted(arrays)}"
        )
    vector = np.ravel(arrays[name]).astype(float)
    return Fingerprint(vector.shape, vector)


class Seen:
    """Fingerprints of the samples met last, at most `capacity` of each kind."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._vectors: dict[Hashable, Array] = {}
        self._counts: dict[Hashable, int] = {}

    def nearest(self, fingerprint: Fingerprint) -> float:
        """Return the distance to the nearest sample met; infinity if there is none."""
        kind, vector = fingerprint
        known = self._vectors.get(kind)
        if known is None:
            return np.inf
        off = known[: min(self._counts[kind], self._capacity)] - vector
        return float(np.sqrt(np.einsum("nd,nd->n", off, off).min() / max(1, len(vector))))

    def add(self, fingerprint: Fingerprint) -> None:
        """Remember a sample; the oldest of its kind is forgotten when there is no more room."""
        kind, vector = fingerprint
        known, count = self._vectors.get(kind), self._counts.get(kind, 0)
        if known is None:
            known = self._vectors[kind] = np.empty((min(16, self._capacity), len(vector)))
        elif count == len(known) < self._capacity:
            more = np.empty((min(2 * count, self._capacity) - count, len(vector)))
            known = self._vectors[kind] = np.concatenate([known, more])
        known[count % self._capacity] = vector
        self._counts[kind] = count + 1

    def __len__(self) -> int:
        return sum(min(count, self._capacity) for count in self._counts.values())

    def get_state(self) -> Any:
        """Return all that is remembered."""
        return {"vectors": self._vectors, "counts": self._counts}

    def set_state(self, state: Any) -> None:
        """Remember what `get_state` returned."""
        self._vectors = {kind: array.copy() for kind, array in state["vectors"].items()}
        self._counts = dict(state["counts"])


def farthest_first(
    points: Sequence[Fingerprint], count: int, first: int, seen: Seen | None = None
) -> list[int]:
    """Order points greedily, each the farthest from all before it and from those `seen`.

    The farthest-first traversal of Gonzalez, Theor. Comput. Sci. 38, 293 (1985). `first` begins
    where nothing was seen; at most `count` indices come back.
    """
    if seen is not None and len(seen):
        gaps = np.array([seen.nearest(point) for point in points])
    else:
        gaps = np.full(len(points), np.inf)
        gaps[first] = np.nan  # comes before all others, of other kinds, too
    chosen: list[int] = []
    while len(chosen) < min(count, len(points)):
        index = int(np.argmax(gaps))  # NaN counts as the largest
        chosen.append(index)
        gaps = np.minimum(gaps, [_distance(point, points[index]) for point in points])
        gaps[chosen] = -1.0
    return chosen


def _distance(one: Fingerprint, other: Fingerprint) -> float:
    if one.kind != other.kind:
        return np.inf
    off = one.vector - other.vector
    return float(np.sqrt(off @ off / max(1, len(off))))
