"""What the filters among the selectors have in common: they narrow what another one chose.

A filter has `refine(samples, prediction, selection) -> Selection` beside the methods of every
selector. In a `pipeline` it refines the selection before it; alone, it refines `everything`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pal.kernels.selectors.deviation import model_deviation
from pal.records import Array, Batch, Prediction, Ranking, Selection
from pal.roles import Selector


@runtime_checkable
class Filter(Selector, Protocol):
    """A selector that can narrow another one's selection."""

    def refine(self, samples: Batch, prediction: Prediction, selection: Selection) -> Selection:
        """Return the selection with fewer candidates, or with fewer samples trusted."""
        ...


def everything(prediction: Prediction) -> Selection:
    """Choose and trust all samples; their uncertainty is the largest deviation of any field."""
    uncertainty = largest_deviation(prediction)
    size = len(uncertainty)
    return Selection(np.arange(size), uncertainty, np.ones(size, dtype=bool))


def narrowed(selection: Selection, kept: Array) -> Selection:
    """Return the selection with some of its candidates: `kept` are places in their list."""
    candidates = np.asarray(selection.candidates, dtype=np.intp)
    inputs = selection.inputs
    if inputs is not None:
        inputs = [inputs[int(place)] for place in kept]
    return replace(selection, candidates=candidates[kept], inputs=inputs)


def ranked(prediction: Prediction, order: Array) -> Ranking:
    """Return an order of the queue, with the uncertainty that `everything` gives."""
    return Ranking(order, largest_deviation(prediction))


def most_uncertain(selection: Selection) -> NDArray[np.intp]:
    """Return the places of the candidates in their list, the most uncertain first."""
    candidates = np.asarray(selection.candidates, dtype=np.intp)
    return np.argsort(-np.asarray(selection.uncertainty)[candidates], kind="stable")


def largest_deviation(prediction: Prediction) -> NDArray[np.float64]:
    """Return the largest deviation (n,) of any number predicted; vectors count whole."""
    result = np.zeros(len(prediction.deviation))
    for indices, group in prediction.deviation.groups():
        for column in group.columns.values():
            result[indices] = np.maximum(result[indices], model_deviation(column))
    return result
