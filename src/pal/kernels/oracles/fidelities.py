"""Several oracles of different cost and quality, as one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pal.building import nested
from pal.errors import ContractError, LabelFailure, ShapeError
from pal.kernels.descriptors import (
    ARRAYS,
    DISTANCES,
    Fingerprint,
    Seen,
    check_space,
    fingerprints,
)
from pal.records import Array, Batch, Label, Sample, named
from pal.roles import Context, Oracle

BROKEN = 20
"""Failures of a costly level in a row after which labels without it fail, too."""

CAPACITY = 4096
"""Samples that each level remembers, of each kind of molecule."""

VALUE = "value"
"""The name that a label gets which is one bare array."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Level:
    """One of the oracles; `seen` are the samples labelled at this level or a better one."""

    oracle: Oracle
    cost: float
    novelty: float
    seen: Seen


class Fidelities:
    """Several oracles of rising cost: cheap labels for all samples, costly ones where it pays.

    Every sample is labelled by the cheapest level. It also gets the best level at which it is
    new: farther than `novelty` from every sample labelled there, in the space of the samples. The
    difference between two levels is smooth, so that few samples, spread widely, teach it: delta
    learning (Ramakrishnan, Dral, Rupp, von Lilienfeld, J. Chem. Theory Comput. 11, 2087 (2015)),
    which the model `delta` does. The `first` samples get the best level in any case; later ones
    only if the mean cost of a label stays within `budget`. A costly level that fails is noted in
    the log, and the next lower one that was due is tried: the cheap label is not lost. Only after
    20 failures in a row the label fails, too, so that a broken level stops the campaign
    (`stop.failures`). Each worker of the oracle decides by its own labels.

    A label has all arrays of the cheapest level twice: `energy` of the best level that was
    calculated and `baseline_energy` of the cheapest, `forces` and `baseline_forces`, and so on
    (`value` and `baseline_value` where the levels return bare arrays); and `fidelity` (), the
    number of the best level, 0 for the cheapest.

    Options:
        levels: the oracles, cheapest first; each a table { kernel, options, cost } like the
            section [oracle], with the cost of one label in any unit, such as seconds.
        novelty: distance from the samples labelled at a level from which on a sample is new
            there: the root mean square difference of the sorted inverse distances in 1/Å, or of
            all numbers of a sample that is no molecule; one number, or one for each level above
            the first, rising, as the costliest should be asked most rarely.
        first: samples that get the best level in any case.
        budget: largest mean cost of a label, in the unit of the costs; no limit by default.
        space: "distances" or "arrays", see `novelty`; by default as the samples are.

    Example:
        [oracle]
        kernel = "fidelities"

        [oracle.options]
        novelty = 0.02
        first = 10
        budget = 3.0
        levels = [
            { kernel = "xtb", cost = 0.01 },
            { kernel = "pyscf", options = { functional = "pbe0" }, cost = 20.0 },
        ]
    """

    def __init__(
        self,
        context: Context,
        *,
        levels: Sequence[Mapping[str, Any]],
        novelty: float | Sequence[float],
        first: int = 5,
        budget: float | None = None,
        space: str | None = None,
    ) -> None:
        if len(levels) < 2:
            raise ContractError(f"fidelities: {len(levels)} levels; expected two or more")
        costs = [_cost(table, place) for place, table in enumerate(levels)]
        distances = _distances(novelty, len(levels))
        if budget is not None and budget < costs[0]:
            raise ContractError(
                f"fidelities: budget = {budget:g} a label is less than the cheapest level costs, "
                f"{costs[0]:g}"
            )
        self._levels = [
            Level(_oracle(context, table, place), costs[place], distances[place], Seen(CAPACITY))
            for place, table in enumerate(levels)
        ]
        self._first = first
        self._budget = np.inf if budget is None else budget
        self._space = None if space is None else _space(space)
        self._labels = 0
        self._spent = 0.0
        self._failed = [0] * len(levels)

    def label(self, sample: Sample) -> Label:
        """Return the arrays of the best level calculated, of the cheapest, and `fidelity`.

        Raises:
            LabelFailure: the cheapest level failed, or a costly one `BROKEN` times in a row.
            ContractError: a level leaves out an array that the cheapest has, or gives it
                another shape.
        """
        baseline = self._at(0, sample)
        self._spent += self._levels[0].cost
        self._labels += 1
        best, fidelity = self._best(sample, baseline)
        label = {name or VALUE: best[name] for name in baseline}
        label.update({f"baseline_{name or VALUE}": array for name, array in baseline.items()})
        return {**label, "fidelity": np.asarray(fidelity)}

    def get_state(self) -> Any:
        """Return what was labelled at which level, the costs, and the levels' own states."""
        return {
            "labels": self._labels,
            "spent": self._spent,
            "failed": list(self._failed),
            "seen": [level.seen.get_state() for level in self._levels],
            "levels": [
                level.oracle.get_state() if hasattr(level.oracle, "get_state") else None
                for level in self._levels
            ],
        }

    def set_state(self, state: Any) -> None:
        """Continue from another instance's state."""
        self._labels, self._spent = state["labels"], state["spent"]
        self._failed = list(state["failed"])
        for level, seen, own in zip(self._levels, state["seen"], state["levels"], strict=True):
            level.seen.set_state(seen)
            if own is not None and hasattr(level.oracle, "set_state"):
                level.oracle.set_state(own)

    def _best(self, sample: Sample, baseline: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """Return the label of the best level that is due and does not fail, and its number."""
        fingerprint = self._fingerprint(sample)
        for place in reversed(range(1, len(self._levels))):
            if not self._due(place, fingerprint):
                continue
            self._spent += self._levels[place].cost
            try:
                found = self._at(place, sample)
            except LabelFailure as failure:
                _log.warning("fidelities: level %d failed: %s", place, failure)
                self._failed[place] += 1
                if self._failed[place] >= BROKEN:
                    raise LabelFailure(
                        f"fidelities: level {place} failed {self._failed[place]} times in a row, "
                        f"so it seems to be broken: {failure}"
                    ) from failure
                continue
            self._failed[place] = 0
            _check(found, baseline, place)
            for level in self._levels[1 : place + 1]:
                level.seen.add(fingerprint)
            return found, place
        return dict(baseline), 0

    def _due(self, place: int, fingerprint: Fingerprint) -> bool:
        level = self._levels[place]
        if self._labels <= self._first:
            return True
        if self._spent + level.cost > self._budget * self._labels:
            return False
        return level.seen.nearest(fingerprint) > level.novelty

    def _at(self, place: int, sample: Sample) -> dict[str, Array]:
        """Label at one level, in a folder of its own within the scratch folder."""
        folder = Path(f"level-{place}")
        folder.mkdir(exist_ok=True)
        with contextlib.chdir(folder):
            return named(self._levels[place].oracle.label(sample))

    def _fingerprint(self, sample: Sample) -> Fingerprint:
        atoms = isinstance(sample, Mapping) and {"positions", "numbers"} <= sample.keys()
        space = self._space or (DISTANCES if atoms else ARRAYS)
        return fingerprints(Batch([sample]), space)[0]


def _cost(table: Mapping[str, Any], place: int) -> float:
    cost = table.get("cost") if isinstance(table, Mapping) else None
    if not isinstance(cost, int | float) or cost <= 0:
        raise ContractError(
            f"fidelities: levels[{place}] has cost = {cost!r}; expected a table "
            "{ kernel, options, cost } with a number above 0"
        )
    return float(cost)


def _distances(novelty: float | Sequence[float], levels: int) -> list[float]:
    """Return the novelty of each level; of the cheapest it does not matter."""
    values = list(novelty) if isinstance(novelty, Sequence) else [novelty] * (levels - 1)
    if len(values) != levels - 1 or any(value < 0 for value in values):
        raise ContractError(
            f"fidelities: novelty = {novelty}; expected one number of 0 or more, or one for each "
            f"of the {levels - 1} levels above the first"
        )
    return [0.0, *map(float, values)]


def _oracle(context: Context, table: Mapping[str, Any], place: int) -> Oracle:
    directory = context.directory / f"level-{place}"
    directory.mkdir(parents=True, exist_ok=True)
    kernel = {name: value for name, value in table.items() if name != "cost"}
    own = replace(context, directory=directory)
    oracle: Oracle = nested("oracle", kernel, own, f"fidelities: levels[{place}]")
    return oracle


def _space(space: str) -> str:
    if check_space(space, "fidelities") not in (DISTANCES, ARRAYS):
        raise ContractError(
            f"fidelities: expected space = '{DISTANCES}' or '{ARRAYS}', got '{space}': an oracle "
            "knows no predictions"
        )
    return space


def _check(found: Mapping[str, Array], baseline: Mapping[str, Array], place: int) -> None:
    missing = sorted(name or VALUE for name in baseline.keys() - found.keys())
    if missing:
        raise ContractError(
            f"fidelities: level {place} gives no {', '.join(missing)}, as the cheapest level "
            f"does; it gives {sorted(name or VALUE for name in found)}"
        )
    for name, array in baseline.items():
        if found[name].shape != array.shape:
            raise ShapeError(
                f"fidelities: level {place} gives {name or VALUE} of shape {found[name].shape}; "
                f"the cheapest level gives {array.shape}"
            )
