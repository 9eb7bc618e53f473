"""Models without graphs: what our wrapping costs beside the bare library, and a committee's call.

    python benchmarks/kernels_surrogates.py                  # all that are installed
    python benchmarks/kernels_surrogates.py scikit_learn     # some

Prints a Markdown table, measured as in `kernels_models.py`. "Theirs" is scikit-learn itself, or
the same torch module in a loop written by hand, or for a committee its members' calls in sequence.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from kernels_models import MEMBERS, beside, context, forever
from torch import nn

from pal.records import Batch, LabelledSample

warnings.filterwarnings("ignore")

Row = tuple[str, tuple[float, float, float]]
COUNTS = (1, 8, 64)
"""Samples per call."""
LEARN, STEP = 128, 16
"""Samples in the dataset, and per training step."""


def committee_rows(build: Callable[[int], Any], data: list[LabelledSample]) -> Iterator[Row]:
    """A committee's call beside its members' calls one after the other, both after an epoch."""
    models, others = ([build(k) for k in range(MEMBERS)] for _ in range(2))
    for model in (*models, *others):
        next(iter(model.train(data)))
    committee = type(models[0]).committee(models)
    for count in COUNTS:
        batch = Batch([item.sample for item in data[:count]])
        found = beside(
            lambda b=batch: committee.predict(b),
            lambda b=batch: [model.predict(b) for model in others],
        )
        yield f"committee of {MEMBERS}, {count} samples", found


# -- scikit-learn


def scikit_learn() -> Iterator[Row]:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor

    from pal.kernels.models.scikit_learn import ScikitLearn

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 20)), rng.normal(size=(300, 5))
    data = [LabelledSample(k, *pair) for k, pair in enumerate(zip(x, y, strict=True))]
    for kind, arguments in (
        (GaussianProcessRegressor, {"alpha": 1e-6}),
        (RandomForestRegressor, {"n_estimators": 50, "random_state": 0}),
    ):
        name, bare = kind.__name__, kind(**arguments)
        full = f"{kind.__module__.rpartition('.')[0]}.{name}"
        model = ScikitLearn(context(), estimator=full, arguments=arguments)
        yield (
            f"{name}: fit 300 labels",
            beside(lambda m=model: list(m.train(data)), lambda b=bare: b.fit(x, y)),
        )
        for count in COUNTS:
            batch, rows = Batch.stacked(x[:count]), x[:count]
            found = beside(
                lambda m=model, b=batch: m.predict(b), lambda b=bare, r=rows: b.predict(r)
            )
            yield f"{name}: predict {count} samples", found


# -- the convolutional network


IMAGE = (16, 32)


class BareImages:
    """The module in a loop by hand: AdamW, clipped, an average that is seen in the validation."""

    def __init__(self, images: np.ndarray, targets: np.ndarray, module: nn.Module) -> None:
        self.images = torch.as_tensor(images, dtype=torch.float32)[:, None]
        self.targets = torch.as_tensor(targets, dtype=torch.float32)
        self.module, self.average = module, copy.deepcopy(module).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, fused=True)
        draws = [np.random.default_rng((0, k)).random() for k in range(len(images))]
        self.learn = np.flatnonzero(np.array(draws) >= 0.1)
        self.check = np.flatnonzero(np.array(draws) < 0.1)

    def predict(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.average(torch.as_tensor(images, dtype=torch.float32)[:, None]).numpy()

    def loss(self, module: nn.Module, rows: np.ndarray) -> torch.Tensor:
        return (module(self.images[rows]) - self.targets[rows]).square().mean()

    def epoch(self) -> float:
        order = np.random.default_rng(0).permutation(self.learn)
        steps = len(order) // STEP
        for step in range(steps):
            self.optimiser.zero_grad()
            self.loss(self.module, order[step::steps]).backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 10.0)
            self.optimiser.step()
            pairs = zip(self.average.parameters(), self.module.parameters(), strict=True)
            for mean, present in pairs:
                mean.lerp_(present.detach(), 0.01)
        found = [self.loss(self.average, r) for r in np.array_split(self.check, 1)]
        return float(torch.stack(found).mean())


def convolutional_network() -> Iterator[Row]:
    from pal.kernels.models.convolutional_network import (
        ConvolutionalNetwork,
        convolutional_network,
    )

    rng = np.random.default_rng(0)
    images, targets = rng.random((LEARN, *IMAGE)), rng.random((LEARN, 2))
    pairs = zip(images, targets, strict=True)
    data = [LabelledSample(k, *pair) for k, pair in enumerate(pairs)]
    size = f"{IMAGE[0]} x {IMAGE[1]}"

    def build(index: int) -> Any:
        return convolutional_network(context(index), flips=["vertical"], shifts=["horizontal"])

    model = build(0)
    epochs = forever(model, data)
    next(epochs)
    module = ConvolutionalNetwork(
        [1, 16, 32, 32], kernel_size=3, head=(64, 2), flips=[-2], shifts=[-1]
    )
    bare = BareImages(images, targets, module)
    steps = len(bare.learn) // STEP
    mine, theirs, ratio = beside(lambda: next(epochs), bare.epoch)
    yield f"training step, {STEP} images of {size}", (mine / steps, theirs / steps, ratio)
    for count in COUNTS:
        batch, some = Batch.stacked(images[:count]), images[:count]
        found = beside(lambda b=batch: model.predict(b), lambda s=some: bare.predict(s))
        yield f"predict {count} images of {size}", found
    yield from committee_rows(build, data)


# -- molecules


def molecules(atoms: int = 22) -> list[LabelledSample]:
    rng = np.random.default_rng(0)
    place = 3 * rng.normal(size=(atoms, 3))
    items = []
    for k in range(LEARN):
        label = {"energy": np.asarray(rng.normal()), "forces": rng.normal(size=(atoms, 3))}
        label |= {f"baseline_{name}": 0.9 * array for name, array in label.items()}
        sample = {"positions": place + rng.normal(0, 0.1, place.shape)}
        items.append(LabelledSample(k, sample, label))
    return items


class BareDistances(nn.Module):
    """A network on inverse distances, and forces by autograd, as one writes it by hand."""

    def __init__(self, atoms: int) -> None:
        super().__init__()
        self.i, self.j = np.triu_indices(atoms, 1)
        widths = [len(self.i), 128, 128]
        layers = [nn.Sequential(nn.Linear(a, b), nn.SiLU()) for a, b in pairwise(widths)]
        self.net = nn.Sequential(*layers, nn.Linear(128, 1))

    def predict(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = torch.as_tensor(positions, dtype=torch.float32).requires_grad_()
        distances = (places[:, self.i] - places[:, self.j]).norm(dim=-1)
        energies = self.net(1 / distances)[:, 0]
        (slopes,) = torch.autograd.grad(energies.sum(), places)
        return energies.detach().numpy(), -slopes.numpy()


def distance_network() -> Iterator[Row]:
    from pal.kernels.models.distance_network import DistanceNetwork

    data = molecules()
    model, bare = DistanceNetwork(context()), BareDistances(22)
    bare.requires_grad_(False)
    next(iter(model.train(data)))
    for count in COUNTS:
        batch = Batch([item.sample for item in data[:count]])
        places = np.stack([item.sample["positions"] for item in data[:count]])
        found = beside(lambda b=batch: model.predict(b), lambda p=places: bare.predict(p))
        yield f"force call, {count} x 22 atoms", found
    yield from committee_rows(lambda k: DistanceNetwork(context(k)), data)


def delta() -> Iterator[Row]:
    from pal.kernels.models.delta import Delta

    data = molecules()
    model = Delta(context(), model="distance_network", baseline_model="distance_network")
    next(iter(model.train(data)))
    for count in COUNTS:
        batch = Batch([item.sample for item in data[:count]])
        found = beside(
            lambda b=batch: model.predict(b),
            lambda b=batch: (model.correction.predict(b), model.model.predict(b)),
        )
        yield f"force call, {count} x 22 atoms, beside its two models", found

    def build(index: int) -> Any:
        inner = "distance_network"
        return Delta(context(index), model=inner, baseline_model=inner)

    yield from committee_rows(build, data)


MODELS = {
    "distance_network": distance_network,
    "delta": delta,
    "scikit_learn": scikit_learn,
    "convolutional_network": convolutional_network,
}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    print("| model | what | calls a second | library, or in sequence | time ratio |")
    print("|---|---|---|---|---|")
    for name in names or MODELS:
        try:
            for what, (mine, theirs, ratio) in MODELS[name]():
                row = f"{1 / mine:.1f} | {1 / theirs:.1f} | {ratio:.2f}"
                print(f"| {name} | {what} | {row} |", flush=True)
        except ImportError as error:
            print(f"| {name} | not installed: {error} | | | |")


if __name__ == "__main__":
    main(sys.argv[1:])
