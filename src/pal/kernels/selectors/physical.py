"""Geometries that cannot be are not worth a label, and no ground to walk on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError
from pal.kernels.selectors.parts.contacts import contact
from pal.kernels.selectors.parts.filters import everything, narrowed, ranked
from pal.records import Array, Batch, Prediction, Ranking, Selection, named


class Physical:
    """Filter that leaves out unphysical samples, and tells their walkers not to trust them.

    Options:
        min_distance: two atoms nearer than this fraction of the sum of their covalent radii
            (Cordero et al., Dalton Trans. 2008, 2832) overlap.
        max_force: in eV/Å; a larger component of the mean forces is not physical.
        max_uncertainty: in the unit of the selection's uncertainty; where the models disagree
            more, the geometry itself is a product of bad predictions.

    Example:
        [selector]
        kernel = "pipeline"

        [[selector.options.stages]]
        kernel = "deviation"
        options = { threshold = 0.2 }

        [[selector.options.stages]]
        kernel = "physical"
        options = { min_distance = 0.6, max_force = 30.0, max_uncertainty = 5.0 }
    """

    def __init__(
        self,
        *,
        min_distance: float = 0.5,
        max_force: float = np.inf,
        max_uncertainty: float = np.inf,
    ) -> None:
        if not (0 <= min_distance < 1 and max_force > 0 and max_uncertainty > 0):
            raise ContractError(
                "physical: expected 0 <= min_distance < 1, max_force > 0, max_uncertainty > 0; "
                f"got {min_distance}, {max_force}, {max_uncertainty}"
            )
        self._min_distance = min_distance
        self._max_force = max_force
        self._max_uncertainty = max_uncertainty

    def refine(self, samples: Batch, prediction: Prediction, selection: Selection) -> Selection:
        """Drop the unphysical from the candidates, and from what is trusted."""
        sound = self.sound(samples, prediction) & (
            np.asarray(selection.uncertainty) <= self._max_uncertainty
        )
        kept = np.flatnonzero(sound[np.asarray(selection.candidates, dtype=np.intp)])
        smaller = narrowed(selection, kept)
        return Selection(
            smaller.candidates,
            smaller.uncertainty,
            np.asarray(smaller.trusted) & sound,
            smaller.inputs,
            smaller.feedback,
        )

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Choose all samples that are physical."""
        return self.refine(samples, prediction, everything(prediction))

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Drop the unphysical."""
        ranking = ranked(prediction, np.flatnonzero(self.sound(queue, prediction)))
        kept = ranking.uncertainty[ranking.order] <= self._max_uncertainty
        return Ranking(np.asarray(ranking.order)[kept], ranking.uncertainty)

    def sound(self, samples: Batch, prediction: Prediction) -> NDArray[np.bool_]:
        """Return which samples (n,) have no overlapping atoms and no force too large."""
        return np.array(
            [
                contact(sample, self._min_distance) is None and self._bounded(named(mean))
                for sample, mean in zip(samples, prediction.mean, strict=True)
            ],
            dtype=bool,
        )

    def _bounded(self, mean: Mapping[str, Array]) -> bool:
        fields = [mean[name] for name in ("forces", "state_forces") if name in mean]
        return all(np.abs(field).max(initial=0.0) <= self._max_force for field in fields)
