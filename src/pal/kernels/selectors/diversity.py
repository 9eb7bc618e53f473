"""Candidates that differ from each other, so that every label tells something new."""

from __future__ import annotations

from typing import Any

import numpy as np

from pal.errors import ContractError
from pal.kernels.descriptors import Seen, check_space, farthest_first, fingerprints
from pal.kernels.selectors.parts.filters import everything, most_uncertain, narrowed, ranked
from pal.records import Batch, Prediction, Ranking, Selection


class Diversity:
    """Filter that keeps the most different candidates of each batch.

    Greedy: each candidate kept is the farthest from those kept before, in this batch and in
    earlier ones (farthest-first traversal: Gonzalez, Theor. Comput. Sci. 38, 293 (1985); as
    core-set selection: Sener and Savarese, arXiv:1708.00489). The very first is the most
    uncertain one.

    Options:
        count: candidates kept of each batch.
        space: where distances are taken: 'distances' (of atoms), 'arrays' (the sample's numbers)
            or 'latent:NAME' (an array of that name that the models predict).
        memory: candidates of each composition or shape that are remembered.

    Example:
        [selector]
        kernel = "pipeline"

        [[selector.options.stages]]
        kernel = "deviation"
        options = { threshold = 0.2 }

        [[selector.options.stages]]
        kernel = "diversity"
        options = { count = 2 }
    """

    def __init__(self, *, count: int, space: str = "distances", memory: int = 10_000) -> None:
        if not (count >= 1 and memory >= 1):
            raise ContractError(
                "diversity: expected count >= 1 and memory >= 1; "
                f"got count = {count}, memory = {memory}"
            )
        self._count = count
        self._space = check_space(space, "diversity")
        self._seen = Seen(memory)

    def refine(self, samples: Batch, prediction: Prediction, selection: Selection) -> Selection:
        """Keep the candidates that differ most."""
        places = most_uncertain(selection)
        if not len(places):
            return selection
        chosen = np.asarray(selection.candidates, dtype=np.intp)[places]
        points = fingerprints(samples.take(chosen), self._space, prediction.take(chosen))
        kept = farthest_first(points, self._count, 0, self._seen)
        for index in kept:
            self._seen.add(points[index])
        return narrowed(selection, places[kept])

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Choose the most different of all samples."""
        return self.refine(samples, prediction, everything(prediction))

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Order the queue so that each sample differs most from all before it."""
        points = fingerprints(queue, self._space, prediction)
        order = farthest_first(points, len(points), 0) if points else []
        return ranked(prediction, np.array(order, dtype=np.intp))

    def get_state(self) -> Any:
        """Return what was chosen so far."""
        return self._seen.get_state()

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        self._seen.set_state(state)
