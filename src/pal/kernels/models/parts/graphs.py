"""Molecules and crystals of any sizes as one graph: what potentials on graphs compute with.

Two atoms closer than the cutoff are neighbours; each such pair is two edges, one per direction,
and in a periodic system one for each image of the neighbour within the cutoff.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor
from vesin import NeighborList

from pal.errors import ContractError, ShapeError
from pal.records import Array, Batch, Sample

DENSE: Final = 64
"""Up to so many atoms, all pairs of an isolated molecule are faster than a neighbour list."""

LARGEST: Final = 118
"""The largest atomic number."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """A batch of n systems with N atoms and E edges together; lengths in Å.

    `positions` (N, 3), each system moved so that its centroid is the origin; `numbers` (N,) int64,
    atomic numbers; `molecule` (N,) int64, ascending, the system each atom belongs to; `charge`
    (n,) in e and `spin` (n,), the number of unpaired electrons, zero where a sample says nothing;
    `cell` (n, 3, 3), zero in vacuum; `edges` (2, E) int64, row 0 the neighbour j, row 1 the
    centre i, sorted by the centre; `shifts` (E, 3), what is added to the position of j to get its
    image, zero in vacuum; `counts`: the number of atoms of each system.
    """

    positions: Tensor
    numbers: Tensor
    molecule: Tensor
    charge: Tensor
    spin: Tensor
    cell: Tensor
    edges: Tensor
    shifts: Tensor
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of systems n."""
        return len(self.counts)

    @property
    def uniform(self) -> bool:
        """Whether all systems have the same number of atoms."""
        return len(set(self.counts)) == 1

    def at(self, positions: Tensor) -> Self:
        """Return the same graphs with other positions (N, 3)."""
        return replace(self, positions=positions)

    def repeated(self, times: int) -> Self:
        """Return all of it so many times, one after the other: n, N and E are multiplied."""
        index = torch.arange(times, device=self.edges.device)[:, None]
        return replace(
            self,
            positions=self.positions.repeat(times, 1),
            numbers=self.numbers.repeat(times),
            molecule=(self.molecule + index * self.size).view(-1),
            charge=self.charge.repeat(times),
            spin=self.spin.repeat(times),
            cell=self.cell.repeat(times, 1, 1),
            edges=(self.edges[:, None] + index * len(self.numbers)).view(2, -1),
            shifts=self.shifts.repeat(times, 1),
            counts=self.counts * times,
        )

    def vectors(self) -> Tensor:
        """Return r_j - r_i along each edge, from the centre to its neighbour: (E, 3) in Å."""
        ends = self.positions.index_select(0, self.edges.view(-1)).view(2, -1, 3)
        return ends[0] - ends[1] + self.shifts

    def total(self, values: Tensor) -> Tensor:
        """Sum values (N, ...) of atoms over the atoms of each system: (n, ...)."""
        zeros = values.new_zeros((self.size, *values.shape[1:]))
        return zeros.index_add(0, self.molecule, values)

    def gathered(self, values: Tensor) -> Tensor:
        """Sum values (E, ...) of edges over the edges of each centre: (N, ...)."""
        zeros = values.new_zeros((len(self.numbers), *values.shape[1:]))
        return zeros.index_add(0, self.edges[1], values)


def element_table(elements: Sequence[int]) -> Tensor:
    """Return a table (119,) int64: atomic number to place in `elements`, -1 for all others."""
    table = torch.full((LARGEST + 1,), -1)
    table[torch.as_tensor(elements, dtype=torch.int64)] = torch.arange(len(elements))
    return table


def collate(
    samples: Sequence[Sample],
    cutoff: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    kernel: str = "potential",
) -> Graphs:
    """Return samples of any sizes as one `Graphs`; neighbours are closer than `cutoff` Å.

    Raises:
        ContractError, ShapeError: a sample lacks positions or numbers, or they do not fit;
            names `kernel`.
    """
    batch = samples if isinstance(samples, Batch) else Batch(samples)
    parts = [_Part(indices, group, kernel) for indices, group in batch.groups()]
    counts = np.empty(len(batch), dtype=np.int64)
    for part in parts:
        counts[part.indices] = part.atoms
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    pairs = [part.pairs(cutoff, first[part.indices]) for part in parts]
    edges, shifts = pairs[0] if len(pairs) == 1 else _merged(pairs)

    def real(values: Array) -> Tensor:
        return torch.from_numpy(values).to(device=device, dtype=dtype)

    return Graphs(
        positions=real(_in_order([part.positions for part in parts], parts, first)),
        numbers=torch.from_numpy(
            _in_order([part.numbers for part in parts], parts, first).astype(np.int64)
        ).to(device),
        molecule=torch.from_numpy(np.repeat(np.arange(len(batch)), counts)).to(device),
        charge=real(_of_systems([part.charge for part in parts], parts)),
        spin=real(_of_systems([part.spin for part in parts], parts)),
        cell=real(_of_systems([part.cell for part in parts], parts)),
        edges=torch.from_numpy(edges).to(device),
        shifts=real(shifts),
        counts=tuple(counts.tolist()),
    )


