"""Delta learning: a model of what a cheap method gets wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np

from pal.building import TRAINING_METHODS, Members, joined, nested
from pal.errors import ContractError
from pal.kernels.models.parts.baselines import Baseline, Computed, Learned, restore, state_of
from pal.records import (
    Array,
    Batch,
    Dataset,
    LabelledSample,
    Metrics,
    Weights,
    as_members,
    named,
)
from pal.roles import Committee, Context, Model, Oracle

Join: TypeAlias = Callable[[Sequence[Model]], Committee]
"""Makes one committee of models of one class."""

PARTS: Final = ("correction.", "baseline.")
"""Before the names of the weights of the two parts."""


class Delta:
    """Delta learning: any model as the correction to a cheap method, computed or learned.

    Ramakrishnan, Dral, Rupp and von Lilienfeld, J. Chem. Theory Comput. 11, 2087 (2015). The
    difference of two methods is smaller and smoother than either, so that few expensive labels
    will do. Energies, forces and whatever else both have add up. The baseline is either computed
    by an oracle at each prediction, once for the whole committee, which must be fast and must
    work within the process (a sample it cannot compute has no finite prediction); or learned
    from the labels' arrays `baseline_energy`, `baseline_forces`, as the oracle `fidelities`
    returns them. The learned baseline learns from all labels; the correction only from those
    that have the expensive level, as their array `fidelity` says; labels without it all have it.
    Until there are any, the correction is what its model predicts untrained. A committee joins
    the inner models' committees.

    Options:
        model: the kernel that learns the correction: a name, or a table with `kernel` and
            `options`.
        baseline: the oracle that computes the baseline, likewise.
        baseline_model: the model that learns the baseline, likewise; give one of the two.
        level: index of the expensive level, 0 being the cheapest: labels of at least this
            `fidelity` teach the correction.

    Example:
        [model]
        kernel = "delta"
        members = 4
        [model.options]
        model = { kernel = "distance_network", options = { hidden = [64, 64] } }
        baseline = { kernel = "xtb", options = { method = "GFN1-xTB" } }
    """

    def __init__(
        self,
        context: Context,
        *,
        model: str | Mapping[str, Any],
        baseline: str | Mapping[str, Any] | None = None,
        baseline_model: str | Mapping[str, Any] | None = None,
        level: int = 1,
    ) -> None:
        if (baseline is None) == (baseline_model is None) or level < 0:
            raise ContractError(
                "delta: expected one of baseline and baseline_model, and level >= 0; got "
                f"baseline = {baseline}, baseline_model = {baseline_model}, "
                f"level = {level}"
            )
        self.level = level
        self.correction = _trainable(model, context, "model")
        self.oracle: Oracle | None = None
        self.model: Model | None = None
        if baseline_model is not None:
            self.model = _trainable(baseline_model, context, "baseline_model")
        else:
            place = replace(context, role="oracle")
            self.oracle = nested("oracle", baseline, place, "delta: baseline")
        self._alone = DeltaCommittee([self], Members)

    @classmethod
    def committee(cls, models: Sequence[Delta]) -> DeltaCommittee:
        """Return these members as one committee, of the inner models' committees."""
        return DeltaCommittee(models, joined)

    def predict(self, samples: Batch) -> Any:
        """Return the labels' arrays, (n, ...); a list of labels for mixed sizes."""
        return self._alone.predict(samples)[0]

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Fit the correction and, where it learns, the baseline, an epoch of each in turn."""
        for metrics in self._alone.train([dataset]):
            yield metrics[0]

    def get_weights(self) -> Weights:
        """Return the weights of both parts."""
        return self._alone.get_weights()[0]

    def set_weights(self, weights: Weights) -> None:
        """Take over another member's weights."""
        self._alone.set_weights(0, weights)

    def get_state(self) -> Any:
        """Return the state of both parts."""
        return self._alone.get_state()

    def set_state(self, state: Any) -> None:
        """Continue from another instance's state."""
        self._alone.set_state(state)


