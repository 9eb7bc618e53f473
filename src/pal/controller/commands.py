"""What the controller orders. The runtime carries it out and answers with events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias


class State(StrEnum):
    """Where a candidate is: exactly one of these, always."""

    QUEUED = "queued"
    RUNNING = "running"
    RETURNED = "returned"
    """Its label has come and is on its way to the disk."""
    LABELLED = "labelled"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Move:
    """A candidate changed its state; write it into its history."""

    sample: int
    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StartLabel:
    """Give this sample to this oracle."""

    oracle: int
    sample: int
    attempt: int


@dataclass(frozen=True, slots=True)
class CommitLabel:
    """Write the label that this oracle returned to the ledger; answer with `LabelsDurable`."""

    sample: int


@dataclass(frozen=True, slots=True)
class KillOracle:
    """Kill an oracle, whose label is late or not wanted. It comes back as `OracleReady`."""

    oracle: int
    reason: str


@dataclass(frozen=True, slots=True)
class RetireOracle:
    """This oracle has nothing to do and is not needed any more: end it, and do not restart it."""

    oracle: int


@dataclass(frozen=True, slots=True)
class Teach:
    """Hand a trainer new data; it leaves its current round after the epoch and starts another.

    `add` are sample numbers it does not have yet, `remove` those that fall out of a rolling
    window. `fresh`: begin again from new random weights.
    """

    trainer: int
    round: int
    add: tuple[int, ...]
    remove: tuple[int, ...] = ()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class FinishTraining:
    """Interrupt the trainer after its epoch; it answers `TrainingDone`, with final weights."""

    trainer: int


@dataclass(frozen=True, slots=True)
class Explore:
    """Let the walkers move, or hold them."""

    on: bool


@dataclass(frozen=True, slots=True)
class GrantCandidates:
    """The exchange may propose so many candidates in all since the campaign started.

    A running total, so that a lost or repeated message does no harm. Whatever is uncertain
    beyond it is not proposed; the exchange counts it.
    """

    total: int


@dataclass(frozen=True, slots=True)
class RankQueue:
    """Judge these waiting samples with the newest models; answer with `QueueRanked`."""

    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Let the operator know, now and in the ledger."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class Finish:
    """All is done: stop every worker and end. `failed` when something broke.

    `continued`: the session is over, the campaign is not; another job goes on with it.
    """

    reason: str
    failed: bool = False
    continued: bool = False


Command: TypeAlias = (
    Move
    | StartLabel
    | CommitLabel
    | KillOracle
    | RetireOracle
    | Teach
    | FinishTraining
    | Explore
    | GrantCandidates
    | RankQueue
    | Tell
    | Finish
)
