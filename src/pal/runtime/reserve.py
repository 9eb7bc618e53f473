"""A committee with its last good weights in reserve, for members that begin to predict NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pal.errors import Failure
from pal.exchange.reduction import finite_rows, lifeless
from pal.records import Batch, Weights, as_members
from pal.roles import Committee
from pal.runtime.messages import NewWeights


@dataclass(frozen=True, slots=True)
class Held:
    """Weights of a member, and the version with which they came."""

    weights: Weights
    version: int


class Reserve:
    """Passes all on to a committee, and remembers its members' weights.

    Weights are good once they have given a whole batch of finite predictions. Of each member the
    newest weights are kept, and the newest good ones: in memory that is the committee twice more
    at most, and once where all weights turn out good before the next ones come.

    `distrust` is told of weights (member, version) that gave nothing but NaN, and of those before
    them that did better.
    """

    def __init__(
        self,
        committee: Committee,
        members: Sequence[int],
        distrust: Callable[[int, int, Weights], None],
    ) -> None:
        self._committee = committee
        self._places = {member: place for place, member in enumerate(members)}
        self._distrust = distrust
        self._newest: dict[int, Held] = {}
        self._good: dict[int, Held] = {}
        self._fallen: set[int] = set()
        """Members on trial with their last good weights."""

    def predict(self, samples: Batch) -> Any:
        """Ask the committee."""
        return self._committee.predict(samples)

    def install(self, new: NewWeights) -> None:
        """Use new weights."""
        for member, weights in new.members.items():
            self._newest[member] = Held(weights, new.version)
            self._use(member, self._newest[member])

    def _use(self, member: int, held: Held) -> None:
        self._committee.set_weights(self._places[member], held.weights)
        self._fallen.discard(member)

    def approve(self, members: Iterable[int]) -> None:
        """Take the weights that these members use for good."""
        for member in members:
            if member in self._fallen:
                self._fallen.discard(member)
                bad, good = self._newest[member], self._good[member]
                self._newest[member] = good
                if bad is not good:
                    self._distrust(member, bad.version, good.weights)
            elif member in self._newest:
                self._good[member] = self._newest[member]

    def mend(self, members: Iterable[int]) -> Mapping[int, str]:
        """Give members their last good weights again; say which ones, where there are some."""
        told = {}
        for member in members:
            good = self._good.get(member)
            if good is not None:
                self._use(member, good)
                self._fallen.add(member)
                told[member] = f"it is reloaded from weights version {good.version}"
        return told

    def revert(self, members: Iterable[int]) -> None:
        """Give members their newest weights again: the good ones did not help."""
        for member in self._fallen.intersection(members):
            self._use(member, self._newest[member])


def steady(
    reserve: Reserve,
    members: Sequence[int],
    samples: Batch,
    source: str,
    report: Callable[[Failure], None],
) -> list[Batch]:
    """Predict with some members of a committee, for an exchange in another process.

    A member that is finite for no sample is given its last good weights, and asked again. What
    it says then stands: if it is no better, the exchange leaves the member out.
    """
    answers = _asked(reserve, members, samples, source)
    ill = [member for member, answer in answers.items() if lifeless(answer)]
    told = reserve.mend(ill) if ill else {}
    if told:
        answers = _asked(reserve, members, samples, source)
    still = [member for member in told if lifeless(answers[member])]
    reserve.revert(still)
    for member, outcome in told.items():
        if member not in still:
            text = (
                f"member {member} predicted NaN or infinity for all {len(samples)} samples; "
                f"{outcome}, and put back"
            )
            report(Failure("prediction", member, "NotFiniteError", text))
    return [*answers.values()]


def _asked(
    reserve: Reserve, members: Sequence[int], samples: Batch, source: str
) -> dict[int, Batch]:
    answers = as_members(reserve.predict(samples), len(members), len(samples), source)
    found = dict(zip(members, answers, strict=True))
    reserve.approve([m for m, answer in found.items() if finite_rows(answer) is None])
    return found
