"""No label is paid for twice: candidates that were chosen before are left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from pal.errors import ContractError
from pal.kernels.descriptors import Seen, check_space, fingerprints
from pal.kernels.selectors.parts.filters import everything, most_uncertain, narrowed, ranked
from pal.records import Batch, Prediction, Ranking, Selection


class Distinct:
    """Filter that leaves out near-duplicates of candidates it has let through before.

    Of several alike in one batch the most uncertain stays. So the label queue never holds the
    same geometry twice, nor one that was labelled already, as far as `memory` reaches; where the
    queue is ranked anew (`selector.rerank`), it is looked through again.

    Options:
        distance: samples nearer than this are the same. In the space 'distances' it is the root
            mean square change of 1/r over all pairs of atoms, in 1/Å: neighbouring frames of a
            dynamics with steps of 1 fs differ by about 0.003, thermal motion by 0.01 to 0.03.
        space: 'distances' (of atoms, in which moving, turning and swapping like atoms change
            nothing), 'arrays' (the sample's numbers as they are) or 'latent:NAME' (an array of
            that name that the models predict, such as a hidden layer).
        memory: candidates of each composition or shape that are remembered.

    Example:
        [selector]
        kernel = "pipeline"

        [[selector.options.stages]]
        kernel = "deviation"
        options = { threshold = 0.2 }

        [[selector.options.stages]]
        kernel = "distinct"
        options = { distance = 0.01 }
    """

    def __init__(self, *, distance: float, space: str = "distances", memory: int = 10_000) -> None:
        if not (distance > 0 and memory >= 1):
            raise ContractError(
                "distinct: expected distance > 0 and memory >= 1; "
                f"got distance = {distance}, memory = {memory}"
            )
        self._distance = distance
        self._space = check_space(space, "distinct")
        self._memory = memory
        self._seen = Seen(memory)

    def refine(self, samples: Batch, prediction: Prediction, selection: Selection) -> Selection:
        """Keep the candidates that are new."""
        places = most_uncertain(selection)
        chosen = np.asarray(selection.candidates, dtype=np.intp)[places]
        new = self._new(samples.take(chosen), prediction.take(chosen), self._seen)
        return narrowed(selection, np.sort(places[new]))

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Choose all samples that are new."""
        return self.refine(samples, prediction, everything(prediction))

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Drop what is alike within the queue; the first of them stays."""
        return ranked(prediction, self._new(queue, prediction, Seen(self._memory)))

    def _new(self, samples: Batch, prediction: Prediction, seen: Seen) -> Any:
        """Return the indices of samples that are new to `seen`, which learns them."""
        new = []
        for index, point in enumerate(fingerprints(samples, self._space, prediction)):
            if seen.nearest(point) >= self._distance:
                seen.add(point)
                new.append(index)
        return np.array(new, dtype=np.intp)

    def get_state(self) -> Any:
        """Return what was chosen so far."""
        return self._seen.get_state()

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`."""
        self._seen.set_state(state)
