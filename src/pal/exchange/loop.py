"""The hot loop: gather samples, predict, reduce, select, answer. Everything else happens between.

Nothing here waits for labels or training: candidates are handed to the desk, which never
blocks, and new weights are swapped in between two batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError, Failure, ShapeError
from pal.exchange.batching import Batching
from pal.exchange.reduction import finite_rows, lifeless, reduce
from pal.exchange.screening import Screening
from pal.exchange.walkers import Walkers
from pal.records import (
    Array,
    Batch,
    Feedbacks,
    Prediction,
    Refusal,
    Sample,
    Selection,
    as_members,
)
from pal.roles import Selector
from pal.transport.board import PREDICT, Meter


class Predicts(Protocol):
    """The committee as the exchange needs it, in this process or in others."""

    def predict(self, samples: Batch) -> Any:
        """Return labels with a leading member axis, or a list per member."""
        ...

    def approve(self, members: Iterable[int]) -> None:
        """Take these members' weights for good: they gave a whole batch of finite predictions."""
        ...

    def mend(self, members: Iterable[int]) -> Mapping[int, str]:
        """Give members their last good weights again; say which ones, where there are some."""
        ...

    def revert(self, members: Iterable[int]) -> None:
        """Give members their newest weights again: the good ones did not help."""
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

    def distrust(self, member: int, version: int) -> None:
        """Make known that a member's weights give nothing but NaN."""
        ...


@dataclass(slots=True)
class Exchange:
    """One shard's hot loop.

    A member whose output is not finite for any sample of a batch gets its last good weights
    again, and the batch is predicted anew, before anybody hears of it. `benched` are members
    for which that did not help; they are left out until they get new weights.
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
    screening: Screening | None = None
    version: int = 0
    approved: bool = False
    """Whether the committee knows that its weights are good."""
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
        members = self._ask(samples)
        prediction = reduce([*members.values()], self.version)
        finite = finite_rows(prediction.mean)
        if finite is not None:
            members = self._mended(samples, members)
            prediction = reduce([*members.values()], self.version)
            finite = finite_rows(prediction.mean)
        if finite is None and not self.approved:
            self.committee.approve(members)
            self.approved = True
        return prediction, finite

    def _ask(self, samples: Batch) -> dict[int, Batch]:
        """Return what each member says that is not left out."""
        meter = self.meter
        meter.begin(PREDICT)
        result = self.committee.predict(samples)
        meter.end()
        members = as_members(result, self.members, len(samples), "the committee")
        return {index: m for index, m in enumerate(members) if index not in self.benched}

    def _mended(self, samples: Batch, members: dict[int, Batch]) -> dict[int, Batch]:
        """Put members that are finite for no sample back in order, or leave them out.

        They are left out while two others are in order: else the sample may be at fault.
        """
        ill = [index for index, member in members.items() if lifeless(member)]
        given = self.committee.mend(ill) if ill else {}
        if given:
            members = self._ask(samples)
        still = [index for index in ill if lifeless(members[index])]
        self.committee.approve(mended := [index for index in ill if index not in still])
        self.committee.revert(still)
        for index in mended:
            self._report(index, len(samples), f"{given[index]}, and put back")
        if not still or len(members) - len(still) < 2:
            return members
        for index in still:
            tried = f"{given[index]}, which did not help; " if index in given else ""
            if index not in given:
                self.desk.distrust(index, self.version)
            self._report(index, len(samples), f"{tried}it is left out until new weights come")
        self.benched |= frozenset(still)
        return {index: m for index, m in members.items() if index not in still}

    def _report(self, member: int, size: int, outcome: str) -> None:
        text = (
            f"member {member} predicted NaN or infinity for all {size} samples with weights "
            f"version {self.version}; {outcome}"
        )
        self.desk.report(Failure("prediction", member, "NotFiniteError", text))

    def install(self, version: int, members: Iterable[int]) -> None:
        """Go by new weights from now on; these members have got some."""
        self.version, self.approved = version, False
        self.benched -= frozenset(members)

    def _judge(self, who: NDArray[np.intp], samples: Batch, prediction: Prediction) -> None:
        if self.screening is not None:
            exploded = self.screening.screen.exploded(prediction.mean)
            if exploded:
                kept = self._turn_back(who, exploded)
                who, samples, prediction = who[kept], samples.take(kept), prediction.take(kept)
            if not len(who):
                return
        selection = checked(self.selector.select(samples, prediction), len(samples))
        self._count(len(samples), selection)
        overlapping = self._propose(who, samples, selection) if len(selection.candidates) else {}
        mean = prediction.mean if selection.feedback is None else selection.feedback
        trusted = np.asarray(selection.trusted, bool)
        if self.screening is not None:
            trusted = self.screening.within(samples, trusted)
        feedback = Feedbacks(
            mean, prediction.deviation, selection.uncertainty, trusted, prediction.version
        )
        if overlapping:
            kept = self._turn_back(who, overlapping)
            who, feedback = who[kept], feedback.take(kept)
            if not len(who):
                return
        if self.serial and not self.desk.free():
            self._held = (who, feedback)
        else:
            self.walkers.reply(who, feedback)

    def _turn_back(self, who: NDArray[np.intp], reasons: Mapping[int, str]) -> NDArray[np.intp]:
        """Send walkers back whose samples, at these places, are unphysical; return the others."""
        assert self.screening is not None
        places = sorted(reasons)
        gone = who[places]
        self.screening.note(
            self._walkers(gone).tolist(),
            [
                f"{reasons[place]}; its walker goes back to its last saved state"
                for place in places
            ],
        )
        self.walkers.reject(gone, Refusal.UNPHYSICAL)
        return np.array([place for place in range(len(who)) if place not in reasons], np.intp)

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
        self.walkers.reject(who, Refusal.BROKEN)

    def _count(self, size: int, selection: Selection) -> None:
        meter = self.meter
        meter.add("rounds")
        meter.add("samples", size)
        meter.add("uncertain", size - int(np.count_nonzero(selection.trusted)))
        meter.add("uncertainty", float(np.add.reduce(selection.uncertainty)))

    def _propose(
        self, who: NDArray[np.intp], samples: Batch, selection: Selection
    ) -> dict[int, str]:
        """Offer what may be offered; return the places of samples with overlapping atoms."""
        free = self.desk.free()
        chosen = np.asarray(selection.candidates, np.intp)
        if self.screening is None or not free:
            self.meter.add("skipped", max(0, len(chosen) - free))
            chosen = chosen[:free]
        inputs = samples.take(chosen) if selection.inputs is None else selection.inputs
        kept, overlapping = list(range(len(chosen))), dict[int, str]()
        if self.screening is not None and len(chosen):
            found = self.screening.sieve(inputs, free)
            kept, overlapping = found.kept, found.overlapping
            strays = [int(chosen[place]) for place in found.outside]
            self.screening.note(self._walkers(who[strays]).tolist(), [*found.outside.values()])
            met = len(kept) + len(overlapping) + len(strays)
            self.meter.add("skipped", len(chosen) - met)
        if kept:
            offered = chosen[kept]
            walkers = self._walkers(who[offered])
            uncertainty = selection.uncertainty[offered]
            self.desk.propose([inputs[i] for i in kept], walkers, uncertainty, self.version)
        return {int(chosen[place]): reason for place, reason in overlapping.items()}

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
