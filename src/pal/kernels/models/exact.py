"""An oracle in the place of the committee: the same exploration without a model."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from pal.building import nested
from pal.errors import ContractError, LabelFailure
from pal.records import Array, Batch, Label, Sample, Weights, named, unnamed
from pal.roles import Context, Oracle


class Exact:
    """An oracle that answers the walkers itself: exploration without a model, as a reference.

    What the walkers find on the oracle's own surface, and what it costs, is what a campaign with
    a learned model is measured by. With `model.members = 1` and nothing learned the deviation is
    zero, so that every sample is trusted. What it computes is not kept as labels: every sample
    is one call, and `generator` kernels write what they find. Each call waits for the slowest of
    its samples, so give each worker about as many walkers as any other.

    Options:
        kernel: the oracle, by its name, as in the section [oracle].
        options: of that oracle.
        workers: processes that compute the samples of a batch; each with `model.threads` threads.
        instead: what a label that the oracle refuses is replaced by, a number for each of its
            arrays, such as { drag = 10.0 }: bad enough that an optimiser turns away. Without it,
            a refused label ends the campaign.

    Example:
        [oracle]
        kernel = "xtb"
        enabled = false

        [model]
        kernel = "exact"
        members = 1
        train = false
        options = { kernel = "xtb", options = { method = "GFN2-xTB" }, workers = 2 }
    """

    def __init__(
        self,
        context: Context,
        *,
        kernel: str,
        options: Mapping[str, Any] | None = None,
        workers: int = 1,
        instead: Mapping[str, float] | None = None,
    ) -> None:
        if workers < 1:
            raise ContractError(f"exact: workers = {workers}; expected 1 or more")
        self._instead = instead
        self._template: dict[str, Array] | None = None
        self._pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            _prepare,
            (replace(context, role="oracle", count=workers), kernel, dict(options or {})),
        )

    def predict(self, samples: Batch) -> list[Label]:
        """Return the oracle's labels.

        Raises:
            LabelFailure: the oracle refused one, and there is no `instead`.
        """
        answers = list(self._pool.map(_label, samples))
        return [unnamed(self._accepted(answer)) for answer in answers]

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)

    def get_weights(self) -> Weights:
        """Return nothing: there is nothing learned."""
        return {}

    def set_weights(self, weights: Weights) -> None:
        """Take nothing."""

    def _accepted(self, answer: dict[str, Array] | str) -> dict[str, Array]:
        if not isinstance(answer, str):
            self._template = answer
            return answer
        if self._instead is None:
            raise LabelFailure(f"exact: {answer}; the option `instead` would go on without it")
        shapes = self._template or {name: np.array(0.0) for name in self._instead}
        missing = sorted(shapes.keys() - self._instead.keys())
        if missing:
            raise ContractError(f"exact: instead lacks {missing}, which the oracle's labels have")
        return {name: np.full_like(shapes[name], self._instead[name]) for name in shapes}


_OWN: Final[dict[str, Oracle]] = {}
"""The oracle of this process."""


def _prepare(context: Context, kernel: str, options: dict[str, Any]) -> None:
    """Build the oracle in a process of the pool, which ends when its parent does."""
    threading.Thread(target=_follow, daemon=True).start()
    table = {"kernel": kernel, "options": options}
    _OWN["oracle"] = nested("oracle", table, context, "exact")


def _follow() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _label(sample: Sample) -> dict[str, Array] | str:
    """Label in a scratch folder of its own; return the reason where there is no label."""
    before = Path.cwd()
    with TemporaryDirectory(prefix="pal-exact-") as folder:
        os.chdir(folder)
        try:
            return {
                name: np.asarray(array)
                for name, array in named(_OWN["oracle"].label(sample)).items()
            }
        except LabelFailure as failure:
            return str(failure)
        finally:
            os.chdir(before)
