"""A surrogate on images: all that does not depend on how its network looks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from pal.building import Members
from pal.errors import ContractError, ShapeError
from pal.kernels.models.parts.checkpoints import read_weights
from pal.kernels.models.parts.fitting import Fit, Recipe, built
from pal.kernels.models.parts.layout import Layout, Scale
from pal.records import BARE, Array, Batch, Dataset, LabelledSample, Metrics, Weights, named
from pal.roles import Context

Lesson: TypeAlias = list[tuple[Tensor, Tensor]]
"""Images (n, channels, height, width) of one size with their standardised labels (n, outputs)."""

WITHIN: Final = ("outputs", "output_mean", "output_spread", "channels")
"""What belongs to the weights beside the network's own arrays."""

CROWD: Final = 512
"""Pixels of a batch beyond which a CPU convolves for one member at a time: it is faster so."""


@dataclass(frozen=True, slots=True)
class Design:
    """What the factory of a model decides.

    `build(channels, outputs)` makes the network: its `forward(images)` returns standardised
    outputs (n, outputs), and its buffers `mean` and `spread` (channels, 1, 1) are the scale of
    the images. `inputs` names the samples' arrays that are the channels.
    """

    kernel: str
    build: Callable[[int, int], nn.Module]
    recipe: Recipe
    inputs: tuple[str, ...]
    checkpoint: Path | str | None = None


