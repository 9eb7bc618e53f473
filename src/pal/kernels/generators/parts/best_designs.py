"""What an optimiser is asked for, and the best it has found: one optimum, or a Pareto front."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pal.errors import ContractError
from pal.records import Array, Feedback, Label, named

FILE: Final = "best.json"
COURSE: Final = 2000
"""Entries that the course of a search may have before every second one is left out."""
_WRITTEN = re.compile(r"^(?P<name>[^\[\]]*)(\[(?P<index>\d+(,\d+)*)\])?$")


class Objectives:
    """Numbers that the committee predicts, to be made small or large.

    `names`: "drag", one number of an array, "energies[1]", or of a bare one, "[0]" or "".
    `weights` join them to one loss; without, or with none in it, each is a loss of its own.
    """

    def __init__(
        self,
        names: Sequence[str],
        maximise: Sequence[str],
        weights: Sequence[float] | None,
        exploration: float,
    ) -> None:
        places = [_WRITTEN.match(name) for name in names]
        if not places or len(set(names)) < len(names) or None in places:
            raise ContractError(
                "optimiser: expected as objective 'drag', 'energies[1]', '' for a bare number, or "
                f"several of them, each once; got {list(names)}"
            )
        if not set(maximise) <= set(names):
            raise ContractError(
                f"optimiser: maximise = {list(maximise)} must be among objective = {list(names)}"
            )
        if weights and (len(weights) != len(names) or not np.isfinite(weights).all()):
            raise ContractError(
                f"optimiser: expected a weight for each of {len(names)} objectives; got {weights}"
            )
        self.names = tuple(names)
        self._places = [_place(match) for match in places if match is not None]
        signs = np.array([-1.0 if name in maximise else 1.0 for name in names])
        self._matrix = (signs * weights)[None] if weights else np.diag(signs)
        self._exploration = exploration

    @property
    def losses(self) -> int:
        """How many numbers are to be made small."""
        return len(self._matrix)

    def read(self, label: Label) -> Array:
        """Return the objectives (m,) that a label holds.

        Raises:
            ContractError: an objective is not predicted, or is not one number.
        """
        arrays = named(label)
        values = np.empty(len(self.names))
        for row, (name, index) in enumerate(self._places):
            try:
                array = arrays[name]
                values[row] = np.asarray(array if index is None else array[index], float).item()
            except (KeyError, ValueError, IndexError):
                shapes = {key or "bare": value.shape for key, value in arrays.items()}
                raise ContractError(
                    f"optimiser: objective '{self.names[row]}' is not one number of what the "
                    f"models predict, {shapes}; name one, such as '{name}[0]'"
                ) from None
        return values

    def loss(self, mean: Array) -> Array:
        """Return what is to be made small, (losses,)."""
        loss: Array = self._matrix @ mean
        return loss

    def bound(self, mean: Array, deviation: Array) -> Array:
        """Return the lower confidence bound of the losses: less where little is known."""
        doubt: Array = self._exploration * (np.abs(self._matrix) @ deviation)
        return self.loss(mean) - doubt


def _place(match: re.Match[str]) -> tuple[str, tuple[int, ...] | None]:
    index = match["index"]
    return match["name"], None if index is None else tuple(map(int, index.split(",")))


@dataclass(frozen=True, slots=True)
class Found:
    """A design (n,) and what the committee, whose weights had this version, says of it."""

    design: Array
    mean: Array
    deviation: Array
    loss: Array
    uncertainty: float
    version: int


class BestDesigns:
    """The best trusted designs, `keep` at most: of one loss the lowest, else a Pareto front.

    Of a front that is too large, the design that is closest to another one is left out. Of one
    loss, its course is kept: after how many evaluations which loss was the best.
    """

    def __init__(self, keep: int, losses: int) -> None:
        self._keep = keep
        self._front = losses > 1
        self._found: dict[bytes, Found] = {}
        self._course: list[tuple[int, float]] = []
        self.changed = False

    def __iter__(self) -> Iterator[Found]:
        return iter(sorted(self._found.values(), key=lambda found: tuple(found.loss)))

    def consider(self, found: Found, trusted: bool) -> None:
        """Take a design in, or replace what was known of it, or drop it."""
        key = found.design.tobytes()
        before = self._found.pop(key, None)
        if trusted and not any((other.loss <= found.loss).all() for other in self._rivals()):
            self._found[key] = found
            self._thin(found)
        self.changed |= before is not None or key in self._found

    def _rivals(self) -> list[Found]:
        """Those that keep a worse design out."""
        if self._front:
            return list(self._found.values())
        return list(self)[-1:] if len(self._found) >= self._keep else []

    def _thin(self, new: Found) -> None:
        """Leave out what is worse than the new one, and what is too much."""
        if self._front:
            better = {k: f for k, f in self._found.items() if not (new.loss <= f.loss).all()}
            self._found = better | {new.design.tobytes(): new}
        while len(self._found) > self._keep:
            del self._found[self._superfluous()]

    def _superfluous(self) -> bytes:
        keys, losses = list(self._found), np.array([f.loss for f in self._found.values()])
        if not self._front:
            return keys[int(losses[:, 0].argmax())]
        scaled = losses / np.maximum(np.ptp(losses, axis=0), 1e-300)
        apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)
        np.fill_diagonal(apart, np.inf)
        # The best of each loss stay: they are the ends of the front.
        apart[losses.argmin(axis=0)] = np.inf
        return keys[int(apart.min(axis=1).argmin())]

    def write(self, directory: Path, objectives: Sequence[str], told: int) -> None:
        """Replace `best.json` if anything has changed."""
        if not self.changed:
            return
        self.changed = False
        content: dict[str, Any] = {
            "evaluations": told,
            "designs": [_readable(found, objectives) for found in self],
        }
        if not self._front:
            content["course"] = self._continued(told)
        draft = directory / f"{FILE}.new"
        draft.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(draft, directory / FILE)

    def _continued(self, told: int) -> list[tuple[int, float]]:
        """Return the course of the best loss until now; models that learn may take it back."""
        best = [float(found.loss[0]) for found in list(self)[:1]]
        if best and best[0] not in [loss for _, loss in self._course[-1:]]:
            self._course.append((told, best[0]))
        if len(self._course) > COURSE:
            del self._course[1:-1:2]
        return self._course


def _readable(found: Found, names: Sequence[str]) -> Mapping[str, Any]:
    return {
        "parameters": found.design.tolist(),
        "objectives": dict(zip(names, found.mean.tolist(), strict=True)),
        "deviation": dict(zip(names, found.deviation.tolist(), strict=True)),
        "uncertainty": found.uncertainty,
        "version": found.version,
    }


def heard(objectives: Objectives, design: Array, feedback: Feedback) -> Found:
    """Return a design with what the committee says of it."""
    mean = objectives.read(feedback.mean)
    deviation = objectives.read(feedback.deviation)
    return Found(
        design, mean, deviation, objectives.loss(mean), feedback.uncertainty, feedback.version
    )
