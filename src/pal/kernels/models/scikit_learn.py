"""Any scikit-learn regressor as a member of the committee."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.multioutput import MultiOutputRegressor
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from pal.errors import ContractError, KernelImportError
from pal.kernels.models.parts.checkpoints import read_weights
from pal.kernels.models.parts.layout import Layout, Scale
from pal.records import BARE, Array, Batch, Dataset, LabelledSample, Metrics, Weights
from pal.roles import Context

CLASS: Final = "class"
"""The key of a table that stands for an object to be made."""


class ScikitLearn:
    """Any scikit-learn regressor: Gaussian processes, forests, support vectors, and so on.

    Pedregosa et al., J. Mach. Learn. Res. 12, 2825 (2011). All numbers of the chosen input
    arrays are one row, all numbers of a label another; both are standardised to mean 0 and
    standard deviation 1 over the labels of each fit. Regressors that know only one output are
    fitted once per output. Each round of training fits from scratch to all labels. A sample that
    the bootstrap repeats counts so often where the regressor takes weights of samples, and once
    elsewhere. Labels: those of the dataset, whatever their names and shapes. Forces learnt this
    way are outputs like any other, and not the gradient of the energy: do not run dynamics on
    them that has to conserve energy. Needs `initial` samples in the campaign, because before
    its first fit it cannot predict.

    Regressors without randomness of their own (Gaussian processes, ridge, support vectors) fit
    the same labels in the same way: give their committee `training.bootstrap = true`, or its
    members always agree and no sample is ever uncertain.

    A fitted regressor travels, and is stored, as a pickle: load weights only from where you
    would run programs from. They are refused where scikit-learn has another version.

    Options:
        estimator: class of the regressor by its full name; any class with `fit` and `predict`.
        arguments: of the regressor. A table { class = "full.name", arguments = {...} } in it
            stands for an object to be made, such as a kernel or a step of a pipeline.
        inputs: names of the samples' arrays that are its input. None: the bare array, or
            `positions` with the descriptor.
        descriptor: "inverse_distances" replaces `positions` (atoms, 3) in Å by 1/r of all pairs
            in 1/Å, which do not change when a molecule moves or turns; for one molecule with
            a fixed order of its atoms.
        max_labels: the most distinct labels that a fit may use, to bound its cost (that of a
            Gaussian process grows with the third power); a random choice, different per member,
            that hardly changes as labels come. None: all.
        checkpoint: file of weights to start from, such as member-0.npz in a campaign's
            models/v000012, or that folder, of which each member takes its own.

    Example:
        [model]
        kernel = "scikit_learn"
        members = 4
        [model.options]
        estimator = "sklearn.gaussian_process.GaussianProcessRegressor"
        max_labels = 2000
        [model.options.arguments]
        alpha = 1e-6
        kernel = { class = "sklearn.gaussian_process.kernels.Matern", arguments = { nu = 2.5 } }

        [training]
        bootstrap = true                # or all members would be the same
    """

    def __init__(
        self,
        context: Context,
        *,
        estimator: str,
        arguments: Mapping[str, Any] | None = None,
        inputs: str | Sequence[str] | None = None,
        descriptor: Literal["inverse_distances"] | None = None,
        max_labels: int | None = None,
        checkpoint: Path | str | None = None,
    ) -> None:
        known = descriptor in (None, "inverse_distances")
        if not known or (max_labels is not None and max_labels < 1):
            raise ContractError(
                'scikit_learn: expected descriptor = "inverse_distances" or none, and max_labels '
                f">= 1; got descriptor = {descriptor!r}, max_labels = {max_labels}"
            )
        default = BARE if descriptor is None else "positions"
        chosen = [inputs] if isinstance(inputs, str) else list(inputs or [default])
        if descriptor is not None and "positions" not in chosen:
            raise ContractError(
                f"scikit_learn: the descriptor needs 'positions' among inputs; got {chosen}"
            )
        self._inputs = chosen
        self._describes = descriptor is not None
        self._max_labels = max_labels
        self._seed = context.seed
        self._blank = _regressor(estimator, arguments or {}, context.seed)
        self._fitted: Fitted | None = None
        if checkpoint is not None:
            self.set_weights(read_weights("scikit_learn", Path(checkpoint), context.index))

    def predict(self, samples: Batch) -> dict[str, Array] | Array:
        """Return the labels' arrays, (n, ...) each."""
        fitted = self._fitted
        if fitted is None:
            raise ContractError(
                "scikit_learn: it cannot predict before it has seen a label; give the campaign "
                "[initial] samples, or weights to start from"
            )
        rows = fitted.input.apply(fitted.layout.rows(self._described(samples)))
        result = np.asarray(fitted.estimator.predict(rows), dtype=float)
        labels = fitted.labels.labels(fitted.output.undo(result.reshape(len(rows), -1)))
        return labels.get(BARE, labels)

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Fit all labels, once; `loss` is the mean squared error that is left, standardised."""
        items, counts = self._distinct(dataset)
        samples = self._described(Batch([item.sample for item in items]))
        layout, labels = Layout.of(samples[0], self._inputs), Layout.of(items[0].label)
        inputs, outputs = layout.rows(samples), labels.rows([item.label for item in items])
        scales = Scale.of(inputs), Scale.of(outputs)
        x, y = scales[0].apply(inputs), scales[1].apply(outputs)
        estimator = self._fit(x, y, counts)
        self._fitted = Fitted(estimator, layout, labels, *scales)
        left = np.asarray(estimator.predict(x), dtype=float).reshape(y.shape) - y
        yield {"loss": float(np.square(left).mean()), "labels": float(len(items))}

    def _fit(self, x: Array, y: Array, counts: Array) -> Any:
        estimator = clone(self._blank)
        weights = (
            {"sample_weight": counts} if has_fit_parameter(estimator, "sample_weight") else {}
        )
        if y.shape[1] == 1:
            y = y[:, 0]
        elif not get_tags(estimator).target_tags.multi_output:
            estimator = MultiOutputRegressor(estimator)
        return estimator.fit(x, y, **weights)

    def _distinct(self, dataset: Dataset) -> tuple[list[LabelledSample], Array]:
        """Return the distinct samples to be used, and how often the dataset repeats them."""
        if not dataset:
            raise ContractError("scikit_learn: the dataset is empty; label samples first")
        items = {item.identity: item for item in dataset}
        chosen = sorted(items)
        if self._max_labels is not None and len(chosen) > self._max_labels:
            draws = {k: np.random.default_rng((self._seed, k)).random() for k in chosen}
            chosen = sorted(sorted(chosen, key=draws.__getitem__)[: self._max_labels])
        repeats = dict.fromkeys(chosen, 0.0)
        for item in dataset:
            if item.identity in repeats:
                repeats[item.identity] += 1.0
        return [items[k] for k in chosen], np.array(list(repeats.values()))

    def _described(self, samples: Batch) -> Batch:
        if not self._describes or not len(samples):
            return samples
        if "positions" not in samples.columns:
            raise ContractError(
                f"scikit_learn: the descriptor needs 'positions'; got {sorted(samples.columns)}"
            )
        columns = {**samples.columns, "positions": inverse_distances(samples["positions"])}
        return Batch.stacked(columns)

    # -- weights and state

    def get_weights(self) -> Weights:
        """Return the fitted regressor as bytes, the versions it needs, and the scales."""
        return {} if self._fitted is None else self._fitted.arrays()

    def set_weights(self, weights: Weights) -> None:
        """Take over another member's regressor.

        Raises:
            ContractError: they were made with another version of scikit-learn.
        """
        if weights:
            self._fitted = Fitted.of(weights)

    def get_state(self) -> Any:
        """Return the weights; a fit remembers nothing else of those before it."""
        return dict(self.get_weights())

    def set_state(self, state: Any) -> None:
        """Take over the weights."""
        self.set_weights(state)


class Fitted(NamedTuple):
    """A regressor that has learnt: how samples become its input, and its output labels."""

    estimator: Any
    layout: Layout
    labels: Layout
    input: Scale
    output: Scale

    def arrays(self) -> dict[str, Array]:
        """Return all of it as named arrays."""
        return {
            "estimator": np.frombuffer(pickle.dumps(self.estimator), dtype=np.uint8).copy(),
            "version": np.array(sklearn.__version__),
            "inputs": self.layout.encoded(),
            "outputs": self.labels.encoded(),
            "input_mean": self.input.mean,
            "input_spread": self.input.spread,
            "output_mean": self.output.mean,
            "output_spread": self.output.spread,
        }

    @classmethod
    def of(cls, arrays: Weights) -> Fitted:
        """Undo `arrays`."""
        if "version" not in arrays:
            raise ContractError(
                f"scikit_learn: these are not its weights: 'version' is missing, got "
                f"{sorted(arrays)}"
            )
        version = str(arrays["version"])
        if version != sklearn.__version__:
            raise ContractError(
                f"scikit_learn: these weights were made with scikit-learn {version}; here is "
                f"{sklearn.__version__}, which may read them wrongly. Install that version, or "
                "train anew"
            )
        return cls(
            pickle.loads(np.asarray(arrays["estimator"]).tobytes()),
            Layout.decoded(arrays["inputs"]),
            Layout.decoded(arrays["outputs"]),
            Scale(np.asarray(arrays["input_mean"]), np.asarray(arrays["input_spread"])),
            Scale(np.asarray(arrays["output_mean"]), np.asarray(arrays["output_spread"])),
        )


def inverse_distances(positions: Array) -> Array:
    """Return 1/r in 1/Å of all pairs, (n, pairs), of positions (n, atoms, 3) in Å."""
    first, second = np.triu_indices(positions.shape[1], 1)
    vectors = positions[:, first] - positions[:, second]
    return np.asarray(1.0 / np.linalg.norm(vectors, axis=-1))


def _regressor(estimator: str, arguments: Mapping[str, Any], seed: int) -> Any:
    """Make the regressor; whatever in it draws random numbers gets the seed."""
    try:
        made = _made({CLASS: estimator, "arguments": arguments})
        names = [n for n in made.get_params() if n.rpartition("__")[2] == "random_state"]
        free = [name for name in names if made.get_params()[name] is None]
        made.set_params(**dict.fromkeys(free, seed % 2**32))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise KernelImportError(
            f"scikit_learn: estimator = {estimator!r} cannot be made with arguments "
            f"{dict(arguments)}: {type(error).__name__}: {error}; give the full name of a class, "
            "such as 'sklearn.ensemble.RandomForestRegressor', and its own arguments"
        ) from error
    if not (callable(getattr(made, "fit", None)) and callable(getattr(made, "predict", None))):
        raise ContractError(f"scikit_learn: {estimator} has no fit and predict; give a regressor")
    return made


def _made(value: Any) -> Any:
    """Return a value from the settings; tables with the key `class` become objects."""
    if isinstance(value, Mapping) and CLASS in value:
        if unknown := sorted(value.keys() - {CLASS, "arguments"}):
            raise ValueError(f"unknown keys {unknown} beside 'class' and 'arguments'")
        module, _, name = value[CLASS].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        return kind(**_made(value.get("arguments", {})))
    if isinstance(value, Mapping):
        return {name: _made(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_made(part) for part in value]
    return value
