"""The hot loop: gather samples, predict, reduce, select, answer. Everything else happens between.

Nothing here waits for labels or training: candidates are handed to the desk, which never
blocks, and new weights are swapped in between two batches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError, Failure, ShapeError
from pal.exchange.batching import Batching
from pal.exchange.reduction import beside, finite_rows, reduce
from pal.exchange.walkers import Walkers
from pal.records import Array, Batch, Feedbacks, Prediction, Sample, Selection, as_members
from pal.roles import Selector
from pal.transport.board import Meter


class Predicts(Protocol):
    """The part of a committee that the exchange needs, in this process or in others."""

    def predict(self, samples: Batch) -> Any:
        """Return labels with a leading member axis, or a list per member."""
        ...


class Desk(Protocol):
    """Where candidates and failures go. Never blocks."""

    def free(self) -> int:
        """How many more candidates may be proposed now."""
        ...

    def propose(
        self, samples: Sequence[Sample], walkers: Array, uncertainty: Array, version: int
    ) -> None:
        """Offer samples for labelling."""
        ...

    def report(self, failure: Failure) -> None:
        """Make a failure known."""
        ...


@dataclass(slots=True)
class Exchange:
    """One shard's hot loop.

    `benched` are members whose output was not finite for any sample of a batch; they are left
    out until they get new weights.
    """

    walkers: Walkers
    committee: Predicts
    members: int
    selector: Selector
    batching: Batching
    desk: Desk
    meter: Meter
    serial: bool = False
    """Hold the walkers of the batch that used up the grant until `go_on`: the classic loop, in
    which nobody explores while labels are made and models are trained."""
    numbers: NDArray[np.intp] | None = None
    """The walker in each row; None: rows and walkers have the same numbers."""
    version: int = 0
    benched: frozenset[int] = frozenset()
    _first_ready: float = 0.0
    _turn: int = 0
    """The walker after the last one predicted for: whose turn it is where a batch is limited."""
    _held: tuple[NDArray[np.intp], Feedbacks] | None = None

    def patience(self) -> tuple[NDArray[np.intp], float | None]:
        """Return who is to be predicted for, and for how long to wait before doing so.

        0: now. None: until the doorbell rings.
        """
        ready = self.walkers.ready()
        if self._held is not None or not len(ready):
            self._first_ready = 0.0
            return ready, None
        now = time.monotonic()
        self._first_ready = self._first_ready or now
        seconds = self.batching.patience(
            len(ready), self.walkers.living(), now - self._first_ready
        )
        limit = self.batching.limit
        if limit is None or len(ready) <= limit:
            return ready, seconds
        return np.roll(ready, -int(np.searchsorted(ready, self._turn)))[:limit], seconds

    @property
    def held(self) -> bool:
        """Whether walkers are held until `go_on`."""
        return self._held is not None

    def may_sleep(self) -> bool:
        """Whether nobody has become ready meanwhile; from now on whoever does rings."""
        return not self.walkers.wake_for(self.batching.quorum(self.walkers.living()))

    def round(self, who: NDArray[np.intp]) -> None:
        """Predict for these walkers and answer them."""
        self._first_ready, self._turn = 0.0, int(who[-1]) + 1
        samples = self.walkers.gather(who)
        broken = finite_rows(samples)
        if broken is not None:
            who, samples = self._refuse(who, samples, broken)
            if not len(who):
                return
        prediction, finite = self.predict(samples)
        if finite is None:
            self._judge(who, samples, prediction)
        else:
            self._judge_finite(who, samples, prediction, finite)

    def predict(self, samples: Batch) -> tuple[Prediction, NDArray[np.bool_] | None]:
        """Ask the committee, outside the hot loop too (to rank the queue).

        Also returns which samples have a finite prediction: bool (n,), or None for all.
        """
        meter = self.meter
        meter.begin()
        result = self.committee.predict(samples)
        meter.end()
        members = as_members(result, self.members, len(samples), "the committee")
        if self.benched:
            members = [m for index, m in enumerate(members) if index not in self.benched]
        prediction = reduce(members, self.version)
        finite = finite_rows(prediction.mean)
        if finite is not None and len(members) > 1:
            prediction = reduce(self._bench(members), self.version)
            finite = finite_rows(prediction.mean)
        return prediction, finite

    def _bench(self, members: list[Batch]) -> list[Batch]:
        """Leave out members that are finite for no sample, while two others are."""
        dead = [finite_rows(m) is not None and not np.any(finite_rows(m)) for m in members]
        if len(members) - sum(dead) < 2:
            return members
        seated = [index for index in range(self.members) if index not in self.benched]
        lost = [index for index, gone in zip(seated, dead, strict=True) if gone]
        for index in lost:
            self.desk.report(
                Failure(
                    "prediction",
                    index,
                    "NotFiniteError",
                    f"member {index} predicted NaN or infinity for all {len(members[0])} samples "
                    f"with weights version {self.version}; it is left out until new weights come",
                )
            )
        self.benched |= frozenset(lost)
        return [member for member, gone in zip(members, dead, strict=True) if not gone]

    def _judge(self, who: NDArray[np.intp], samples: Batch, prediction: Prediction) -> None:
        selection = checked(self.selector.select(samples, prediction), len(samples))
        self._count(len(samples), selection)
        if len(selection.candidates):
            self._propose(who, samples, selection)
        mean, deviation = prediction.mean, prediction.deviation
        if selection.feedback is not None:
            mean, deviation = selection.feedback, beside(deviation, selection.feedback)
        feedback = Feedbacks(
            mean,
            deviation,
            selection.uncertainty,
            np.asarray(selection.trusted, bool),
            prediction.version,
        )
        if self.serial and not self.desk.free():
            self._held = (who, feedback)
        else:
            self.walkers.reply(who, feedback)

    def go_on(self) -> None:
        """Answer the walkers that were held."""
        if self._held is not None:
            held, self._held = self._held, None
            self.walkers.reply(*held)

    def _judge_finite(
        self,
        who: NDArray[np.intp],
        samples: Batch,
        prediction: Prediction,
        finite: NDArray[np.bool_],
    ) -> None:
        """Judge the samples that have a prediction; the walkers of the others start again."""
        good, bad = np.flatnonzero(finite), np.flatnonzero(~finite)
        self._reject(who[bad], "the committee predicted NaN or infinity for its sample")
        if len(good):
            self._judge(who[good], samples.take(good), prediction.take(good))

    def _refuse(
        self, who: NDArray[np.intp], samples: Batch, finite: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], Batch]:
        bad = np.flatnonzero(~finite)
        self._reject(who[bad], "its sample contains NaN or infinity")
        return who[finite], samples.take(np.flatnonzero(finite))

    def _reject(self, who: NDArray[np.intp], reason: str) -> None:
        for walker in self._walkers(who).tolist():
            self.desk.report(
                Failure(
                    "generator",
                    walker,
                    "NotFiniteError",
                    f"{reason}; expected finite numbers; it goes back to its last saved state",
                )
            )
        self.walkers.reject(who)

    def _count(self, size: int, selection: Selection) -> None:
        meter = self.meter
        meter.add("rounds")
        meter.add("samples", size)
        meter.add("uncertain", size - int(np.count_nonzero(selection.trusted)))
        meter.add("uncertainty", float(np.add.reduce(selection.uncertainty)))

    def _propose(self, who: NDArray[np.intp], samples: Batch, selection: Selection) -> None:
        free = self.desk.free()
        chosen = np.asarray(selection.candidates, np.intp)
        self.meter.add("skipped", max(0, len(chosen) - free))
        chosen = chosen[:free]
        if not len(chosen):
            return
        if selection.inputs is not None:
            inputs = list(selection.inputs)[:free]
        else:
            inputs = list(samples.take(chosen))
        walkers = self._walkers(who[chosen])
        self.desk.propose(inputs, walkers, selection.uncertainty[chosen], self.version)

    def _walkers(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        return rows if self.numbers is None else self.numbers[rows]


def checked(selection: Selection, size: int) -> Selection:
    """Return the selection if it fits a batch of `size` samples.

    Raises:
        ContractError, ShapeError: naming the field, what was expected and what came.
    """
    if not isinstance(selection, Selection):
        raise ContractError(
            f"the selector returned {type(selection).__name__}; expected a pal.records.Selection"
        )
    for name in ("uncertainty", "trusted"):
        value = getattr(selection, name)
        if getattr(value, "shape", None) != (size,):
            raise ShapeError(
                f"the selector returned {name} of shape {np.shape(value)}; expected ({size},), "
                "one number for each sample"
            )
    count = len(selection.candidates)
    if count:
        chosen = np.asarray(selection.candidates)
        indices = chosen.dtype.kind in "iu" and chosen.ndim == 1
        if not indices or chosen.min() < 0 or chosen.max() >= size:
            raise ContractError(
                f"the selector chose candidates {list(selection.candidates)[:5]}; expected whole "
                f"numbers from 0 to {size - 1} (np.flatnonzero makes them from a mask)"
            )
    for name, expected in (("inputs", count), ("feedback", size)):
        value = getattr(selection, name)
        if value is not None and len(value) != expected:
            raise ShapeError(
                f"the selector returned {len(value)} entries in {name}; expected {expected}"
            )
    return selection
