"""Selectors one after the other: the first judges, the others narrow its choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pal.building import nested
from pal.errors import ContractError
from pal.kernels.selectors.parts.filters import Filter, narrowed
from pal.records import Batch, Prediction, Ranking, Selection
from pal.roles import Context, LearningSelector, Selector


class Pipeline:
    """Selectors one after the other: the first judges, the others narrow its choice.

    Uncertainty and trust are the first stage's. A later stage that is a filter (`top_k`,
    `diversity`, `distinct`, `physical`) refines its selection; any other selector lets through
    what it would choose itself. States and learning from labels work in every stage.

    Options:
        stages: the selectors, each a short name or a table of `kernel` and `options`.

    Example:
        [selector]
        kernel = "pipeline"

        [[selector.options.stages]]
        kernel = "adaptive"
        options = { rate = 0.01 }

        [[selector.options.stages]]
        kernel = "physical"

        [[selector.options.stages]]
        kernel = "distinct"
        options = { distance = 0.01 }

        [[selector.options.stages]]
        kernel = "top_k"
        options = { count = 4 }
    """

    def __init__(self, context: Context, *, stages: Sequence[str | Mapping[str, Any]]) -> None:
        if isinstance(stages, str) or not stages:
            raise ContractError(f"pipeline: expected a list of stages, not empty; got {stages!r}")
        self._stages: list[Selector] = [
            nested("selector", stage, context, f"pipeline: stages[{index}]")
            for index, stage in enumerate(stages)
        ]
        if any(isinstance(stage, LearningSelector) for stage in self._stages):
            # Only then, because labels are sent to selectors that have this method.
            self.learn = self._learn

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Let the stages judge and narrow."""
        judge, *others = self._stages
        selection = judge.select(samples, prediction)
        for stage in others:
            selection = _passed(stage, samples, prediction, selection)
        return selection

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Let each stage order, and drop from, what the one before has left."""
        ranking = self._stages[0].rank(queue, prediction)
        order = np.asarray(ranking.order, dtype=np.intp)
        for stage in self._stages[1:]:
            left = stage.rank(queue.take(order), prediction.take(order))
            order = order[np.asarray(left.order, dtype=np.intp)]
        return Ranking(order, ranking.uncertainty)

    def _learn(self, samples: Batch, labels: Batch, prediction: Prediction) -> None:
        for stage in self._stages:
            if isinstance(stage, LearningSelector):
                stage.learn(samples, labels, prediction)

    def get_state(self) -> Any:
        """Return the state of each stage that has one."""
        return [
            stage.get_state() if hasattr(stage, "get_state") else None for stage in self._stages
        ]

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`; stages that were added or changed since begin anew."""
        for stage, part in zip(self._stages, state, strict=False):
            if part is not None and hasattr(stage, "set_state"):
                stage.set_state(part)


def _passed(
    stage: Selector, samples: Batch, prediction: Prediction, selection: Selection
) -> Selection:
    """Narrow a selection by one stage."""
    if isinstance(stage, Filter):
        return stage.refine(samples, prediction, selection)
    own = set(np.asarray(stage.select(samples, prediction).candidates).tolist())
    return narrowed(
        selection,
        np.array([i for i, index in enumerate(selection.candidates) if index in own], np.intp),
    )
