"""What `Delta` adds its correction to: a baseline that is computed, or one that is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from pal.errors import ContractError, LabelFailure
from pal.records import (
    Array,
    Batch,
    Dataset,
    Label,
    LabelledSample,
    Metrics,
    Sample,
    Weights,
    as_members,
)
from pal.roles import Committee, Oracle

PREFIX: Final = "baseline_"
"""Before the names of the arrays in a label that the cheap level gave."""


class Baseline(Protocol):
    """The cheap level, for all members of a committee."""

    def predict(self, samples: Batch) -> list[Batch]:
        """Return each member's baseline labels; an empty label where there is none."""
        ...

    def difference(self, item: LabelledSample) -> Label | None:
        """Return the expensive label less the baseline; None if there is no baseline."""
        ...

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Learn from all that has a baseline label."""
        ...

    def get_weights(self) -> Sequence[Weights]:
        """Return what each member's baseline has learnt."""
        ...

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace what one member's baseline has learnt."""
        ...

    def get_state(self) -> Any:
        """Return the state of all members."""
        ...

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        ...


class Computed:
    """A baseline that an oracle computes, at each prediction; the same for all members."""

    def __init__(self, oracle: Oracle, members: int) -> None:
        self._oracle = oracle
        self._members = members
        self._known: dict[int, Label] = {}

    def predict(self, samples: Batch) -> list[Batch]:
        """Compute the samples once, for all members."""
        return [Batch([self._label(sample) for sample in samples])] * self._members

    def _label(self, sample: Sample) -> Label:
        try:
            return self._oracle.label(sample)
        except LabelFailure:
            return {}

    def difference(self, item: LabelledSample) -> Label | None:
        """Return what the oracle's label lacks; it computes each sample once."""
        label = self._known.get(item.identity)
        if label is None:
            label = self._known[item.identity] = self._label(item.sample)
        return _difference(item.label, label, "its baseline oracle") if label else None

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Learn nothing."""
        return iter(())

    def get_weights(self) -> Sequence[Weights]:
        """Return nothing for any member."""
        return [{}] * self._members

    def set_weights(self, member: int, weights: Weights) -> None:
        """Refuse weights: there is nothing that learns."""
        raise ContractError(
            f"delta: these weights hold a learned baseline, {sorted(weights)[:3]}; give the model "
            "the option baseline_model that they were made with"
        )

    def get_state(self) -> Any:
        """Return nothing; labels known are computed again."""
        return None

    def set_state(self, state: Any) -> None:
        """Nothing to continue from."""


class Learned:
    """A baseline that a second committee learns from the labels' `baseline_` arrays."""

    def __init__(self, committee: Committee, members: int) -> None:
        self._committee = committee
        self._members = members

    def predict(self, samples: Batch) -> list[Batch]:
        """Ask the committee."""
        result = self._committee.predict(samples)
        return as_members(result, self._members, len(samples), "delta's baseline_model")

    def difference(self, item: LabelledSample) -> Label | None:
        """Return what the label's own baseline lacks."""
        return _difference(item.label, _cheap(item.label), "the label's baseline")

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Fit the baseline labels, of all samples."""
        cheap = [
            [LabelledSample(i.identity, i.sample, _cheap(i.label)) for i in each]
            for each in datasets
        ]
        return self._committee.train(cheap)

    def get_weights(self) -> Sequence[Weights]:
        """Return the committee's weights."""
        return self._committee.get_weights()

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace the weights of one member."""
        self._committee.set_weights(member, weights)

    def get_state(self) -> Any:
        """Return the committee's state, if it has one."""
        return state_of(self._committee)

    def set_state(self, state: Any) -> None:
        """Give the committee its state back."""
        restore(self._committee, state)


def state_of(committee: Committee) -> Any:
    """Return a committee's state; None if it has none."""
    return committee.get_state() if hasattr(committee, "get_state") else None


def restore(committee: Committee, state: Any) -> None:
    """Give a committee its state back."""
    if state is not None and hasattr(committee, "set_state"):
        committee.set_state(state)


def _cheap(label: Label) -> dict[str, Array]:
    """Return the arrays of the cheap level under their plain names."""
    arrays = _arrays(label)
    cheap = {k.removeprefix(PREFIX): a for k, a in arrays.items() if k.startswith(PREFIX)}
    if not cheap:
        raise ContractError(
            f"delta: a learned baseline needs labels with arrays '{PREFIX}energy' or the like; "
            f"got {sorted(arrays)}. Label with several fidelities, or give"
            " an oracle as option baseline"
        )
    return cheap


def _difference(label: Label, baseline: Label, source: str) -> dict[str, Array]:
    """Return label less baseline, for the arrays that both have."""
    expensive, cheap = _arrays(label), _arrays(baseline)
    shared = [name for name in expensive if name in cheap]
    if not shared:
        raise ContractError(
            f"delta: the label has {sorted(expensive)} and {source} {sorted(cheap)}; expected "
            "at least one name in both"
        )
    return {name: np.asarray(expensive[name]) - np.asarray(cheap[name]) for name in shared}


def _arrays(label: Label) -> Mapping[str, Array]:
    if isinstance(label, Mapping):
        return label
    raise ContractError("delta needs labels of named arrays, such as 'energy'; got a bare array")
