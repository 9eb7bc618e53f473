"""What may go wrong, how often, and which of it did: the dice of a schedule."""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeAlias


class Fault(StrEnum):
    """The kinds of faults. Each stands for what a real campaign meets."""

    CRASH = "oracle crash"
    POISON = "poisoned sample"
    """A sample that kills each oracle that touches it."""
    HANG = "oracle hang"
    """It never answers; only the deadline ends this."""
    BLOCK_ENDS = "block of a batch system ended"
    """An oracle beyond the job is lost through no fault of its sample."""
    REFUSAL = "refused label"
    OUTAGE = "all oracles fail"
    """For a while, as when a licence is missing."""
    NAN = "label with NaN"
    LATE = "late answer"
    """It arrives after its sender was given up."""
    TWICE = "message twice"
    WRONG = "wrong answer"
    """An oracle answers for a sample it was not given."""
    DELAY = "delayed message"
    CLOCK = "clock set back"
    """An event is stamped earlier than the one before it."""
    SLOW_DISK = "slow disk"
    SPLIT = "split commit"
    """A commit takes a part of what was put together."""
    KILL = "session killed"
    """Cut off between two events: what was not on disk is lost."""
    CUT = "killed in a commit"
    """Cut off while the ledger writes: the commit is there whole, or not at all."""
    STOP = "stop"
    """An orderly end is asked for; another session goes on."""
    STOP_ASKED = "stop asked by a walker"
    VANISH = "node lost"
    FREEZE = "node frozen"
    """Nothing comes from it for a while; after long silence it is given up, and comes back."""
    TRAINER_CRASH = "trainer crash"
    TRAINER_HANG = "trainer hang"
    """It learns nothing and does not answer until somebody kills it."""
    SHARD_CRASH = "exchange crash"
    GREEDY = "proposals beyond the grant"
    """A part that is taken from an exchange may be what it has just proposed."""
    RANKER_SILENT = "ranking lost"
    DROP = "sample dropped"
    """This and the following: what the operator does while a campaign runs."""
    REQUEUE = "sample requeued"
    BY_HAND = "label by hand"
    PAUSE = "kernel paused"
    SCALE = "oracle retired or added"
    RULES = "rules changed"
    LAST_WORD = "label at the end"
    """An oracle answers when the campaign has ended; its label is kept all the same."""

    # An enumeration's own hash is a call of Python's, which the dice feel.
    __hash__ = str.__hash__


RATES: Final[Mapping[Fault, float]] = {
    Fault.CRASH: 0.15,
    Fault.POISON: 0.3,
    Fault.HANG: 0.08,
    Fault.BLOCK_ENDS: 0.2,
    Fault.REFUSAL: 0.12,
    Fault.OUTAGE: 0.4,
    Fault.NAN: 0.08,
    Fault.LATE: 0.05,
    Fault.TWICE: 0.04,
    Fault.WRONG: 0.06,
    Fault.DELAY: 0.03,
    Fault.CLOCK: 0.02,
    Fault.SLOW_DISK: 0.05,
    Fault.SPLIT: 0.3,
    Fault.KILL: 0.5,
    Fault.CUT: 0.3,
    Fault.STOP: 0.4,
    Fault.STOP_ASKED: 0.3,
    Fault.VANISH: 0.5,
    Fault.FREEZE: 0.5,
    Fault.TRAINER_CRASH: 0.12,
    Fault.TRAINER_HANG: 0.06,
    Fault.SHARD_CRASH: 0.02,
    Fault.GREEDY: 0.03,
    Fault.RANKER_SILENT: 0.5,
    Fault.DROP: 0.1,
    Fault.REQUEUE: 0.15,
    Fault.BY_HAND: 0.1,
    Fault.PAUSE: 0.1,
    Fault.SCALE: 0.1,
    Fault.RULES: 0.1,
    Fault.LAST_WORD: 0.5,
}
"""How often each strikes where it can, at full trouble."""


Strike: TypeAlias = tuple[Fault, int]
"""A fault that struck: its kind, and at which chance of that kind, counted from 1."""


class Faults:
    """Decides at each chance whether a fault strikes, and remembers those that did.

    With `only`, nothing is left to chance: these strike and no others. So a history is told again
    with some of its faults left out, and the others stay where they were.
    """

    def __init__(
        self,
        seed: int,
        trouble: float,
        kinds: frozenset[Fault],
        only: frozenset[Strike] | None = None,
    ) -> None:
        self._roll = random.Random(seed).random
        self._rates = {kind: trouble * RATES[kind] * (kind in kinds) for kind in Fault}
        self._only = only
        self._chances = dict.fromkeys(Fault, 0)
        self.calm = False
        """From now on nothing goes wrong any more."""
        self.struck: list[Strike] = []

    def strikes(self, kind: Fault) -> bool:
        """Whether a fault of this kind strikes here."""
        self._chances[kind] += 1
        if self.calm:
            return False
        strike = kind, self._chances[kind]
        hit = self._roll() < self._rates[kind] if self._only is None else strike in self._only
        if hit:
            self.struck.append(strike)
        return hit
