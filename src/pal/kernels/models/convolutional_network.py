"""A convolutional network for images whose flips and cyclic shifts mean the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pal.errors import ContractError
from pal.kernels.models.parts.fitting import Recipe
from pal.kernels.models.parts.images import Design, ImageModel
from pal.records import BARE
from pal.roles import Context

AXES: Final = {"vertical": -2, "horizontal": -1}
"""The directions in an image (..., height, width)."""


def convolutional_network(
    context: Context,
    *,
    inputs: str | Sequence[str] | None = None,
    flips: Sequence[Literal["vertical", "horizontal"]] = (),
    shifts: Sequence[Literal["vertical", "horizontal"]] = (),
    channels: Sequence[int] = (16, 32, 32),
    kernel_size: int = 3,
    hidden: int = 64,
    learning_rate: float = 2e-3,
    batch_size: int = 16,
    averaging: float = 0.99,
    validation: float = 0.1,
    patience: int = 50,
    weight_decay: float = 0.0,
    precision: Literal["float32", "float64"] = "float32",
    checkpoint: Path | str | None = None,
) -> ImageModel:
    """A convolutional network from images to numbers, exactly invariant to flips and shifts.

    For surrogates such as the drag and heat transfer of a channel from its geometry. Cyclic
    shifts: convolutions that wrap around, without strides, and the mean over all pixels
    (equivariance and pooling as in Cohen and Welling, ICML 48, 2990 (2016)). Flips: the mean of
    the features over all flipped copies of the image. Where shifts do matter, the image goes on
    beyond its edges as it is there, and the network sees each pixel's coordinate (Liu et al.,
    NeurIPS 31 (2018)). Layer k looks at pixels 2^k apart, so that few layers see far (Yu and
    Koltun, ICLR 2016). Images may differ in size. Labels: those of the dataset, whatever their
    names and shapes. Needs `initial` samples in the campaign, because before its first label it
    cannot predict.

    Options:
        inputs: names of the samples' arrays that are its channels: images (height, width) or
            (channels, height, width), and numbers (), such as a Reynolds number. None: the
            bare array.
        flips: directions whose flip changes nothing: "vertical" turns upside down, "horizontal"
            exchanges left and right.
        shifts: directions along which the image is periodic, and cyclic shifts change nothing.
        channels: features of a pixel after each convolution.
        kernel_size: pixels that a convolution looks at in each direction; odd.
        hidden: width of the layer between the mean features and the outputs.
        learning_rate: of Adam, at the start of each round of training; halved whenever the
            validation error has not improved for `patience` epochs, until 1/64 of it, where
            training ends.
        batch_size: samples per step.
        averaging: predictions use the running average of the weights over about
            1 / (1 - averaging) steps, which removes the noise of the last few.
        validation: fraction of the labels each member leaves out of its training, a different
            one per member, to see its own error.
        patience: epochs without a better validation error, after which the rate is halved.
        weight_decay: fraction of the weights, times the rate, that each step takes off.
        precision: of the network, "float32" or "float64".
        checkpoint: file of weights to start from, such as member-0.npz in a campaign's
            models/v000012, or that folder, of which each member takes its own.

    Example:
        [model]
        kernel = "convolutional_network"
        members = 4
        options = { inputs = "geometry", flips = ["vertical"], shifts = ["horizontal"] }
    """
    if not (set(flips) | set(shifts) <= AXES.keys()):
        raise ContractError(
            f"convolutional_network: flips and shifts are lists of {sorted(AXES)}; got "
            f"flips = {list(flips)}, shifts = {list(shifts)}"
        )
    if not channels or min(*channels, kernel_size, hidden) < 1 or kernel_size % 2 == 0:
        raise ContractError(
            "convolutional_network needs one or more channels, hidden >= 1 and an odd "
            f"kernel_size; got channels = {list(channels)}, hidden = {hidden}, "
            f"kernel_size = {kernel_size}"
        )

    def build(first: int, outputs: int) -> nn.Module:
        return ConvolutionalNetwork(
            [first, *channels],
            kernel_size=kernel_size,
            head=(hidden, outputs),
            flips=[AXES[name] for name in dict.fromkeys(flips)],
            shifts=[AXES[name] for name in shifts],
        )

    recipe = Recipe(
        learning_rate=learning_rate,
        batch_size=batch_size,
        averaging=averaging,
        validation=validation,
        patience=patience,
        weight_decay=weight_decay,
        precision=precision,
    )
    names = (inputs,) if isinstance(inputs, str) else tuple(inputs or (BARE,))
    design = Design("convolutional_network", build, recipe, names, checkpoint)
    return ImageModel(context, design)


class ConvolutionalNetwork(nn.Module):
    """The network: images (n, c, height, width) to standardised outputs (n, outputs).

    `channels`: those of the image, then those after each convolution. `head`: widths of the two
    dense layers. `flips` and `shifts`: dimensions, -2 or -1.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        *,
        kernel_size: int,
        head: tuple[int, int],
        flips: Sequence[int],
        shifts: Sequence[int],
    ) -> None:
        super().__init__()
        self._flips = [
            list(chosen)
            for count in range(len(flips) + 1)
            for chosen in itertools.combinations(flips, count)
        ]
        self._cyclic = {dim: dim in shifts for dim in AXES.values()}
        self._placed = [dim for dim, cyclic in self._cyclic.items() if not cyclic]
        self.register_buffer("mean", torch.zeros(channels[0], 1, 1))
        self.register_buffer("spread", torch.ones(channels[0], 1, 1))
        widths = [channels[0] + len(self._placed), *channels[1:]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size, dilation=2**layer)
            for layer, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self._reaches = [kernel_size // 2 * 2**layer for layer in range(len(channels) - 1)]
        self.hidden = nn.Linear(widths[-1], head[0])
        self.output = nn.Linear(*head)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs (n, outputs)."""
        scaled = (images - self.mean) / self.spread
        # Pixels have their coordinates after the flip, so that all copies meet the same ones.
        copies = torch.cat([scaled.flip(dims) if dims else scaled for dims in self._flips])
        features = torch.cat([copies, *(_coordinate(copies, dim) for dim in self._placed)], dim=1)
        for layer, reach in zip(self.convolutions, self._reaches, strict=True):
            for dim, cyclic in self._cyclic.items():
                features = _padded(features, dim, reach, cyclic)
            features = functional.silu(layer(features))
        pooled = features.mean(dim=(-2, -1)).view(len(self._flips), len(images), -1).mean(dim=0)
        result: Tensor = self.output(functional.silu(self.hidden(pooled)))
        return result


def _coordinate(images: Tensor, dim: int) -> Tensor:
    """Return each pixel's place along a dimension, from -1 to 1, as a channel (n, 1, h, w)."""
    size = images.shape[dim]
    places = torch.linspace(-1.0, 1.0, size, dtype=images.dtype, device=images.device)
    line = places[:, None] if dim == -2 else places
    return line.expand(images.shape[0], 1, *images.shape[-2:])


def _padded(images: Tensor, dim: int, reach: int, cyclic: bool) -> Tensor:
    """Continue images beyond both ends of a dimension: from the other end, or as at the end."""
    size = images.shape[dim]
    places = torch.arange(-reach, size + reach, device=images.device)
    places = places % size if cyclic else places.clamp(0, size - 1)
    return images.index_select(dim, places)