class DeltaCommittee:
    """Several `Delta`s, `join`ed by their parts; see `pal.roles.Committee`."""

    def __init__(self, models: Sequence[Delta], join: Join) -> None:
        self._size = size = len(models)
        self._level = models[0].level
        self._correction: Committee = join([model.correction for model in models])
        self._baseline: Baseline
        if models[0].oracle is None:
            self._baseline = Learned(join([m.model for m in models if m.model is not None]), size)
        else:
            self._baseline = Computed(models[0].oracle, size)

    def predict(self, samples: Batch) -> list[Any]:
        """Return each member's labels: arrays (n, ...), or a list for mixed sizes."""
        result = self._correction.predict(samples)
        corrections = as_members(result, self._size, len(samples), "delta's model")
        baselines = self._baseline.predict(samples)
        return [_sum(*pair) for pair in zip(corrections, baselines, strict=True)]

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Fit both parts, an epoch of each in turn, until neither has anything more to learn.

        The metrics are the correction's; those of the baseline begin with `baseline_`.
        """
        if not all(datasets):
            raise ContractError("delta: the dataset is empty; label samples first")
        corrections = self._corrections(datasets)
        parts = (
            iter(self._baseline.train(datasets)),
            iter(self._correction.train(corrections) if all(corrections) else ()),
        )
        nothing: Sequence[Metrics] = [{}] * self._size
        last = [nothing, nothing]
        for epoch in itertools.zip_longest(*parts):
            last = [old if new is None else new for old, new in zip(last, epoch, strict=True)]
            yield [_merged(cheap, rest) for cheap, rest in zip(*last, strict=True)]

    def _corrections(self, datasets: Sequence[Dataset]) -> list[Dataset]:
        """Return each member's differences, of the samples that have the expensive level.

        A member whose bootstrap has none of them learns from those of all.
        """
        found: dict[int, LabelledSample] = {}
        for item in itertools.chain.from_iterable(datasets):
            if item.identity not in found and self._expensive(item):
                label = self._baseline.difference(item)
                if label is not None:
                    found[item.identity] = LabelledSample(item.identity, item.sample, label)
        chosen = [[found[i.identity] for i in each if i.identity in found] for each in datasets]
        return [each or list(found.values()) for each in chosen]

    def _expensive(self, item: LabelledSample) -> bool:
        label = item.label
        if not isinstance(label, Mapping) or "fidelity" not in label:
            return True
        return bool(np.asarray(label["fidelity"]) >= self._level)

    # -- weights and state

    def get_weights(self) -> list[Weights]:
        """Return the weights of each member."""
        parts = (self._correction.get_weights(), self._baseline.get_weights())
        return [_prefixed(*pair) for pair in zip(*parts, strict=True)]

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace the weights of one member."""
        strange = [name for name in weights if not name.startswith(PARTS)]
        if strange:
            raise ContractError(
                f"delta: these are not its weights: expected names that begin with {PARTS[0]!r} "
                f"or {PARTS[1]!r}, got {sorted(strange)[:3]}"
            )
        parts: tuple[Committee | Baseline, ...] = (self._correction, self._baseline)
        for prefix, part in zip(PARTS, parts, strict=True):
            own = {k.removeprefix(prefix): a for k, a in weights.items() if k.startswith(prefix)}
            if own:
                part.set_weights(member, own)

    def get_state(self) -> Any:
        """Return the state of both parts."""
        return {"correction": state_of(self._correction), "baseline": self._baseline.get_state()}

    def set_state(self, state: Any) -> None:
        """Continue from another committee's state."""
        restore(self._correction, state["correction"])
        self._baseline.set_state(state["baseline"])


def _trainable(table: str | Mapping[str, Any], context: Context, option: str) -> Model:
    """Build an inner model, which must learn."""
    model: Model = nested("model", table, context, f"delta: {option}")
    missing = [method for method in TRAINING_METHODS if not callable(getattr(model, method, None))]
    if missing:
        raise ContractError(
            f"delta: {option} has no method {', '.join(missing)}; give a model that learns"
        )
    return model


def _sum(correction: Batch, baseline: Batch) -> Any:
    """Add labels, for the names of the correction; without a baseline they are not finite."""
    if correction.uniform and baseline.uniform:
        known = baseline.columns
        return {
            name: array + known.get(name, np.nan) for name, array in correction.columns.items()
        }
    return [
        {name: array + cheap.get(name, np.nan) for name, array in label.items()}
        for label, cheap in zip(map(named, correction), map(named, baseline), strict=True)
    ]


def _prefixed(correction: Weights, baseline: Weights) -> dict[str, Array]:
    parts = zip(PARTS, (correction, baseline), strict=True)
    return {prefix + name: a for prefix, weights in parts for name, a in weights.items()}


def _merged(baseline: Metrics, correction: Metrics) -> dict[str, float]:
    return {f"baseline_{name}": value for name, value in baseline.items()} | dict(correction)