def require_atoms(names: Collection[str], kernel: str) -> None:
    """Refuse a sample without positions and numbers."""
    if not {"positions", "numbers"} <= set(names):
        raise ContractError(
            f"{kernel}: a sample of atoms needs the arrays 'positions' and 'numbers'; "
            f"got {[name or 'a bare array' for name in sorted(names)]}; return "
            "pal.kernels.atoms.to_sample(atoms) from the generator"
        )


class _Part:
    """The g systems of a batch that have the same number of atoms a, as arrays."""

    def __init__(self, indices: list[int], group: Batch, kernel: str) -> None:
        columns = group.columns
        require_atoms(columns, kernel)
        positions = np.asarray(columns["positions"], dtype=float)
        self.numbers: Array = np.asarray(columns["numbers"])
        if positions.ndim != 3 or positions.shape != (*self.numbers.shape, 3):
            raise ShapeError(
                f"{kernel}: expected positions (atoms, 3) and numbers (atoms,); got "
                f"{positions.shape[1:]} and {self.numbers.shape[1:]}"
            )
        size, self.atoms = self.numbers.shape
        self.indices: Array = np.asarray(indices)
        # Differences are what counts, and in single precision they want small numbers.
        self.positions: Array = positions - positions.mean(axis=1, keepdims=True)
        self.charge = _scalars(columns, "charge", size)
        self.spin = _scalars(columns, "spin", size)
        self.pbc = np.asarray(columns.get("pbc", np.zeros((size, 3), dtype=bool)), dtype=bool)
        cell = np.asarray(columns.get("cell", np.zeros((size, 3, 3))), dtype=float)
        periodic = np.logical_or.reduce(self.pbc, axis=1)
        self.cell: Array = cell * periodic[:, None, None]

    def pairs(self, cutoff: float, first: Array) -> tuple[Array, Array]:
        """Return edges (2, E) and shifts (E, 3); system g begins at atom `first[g]`."""
        if self.atoms <= DENSE and not self.pbc.any():
            edges = self._all_pairs(cutoff, first)
            return edges, np.zeros((edges.shape[1], 3))
        return _merged(
            [self._listed(cutoff, row, start) for row, start in enumerate(first.tolist())]
        )

    def _all_pairs(self, cutoff: float, first: Array) -> Array:
        """Compare all distances: |r_i - r_j|^2 = |r_i|^2 + |r_j|^2 - 2 r_i r_j."""
        squares = np.einsum("gax,gax->ga", self.positions, self.positions)
        distances = self.positions @ self.positions.transpose(0, 2, 1)
        distances *= -2.0
        distances += squares[:, :, None]
        distances += squares[:, None]
        distances.reshape(len(first), -1)[:, :: self.atoms + 1] = np.inf
        found = np.flatnonzero(distances < cutoff**2)
        rows, neighbours = np.divmod(found, self.atoms)
        systems, centres = np.divmod(rows, self.atoms)
        start = first[systems]
        return np.stack([start + neighbours, start + centres])

    def _listed(self, cutoff: float, row: int, start: int) -> tuple[Array, Array]:
        cell = self.cell[row]
        lists = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
        centres, neighbours, images = lists.compute(
            self.positions[row], cell, self.pbc[row], "ijS"
        )
        edges = np.stack([neighbours, centres]).astype(np.int64) + start
        return edges, images.astype(float) @ cell


def _scalars(columns: dict[str, Array], name: str, size: int) -> Array:
    if name not in columns:
        return np.zeros(size)
    return np.asarray(columns[name], dtype=float).reshape(size)


def _merged(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Join edges and shifts, sorted by the centre."""
    edges = np.concatenate([pair[0] for pair in pairs], axis=1)
    shifts = np.concatenate([pair[1] for pair in pairs])
    order = np.argsort(edges[1], kind="stable")
    return edges.take(order, axis=1), shifts[order]


def _in_order(values: Sequence[Array], parts: Sequence[_Part], first: Array) -> Array:
    """Put arrays (g, a, ...) of the parts into the order of the batch: (N, ...)."""
    flat = [value.reshape(-1, *value.shape[2:]) for value in values]
    if len(parts) == 1:
        return flat[0]
    result = np.empty((sum(map(len, flat)), *flat[0].shape[1:]), dtype=flat[0].dtype)
    for part, rows in zip(parts, flat, strict=True):
        result[(first[part.indices][:, None] + np.arange(part.atoms)).ravel()] = rows
    return result


def _of_systems(values: Sequence[Array], parts: Sequence[_Part]) -> Array:
    """Put arrays (g, ...) of the parts into the order of the batch: (n, ...)."""
    if len(parts) == 1:
        return values[0]
    result = np.empty((sum(map(len, values)), *values[0].shape[1:]))
    for part, rows in zip(parts, values, strict=True):
        result[part.indices] = rows
    return result
