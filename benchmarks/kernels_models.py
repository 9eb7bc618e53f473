"""Models: what our wrapping costs beside the same library used directly, and a committee's call.

    python benchmarks/kernels_models.py                  # all models that are installed
    python benchmarks/kernels_models.py schnet allegro   # some

Prints a Markdown table. One thread; times are CPU seconds of that thread, so that a busy machine
does little harm; each ratio is the median of ratios taken side by side.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pal.kernels.atoms import read_samples
from pal.records import Batch, LabelledSample
from pal.roles import Context

warnings.filterwarnings("ignore")

START = Path(__file__).parents[1] / "examples" / "alanine" / "alanine.xyz"
SIZES = (1, 8, 32)
"""Molecules per force call."""
FRAMES, STEP = 72, 8
"""Frames in the dataset, and per training step."""
MEMBERS = 4
REPEATS = 7


class Bare(Protocol):
    """A library used directly, as one would without PAL: arrays in, arrays out."""

    def forces(self, positions: np.ndarray, numbers: np.ndarray) -> Any:
        """Return energies (n,) and forces (n, a, 3) for positions (n, a, 3), numbers (a,)."""

    def epoch(self, frames: Frames) -> Any:
        """Learn once from `frames.learn`, STEP at a time, then see the error of `frames.check`."""


@dataclass(frozen=True)
class Frames:
    """Indices into labelled frames of one molecule."""

    positions: np.ndarray
    numbers: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    learn: np.ndarray
    check: np.ndarray


@dataclass(frozen=True)
class Entry:
    """One row: our factory, which takes the context, and the bare library, of the same size."""

    ours: Callable[[Context], Any]
    bare: Callable[[], Bare]


class TorchBare:
    """A module that maps positions (N, 3), numbers (N,), molecule (N,) to energies (n,).

    What one writes by hand: forces by autograd, Adam, the loss that ours minimises, an average
    of the weights that is seen in the validation.
    """

    def __init__(
        self,
        module: nn.Module,
        energies: Callable[[Tensor, Tensor, Tensor], Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.module, self.energies, self.dtype = module, energies, dtype
        self.optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def evaluate(self, positions, numbers, learning):
        count, atoms = positions.shape[:2]
        place = torch.as_tensor(positions.reshape(-1, 3), dtype=self.dtype).requires_grad_()
        kinds = torch.as_tensor(np.tile(numbers, count))
        molecule = torch.arange(count).repeat_interleave(atoms)
        energies = self.energies(place, kinds, molecule).view(-1)
        (slopes,) = torch.autograd.grad(energies.sum(), place, create_graph=learning)
        return energies, -slopes

    def forces(self, positions, numbers):
        self.module.requires_grad_(False).eval()
        energies, forces = self.evaluate(positions, numbers, False)
        return energies.detach().numpy(), forces.view(positions.shape).numpy()

    def loss(self, frames, rows, learning):
        energies, forces = self.evaluate(frames.positions[rows], frames.numbers, learning)
        off = forces - torch.as_tensor(frames.forces[rows].reshape(-1, 3), dtype=self.dtype)
        missed = energies - torch.as_tensor(frames.energies[rows], dtype=self.dtype)
        return off.square().mean() + missed.square().mean() / len(frames.numbers)

    def epoch(self, frames):
        self.module.requires_grad_(True).train()
        order = np.random.default_rng(0).permutation(frames.learn)
        steps = len(order) // STEP
        losses = []
        for step in range(steps):
            self.optimiser.zero_grad()
            loss = self.loss(frames, order[step::steps], True)
            loss.backward()
            self.optimiser.step()
            losses.append(loss.detach())
        self.module.requires_grad_(False).eval()
        found = [self.loss(frames, frames.check, False)]
        return float(torch.stack(losses).mean()), float(torch.stack(found).mean())


def neighbours(place: Tensor, molecule: Tensor, cutoff: float) -> Tensor:
    """Return edges (2, E) of molecules of one size: all pairs, as one does by hand."""
    count = int(molecule[-1]) + 1
    own = place.detach().view(count, -1, 3)
    atoms = own.shape[1]
    near = torch.cdist(own, own) < cutoff
    near &= ~torch.eye(atoms, dtype=torch.bool)
    system, centre, neighbour = near.nonzero(as_tuple=True)
    return torch.stack([neighbour, centre]) + system * atoms


def _schnet_ours(context: Context) -> Any:
    from pal.kernels.models.schnet import schnet

    return schnet(context)


def _schnet_bare() -> Bare:
    from torch_geometric.nn.models import SchNet

    def graph(place: Tensor, molecule: Tensor) -> tuple[Tensor, Tensor]:
        edges = neighbours(place, molecule, 5.0)
        return edges, (place[edges[0]] - place[edges[1]]).norm(dim=-1)

    module = SchNet(64, 64, 3, 32, 5.0, interaction_graph=graph)
    return TorchBare(module, lambda place, kinds, molecule: module(kinds, place, molecule))


def _nequip_ours(context: Context) -> Any:
    from pal.kernels.models.nequip import nequip

    return nequip(context)


def _nequip_bare() -> Bare:
    from nequip.model import NequIPGNNModel

    return _framework(
        NequIPGNNModel,
        num_layers=2,
        l_max=1,
        parity=False,
        num_features=16,
        radial_mlp_depth=1,
        radial_mlp_width=32,
    )


def _allegro_ours(context: Context) -> Any:
    from pal.kernels.models.allegro import allegro

    return allegro(context)


def _allegro_bare() -> Bare:
    from allegro.model import AllegroModel

    return _framework(
        AllegroModel,
        l_max=1,
        parity=False,
        radial_chemical_embed={"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
        scalar_embed_mlp_hidden_layers_width=32,
        num_layers=2,
        num_scalar_features=32,
        num_tensor_features=16,
        allegro_mlp_hidden_layers_width=32,
        readout_mlp_hidden_layers_width=32,
    )


def _framework(build: Callable[..., Any], **options: Any) -> Bare:
    """Return a model of the NequIP framework, which takes positions in float64."""
    from nequip.utils.global_state import set_global_state

    set_global_state()
    torch.set_default_dtype(torch.float32)
    module = build(
        seed=0,
        model_dtype="float32",
        type_names=["H", "C", "N", "O"],
        r_max=5.0,
        avg_num_neighbors=10.0,
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
        do_derivatives=False,
        **options,
    )

    def energies(place: Tensor, kinds: Tensor, molecule: Tensor) -> Tensor:
        data = {
            "pos": place,
            "edge_index": neighbours(place, molecule, 5.0).flip(0),
            "atom_types": TYPES[kinds],
            "batch": molecule,
            "num_atoms": torch.bincount(molecule),
        }
        return module(data)["total_energy"]

    return TorchBare(module, energies, torch.float64)


def _mace_ours(context: Context) -> Any:
    from pal.kernels.models.mace import mace

    return mace(context)


def _mace_bare() -> Bare:
    from e3nn import o3
    from mace import modules

    module = modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=6,
        max_ell=2,
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=modules.RealAgnosticInteractionBlock,
        num_interactions=2,
        num_elements=4,
        hidden_irreps=o3.Irreps("16x0e+16x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(4),
        avg_num_neighbors=10.0,
        atomic_numbers=[1, 6, 7, 8],
        correlation=3,
        gate=nn.functional.silu,
        radial_MLP=[64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )

    def energies(place: Tensor, kinds: Tensor, molecule: Tensor) -> Tensor:
        edges = neighbours(place, molecule, 5.0)
        counts = torch.bincount(molecule)
        zeros = torch.zeros(edges.shape[1], 3)
        data = {
            "positions": place,
            "node_attrs": torch.eye(4)[TYPES[kinds]],
            "edge_index": edges,
            "shifts": zeros,
            "unit_shifts": zeros,
            "cell": torch.zeros(3 * len(counts), 3),
            "batch": molecule,
            "ptr": torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        }
        return module(data, compute_force=False)["energy"]

    return TorchBare(module, energies)


TYPES = torch.full((10,), -1).index_put((torch.tensor([1, 6, 7, 8]),), torch.arange(4))
"""Places of the atomic numbers among the elements of alanine dipeptide."""

MODELS: dict[str, Entry] = {
    "schnet": Entry(_schnet_ours, _schnet_bare),
    "nequip": Entry(_nequip_ours, _nequip_bare),
    "allegro": Entry(_allegro_ours, _allegro_bare),
    "mace": Entry(_mace_ours, _mace_bare),
}


# -- measuring


def frames_of(count: int, seed: int = 0) -> Frames:
    """Return distorted geometries of alanine dipeptide; what the labels are does not matter."""
    start = read_samples(START)[0]
    rng = np.random.default_rng(seed)
    positions = start["positions"] + rng.normal(0, 0.05, (count, *start["positions"].shape))
    checked = np.array([np.random.default_rng((0, k)).random() < 0.1 for k in range(count)])
    return Frames(
        positions,
        start["numbers"],
        rng.normal(size=count),
        rng.normal(size=positions.shape),
        np.flatnonzero(~checked),
        np.flatnonzero(checked),
    )


def batch_of(frames: Frames) -> Batch:
    count = len(frames.positions)
    numbers = np.tile(frames.numbers, (count, 1))
    return Batch.stacked({"positions": frames.positions, "numbers": numbers})


def dataset_of(frames: Frames) -> list[LabelledSample]:
    columns = zip(frames.positions, frames.energies, frames.forces, strict=True)
    return [
        LabelledSample(
            k,
            {"positions": positions, "numbers": frames.numbers},
            {"energy": np.asarray(energy), "forces": forces},
        )
        for k, (positions, energy, forces) in enumerate(columns)
    ]


def context(index: int = 0) -> Context:
    return Context("model", index, MEMBERS, index, Path(gettempdir()))


def cost(call: Callable[[], Any], seconds: float = 0.2) -> float:
    """Return the CPU seconds of a call, the smallest of as many as fit."""
    found = []
    end = time.process_time() + seconds
    while not found or time.process_time() < end:
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def beside(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float, float]:
    """Return the median cost of both in seconds, and the median of ours over theirs."""
    ours(), theirs()
    pairs = [(cost(ours), cost(theirs)) for _ in range(REPEATS)]
    mine, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return mine, bare, statistics.median(one / other for one, other in pairs)


def forever(model: Any, dataset: list[LabelledSample]) -> Iterator[Any]:
    while True:
        yield from model.train(dataset)


def force_calls(entry: Entry, count: int) -> tuple[float, float, float]:
    """One member's force call on `count` molecules of 22 atoms, ours and theirs."""
    frames = frames_of(count)
    batch, model, bare = batch_of(frames), entry.ours(context()), entry.bare()
    return beside(
        lambda: model.predict(batch), lambda: bare.forces(frames.positions, frames.numbers)
    )


