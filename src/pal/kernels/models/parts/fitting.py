"""How a torch network learns: the loop that is the same for every model that is one module."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pal.errors import ContractError, NotFiniteError, ShapeError
from pal.kernels.models.parts.lessons import Plateau
from pal.records import Array, Dataset, LabelledSample, Metrics, Weights

PRECISIONS: Final = {"float32": torch.float32, "float64": torch.float64}

B = TypeVar("B")
Loss: TypeAlias = Callable[[nn.Module, B], tuple[Tensor, Tensor]]
"""(module, batch) to the loss to be minimised and an error people understand, both scalars."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network learns.

    `learning_rate`: of Adam, at the start of each round of training; halved whenever the
    validation error has not improved for `patience` epochs, until 1/64 of it, where training
    ends. `batch_size`: samples per step. `validation`: fraction of the labels each member leaves
    out of its training, a different one per member, to see its own error. `averaging`:
    predictions use the running average of the weights over about 1 / (1 - averaging) steps.
    `precision`: "float32" or "float64". `weight_decay`: as in AdamW (Loshchilov and Hutter,
    2019), per step and learning rate. `clip`: the norm to which larger gradients are cut.
    """

    learning_rate: float = 1e-3
    batch_size: int = 8
    validation: float = 0.1
    patience: int = 50
    averaging: float = 0.99
    precision: str = "float32"
    weight_decay: float = 0.0
    clip: float = 10.0

    def __post_init__(self) -> None:
        sound = {
            "learning_rate > 0": self.learning_rate > 0,
            "batch_size >= 1": self.batch_size >= 1,
            "0 <= validation < 1": 0 <= self.validation < 1,
            "patience >= 1": self.patience >= 1,
            "0 <= averaging < 1": 0 <= self.averaging < 1,
            "precision = 'float32' or 'float64'": self.precision in PRECISIONS,
            "weight_decay >= 0": self.weight_decay >= 0,
            "clip > 0": self.clip > 0,
        }
        wrong = [rule for rule, holds in sound.items() if not holds]
        if wrong:
            raise ContractError(f"training needs {', '.join(wrong)}; got {self}")

    @property
    def dtype(self) -> torch.dtype:
        """The type that `precision` names."""
        return PRECISIONS[self.precision]


class Fit(Generic[B]):
    """One network that learns, and its running average, which predicts.

    `module` has the present parameters; `averaged` is a copy in evaluation mode whose parameters
    need no gradient. `collate` makes a batch of some labelled samples, `loss` judges a module on
    it; `module.training` tells whether it is learning or being checked. The latter happens with
    gradients enabled, because forces are gradients. `error` names the error that `loss` returns
    in the metrics; the samples of a batch weigh alike. `version` counts the changes of weights.
    """

    def __init__(
        self,
        kernel: str,
        module: nn.Module,
        collate: Callable[[Sequence[LabelledSample]], B],
        loss: Loss[B],
        recipe: Recipe,
        seed: int,
        *,
        error: str = "force_mae",
    ) -> None:
        self.module = module
        self.averaged = copy.deepcopy(module).requires_grad_(False).eval()
        self.version = 0
        self._kernel = kernel
        self._collate = collate
        self._loss = loss
        self._recipe = recipe
        self._seed = seed
        self._error = error
        self._rng = np.random.default_rng(seed)
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        names = {name for name, p in module.named_parameters() if p.requires_grad}
        self._averages = [p for name, p in self.averaged.named_parameters() if name in names]
        self._begin()

    def _begin(self) -> None:
        """Forget what the optimiser knows."""
        self._steps = 0
        self._optimiser = torch.optim.AdamW(
            self._parameters,
            lr=self._recipe.learning_rate,
            weight_decay=self._recipe.weight_decay,
            fused=True,
        )

    # -- training

    def epochs(self, dataset: Dataset) -> Iterator[Metrics]:
        """Yield metrics after each epoch, until the error improves no more.

        Goes on from the present weights and the optimiser's state; may be left between epochs.

        Raises:
            ContractError: the dataset is empty.
            NotFiniteError: the training diverged.
        """
        if not dataset:
            raise ContractError(f"{self._kernel}: the dataset is empty; label samples first")
        learn, check = self._divide(dataset)
        checks = [(len(items), self._collate(items)) for items in self._portions(check)]
        plateau = Plateau(self._recipe.learning_rate, self._recipe.patience, 1)
        while not plateau.finished:
            rate = float(plateau.rates[0])
            loss, error = self._epoch(learn, rate)
            checked = self._check(checks)
            plateau.update(np.array([checked]))
            yield {
                "loss": loss,
                self._error: error,
                f"validation_{self._error}": checked,
                "learning_rate": rate,
            }

    def _divide(self, dataset: Dataset) -> tuple[list[LabelledSample], list[LabelledSample]]:
        """Split into samples to learn from and samples to check with.

        Drawn from the sample's identity, so that it stays where it is in all rounds.
        """
        parts: tuple[list[LabelledSample], list[LabelledSample]] = ([], [])
        for item in dataset:
            draw = np.random.default_rng((self._seed, item.identity)).random()
            parts[draw < self._recipe.validation].append(item)
        return parts if all(parts) else (list(dataset), list(dataset))

    def _portions(self, items: Sequence[LabelledSample]) -> list[Sequence[LabelledSample]]:
        size = self._recipe.batch_size
        return [items[start : start + size] for start in range(0, len(items), size)]

    def _epoch(self, learn: Sequence[LabelledSample], rate: float) -> tuple[float, float]:
        """Go through the samples once; return mean loss and error."""
        order = self._rng.permutation(len(learn))
        steps = max(1, len(order) // self._recipe.batch_size)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self.module.train()
        with seeded(int(self._rng.integers(2**62)), self._parameters[0].device):
            done = [
                self._learn(self._collate([learn[row] for row in order[step::steps]]))
                for step in range(steps)
            ]
        for mine, theirs in zip(self.averaged.buffers(), self.module.buffers(), strict=True):
            mine.copy_(theirs)
        self.version += 1
        loss, error = torch.stack(done).mean(0).tolist()
        return loss, error

    def _learn(self, batch: B) -> Tensor:
        loss, error = self._loss(self.module, batch)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=self._parameters)  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip)
        self._optimiser.step()
        # A short memory at first, so that the random beginning is forgotten.
        self._steps += 1
        keep = min(self._steps / (self._steps + 10), self._recipe.averaging)
        update = get_ema_multi_avg_fn(keep)  # type: ignore[no-untyped-call]
        update(self._averages, self._parameters, None)
        return torch.stack([loss.detach(), error.detach()])

    def _check(self, checks: Sequence[tuple[int, B]]) -> float:
        """Return the mean error of the averaged weights."""
        errors = [size * self._loss(self.averaged, batch)[1].detach() for size, batch in checks]
        error = float(torch.stack(errors).sum()) / sum(size for size, _ in checks)
        if not np.isfinite(error):
            raise NotFiniteError(
                f"{self._kernel}: the training diverged, its error is {error}; "
                f"lower learning_rate (now {self._recipe.learning_rate:g})"
            )
        return error

    # -- weights and state

    def get_weights(self) -> dict[str, Array]:
        """Return the averaged parameters, and the buffers, by name."""
        return arrays_of(self.averaged)

    def set_weights(self, weights: Weights) -> None:
        """Take over averaged parameters; the optimiser begins anew.

        Raises:
            ShapeError: they belong to another network.
        """
        put_arrays(self._kernel, self.averaged, weights)
        put_arrays(self._kernel, self.module, weights)
        self.version += 1
        self._begin()

    def get_state(self) -> dict[str, Any]:
        """Return parameters, averages, optimiser and random numbers; can be pickled."""
        optimiser = self._optimiser.state_dict()
        return {
            "seed": self._seed,
            "random": self._rng.bit_generator.state,
            "steps": self._steps,
            "module": arrays_of(self.module),
            "averaged": arrays_of(self.averaged),
            "optimiser": {
                place: {name: value.cpu().numpy().copy() for name, value in values.items()}
                for place, values in optimiser["state"].items()
            },
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `get_state`."""
        self.set_weights(state["averaged"])
        put_arrays(self._kernel, self.module, state["module"])
        self._seed = state["seed"]
        self._rng.bit_generator.state = state["random"]
        self._steps = state["steps"]
        groups = self._optimiser.state_dict()["param_groups"]
        moments = {
            place: {name: torch.as_tensor(np.array(value)) for name, value in values.items()}
            for place, values in state["optimiser"].items()
        }
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's random numbers for a while; afterwards they go on as if nothing had been."""
    place = torch.device(device)
    gpus = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def built(
    build: Callable[[], nn.Module], seed: int, dtype: torch.dtype, device: torch.device | str
) -> nn.Module:
    """Build a module with random weights that depend on the seed alone, in this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with seeded(seed):
            module = build()
    finally:
        torch.set_default_dtype(before)
    return module.to(device=device, dtype=dtype)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; what is shared within the module comes once."""
    kept = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in kept}
    return dict(module.named_parameters()) | buffers


def arrays_of(module: nn.Module) -> dict[str, Array]:
    """Return copies of a module's parameters and buffers by name."""
    tensors = _tensors(module).items()
    return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in tensors}


def put_arrays(kernel: str, module: nn.Module, arrays: Mapping[str, Array]) -> None:
    """Replace a module's parameters and buffers.

    Raises:
        ShapeError: names or shapes are not those of the module.
    """
    tensors = _tensors(module)
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    came = {name: np.shape(array) for name, array in arrays.items()}
    if expected != came:
        wrong = sorted(dict(expected.items() ^ came.items()))
        some = wrong[:3]
        raise ShapeError(
            f"{kernel}: these weights do not fit, {len(wrong)} arrays differ; expected "
            f"{ {name: expected.get(name) for name in some} }, "
            f"got { {name: came.get(name) for name in some} }; "
            "use the same options that they were made with"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.as_tensor(np.asarray(arrays[name])))