class ImageModel:
    """One member of a committee; see `pal.roles.Model`. Labels: those of the dataset.

    The network is built when its channels and outputs are known: from the first labels, or from
    weights. The scales are fitted then, too, and belong to the weights.
    """

    def __init__(self, context: Context, design: Design) -> None:
        torch.set_num_threads(context.threads)
        self.design = design
        self._context = context
        self._seed = context.seed
        self._fit: Fit[Lesson] | None = None
        self._builds = 0
        if design.checkpoint is not None:
            self.set_weights(read_weights(design.kernel, Path(design.checkpoint), context.index))

    @classmethod
    def committee(cls, models: Sequence[ImageModel]) -> ImageCommittee:
        """Return these members as one committee, which shares the images."""
        return ImageCommittee(models)

    # -- prediction

    def predict(self, samples: Batch) -> Any:
        """Return the labels' arrays, (n, ...) each."""
        network = self.network
        rows = np.empty((len(samples), self.labels.width))
        with torch.no_grad():
            for indices, images in self.images(samples):
                rows[indices] = network(images).cpu().numpy()
        return self.named(rows)

    @property
    def network(self) -> nn.Module:
        """The averaged network.

        Raises:
            ContractError: it has seen neither labels nor weights.
        """
        if self._fit is None:
            raise ContractError(
                f"{self.design.kernel}: it cannot predict before it has seen a label; give the "
                "campaign [initial] samples, or weights to start from"
            )
        return self._fit.averaged

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever the weights do."""
        return (self._builds, -1 if self._fit is None else self._fit.version)

    def named(self, rows: Array) -> Any:
        """Return standardised outputs (n, outputs) as labels in their own units."""
        labels = self.labels.labels(self.scale.undo(rows))
        return labels.get(BARE, labels)

    def images(self, samples: Sequence[Any]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield samples of one size: their indices, and images (n, channels, height, width)."""
        batch = samples if isinstance(samples, Batch) else Batch(samples)
        for indices, group in batch.groups():
            pixels = self._pixels(group)
            if self._fit is not None and pixels.shape[1] != self._channels:
                raise ShapeError(
                    f"{self.design.kernel}: this model knows images of {self._channels} channels; "
                    f"got {pixels.shape[1]}"
                )
            place, dtype = self._context.device, self.design.recipe.dtype
            yield indices, torch.as_tensor(pixels, dtype=dtype, device=place)

    def _pixels(self, group: Batch) -> Array:
        """Return images (n, channels, height, width); numbers become channels of one colour."""
        kernel, wanted = self.design.kernel, self.design.inputs
        missing = [name for name in wanted if name not in group.columns]
        if missing:
            raise ContractError(
                f"{kernel}: expected the arrays {list(wanted)} in each sample; {missing} are "
                f"missing, got {sorted(group.columns)}; see its option inputs"
            )
        arrays = [np.asarray(group[name], dtype=float) for name in wanted]
        sizes = {array.shape[-2:] for array in arrays if array.ndim in (3, 4)}
        if len(sizes) != 1 or any(array.ndim not in (1, 3, 4) for array in arrays):
            shapes = {name: a.shape[1:] for name, a in zip(wanted, arrays, strict=True)}
            raise ShapeError(
                f"{kernel}: expected images (height, width) or (channels, height, width) of one "
                f"size, and numbers (); got {shapes}"
            )
        (size,) = sizes
        parts = [a[:, None, None, None] if a.ndim == 1 else a for a in arrays]
        parts = [a[:, None] if a.ndim == 3 else a for a in parts]
        parts = [np.broadcast_to(a, (len(group), a.shape[1], *size)) for a in parts]
        return np.concatenate(parts, axis=1)

    # -- training

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Fit the labels, from the weights and the optimiser's state as they are.

        `loss` and `mae` are in units of the labels' standard deviation.
        """
        if not dataset:
            raise ContractError(f"{self.design.kernel}: the dataset is empty; label samples first")
        fit = self._fit or self._introduce(dataset)
        yield from fit.epochs(dataset)

    def _introduce(self, dataset: Dataset) -> Fit[Lesson]:
        """Build the network, and fit the scales, from the first labels."""
        labels = Layout.of(dataset[0].label)
        rows = labels.rows([item.label for item in dataset])
        images = [pixels for _, pixels in self.images([item.sample for item in dataset])]
        flat = torch.cat([pixels.movedim(1, 0).flatten(1) for pixels in images], dim=1)
        fit = self._build(len(flat), labels, Scale.of(rows))
        scale = Scale.of(flat.T.double().cpu().numpy())
        for module in (fit.module, fit.averaged):
            for name, values in (("mean", scale.mean), ("spread", scale.spread)):
                module.get_buffer(name).copy_(torch.as_tensor(values)[:, None, None])
        return fit

    def _build(self, channels: int, labels: Layout, scale: Scale) -> Fit[Lesson]:
        design, place = self.design, self._context.device
        self.labels, self.scale, self._channels = labels, scale, channels
        self._builds += 1
        network = built(
            lambda: design.build(channels, labels.width), self._seed, design.recipe.dtype, place
        )
        self._fit = Fit(
            design.kernel, network, self._lesson, _loss, design.recipe, self._seed, error="mae"
        )
        return self._fit

    def _lesson(self, items: Sequence[LabelledSample]) -> Lesson:
        rows = self.scale.apply(self.labels.rows([item.label for item in items]))
        targets = torch.as_tensor(rows)
        images = self.images([item.sample for item in items])
        return [(pixels, targets[indices].to(pixels)) for indices, pixels in images]

    # -- weights and state

    def get_weights(self) -> Weights:
        """Return the averaged network's arrays, and the scales; empty while not built."""
        if self._fit is None:
            return {}
        network = {f"network.{name}": a for name, a in self._fit.get_weights().items()}
        return network | {
            "outputs": self.labels.encoded(),
            "output_mean": self.scale.mean,
            "output_spread": self.scale.spread,
            "channels": np.array(self._channels),
        }

    def set_weights(self, weights: Weights) -> None:
        """Take over another member's weights; the optimiser begins anew."""
        if not weights:
            return
        missing = [name for name in WITHIN if name not in weights]
        if missing:
            raise ContractError(
                f"{self.design.kernel}: these are not its weights: {missing} missing; got "
                f"{sorted(weights)[:5]}"
            )
        prefix = "network."
        self._settle(weights).set_weights(
            {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        )

    def _settle(self, weights: Mapping[str, Array]) -> Fit[Lesson]:
        """Return a fit for weights of these channels and outputs, the present one if it fits."""
        labels, channels = Layout.decoded(weights["outputs"]), int(weights["channels"])
        scale = Scale(np.array(weights["output_mean"]), np.array(weights["output_spread"]))
        if self._fit is None or (labels, channels) != (self.labels, self._channels):
            return self._build(channels, labels, scale)
        self.scale = scale
        return self._fit

    def get_state(self) -> Any:
        """Return weights, optimiser and random numbers."""
        if self._fit is None:
            return {"seed": self._seed}
        return {
            "seed": self._seed,
            "weights": dict(self.get_weights()),
            "fit": self._fit.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from another instance's state."""
        self._seed = state["seed"]
        if "fit" in state:
            self._settle(state["weights"]).set_state(state["fit"])


class ImageCommittee:
    """Several `ImageModel`s that share the images; see `pal.roles.Committee`.

    All members are evaluated in one call. On a CPU this pays for few and small images only;
    larger batches go through the members one after the other.
    """

    def __init__(self, models: Sequence[ImageModel]) -> None:
        self._models = list(models)
        self._members = Members(self._models)
        self._together: Callable[[Tensor], Tensor] | None = None
        self._versions: list[tuple[int, int]] = []

    def predict(self, samples: Batch) -> Any:
        """Return the labels' arrays, (members, n, ...) each."""
        first = self._models[0]
        networks = [model.network for model in self._models]
        rows = np.empty((len(networks), len(samples), first.labels.width))
        with torch.no_grad():
            for indices, images in first.images(samples):
                if images.is_cpu and images[:, 0].numel() > CROWD:
                    parts = torch.stack([network(images) for network in networks])
                else:
                    parts = self._stacked(networks)(images)
                rows[:, indices] = parts.cpu().numpy()
        return _joined([model.named(row) for model, row in zip(self._models, rows, strict=True)])

    def _stacked(self, networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
        """Return the function that evaluates all members; a new one when weights change."""
        versions = [model.version for model in self._models]
        if self._together is None or versions != self._versions:
            self._together, self._versions = stacked(networks), versions
        return self._together

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Fit each member to its own dataset, an epoch in turn."""
        return self._members.train(datasets)

    def get_weights(self) -> list[Weights]:
        """Return the weights of each member."""
        return self._members.get_weights()

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace the weights of one member; its optimiser begins anew."""
        self._members.set_weights(member, weights)

    def get_state(self) -> Any:
        """Return the state of each member."""
        return self._members.get_state()

    def set_state(self, state: Any) -> None:
        """Continue from another committee's state."""
        self._members.set_state(state)


def stacked(networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Return a function of images that gives the outputs (m, n, outputs) of m networks."""
    frame = copy.deepcopy(networks[0]).to("meta").eval()
    state = stack_module_state(list(networks))
    return lambda images: vmap(lambda s: functional_call(frame, s, (images,)))(state)


def _loss(module: nn.Module, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Return the mean squared and the mean absolute error, of standardised outputs."""
    off = torch.cat([module(images) - targets for images, targets in lesson])
    return off.square().mean(), off.detach().abs().mean()


def _joined(labels: Sequence[Any]) -> Any:
    """Stack the members' labels, (m, n, ...)."""
    arrays = [named(label) for label in labels]
    columns = {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}
    return columns.get(BARE, columns)