def training_steps(entry: Entry) -> tuple[float, float, float]:
    """A training step on STEP molecules, with its share of the validation, ours and theirs."""
    frames = frames_of(FRAMES)
    steps = len(frames.learn) // STEP
    epochs, bare = forever(entry.ours(context()), dataset_of(frames)), entry.bare()
    mine, theirs, ratio = beside(lambda: next(epochs), lambda: bare.epoch(frames))
    return mine / steps, theirs / steps, ratio


def committee_calls(entry: Entry, count: int) -> tuple[float, float, float]:
    """A committee's call beside its members' calls one after the other."""
    batch, models = batch_of(frames_of(count)), [entry.ours(context(k)) for k in range(MEMBERS)]
    committee = type(models[0]).committee(models)
    return beside(
        lambda: committee.predict(batch), lambda: [model.predict(batch) for model in models]
    )


def figures(name: str) -> Mapping[str, tuple[float, float, float]]:
    """Return, by what was measured: (seconds ours, seconds theirs, ours over theirs).

    For a committee "theirs" are its members' calls in sequence.
    """
    torch.set_num_threads(1)
    entry = MODELS[name]
    found = {f"force call, {n} x 22 atoms": force_calls(entry, n) for n in SIZES}
    found[f"training step, {STEP} x 22 atoms"] = training_steps(entry)
    for n in SIZES:
        found[f"committee of {MEMBERS}, {n} x 22 atoms"] = committee_calls(entry, n)
    return found


def main(names: list[str]) -> None:
    print("| model | what | calls a second | library, or in sequence | time ratio |")
    print("|---|---|---|---|---|")
    for name in names or MODELS:
        try:
            found = figures(name)
        except ImportError as error:
            print(f"| {name} | not installed: {error} | | | |")
            continue
        for what, (mine, theirs, ratio) in found.items():
            row = f"{1 / mine:.1f} | {1 / theirs:.1f} | {ratio:.2f}"
            print(f"| {name} | {what} | {row} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
