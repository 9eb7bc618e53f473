"""What is written into the ledger, and the rows that come out of it again.

All times are seconds on the campaign's own clock, as in the events, save `Session.began`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.errors import Failure
from pal.records import Label, Sample

BY_HAND: Final = -1
"""The oracle of labels that none of the campaign's oracles has made."""


@dataclass(frozen=True, slots=True)
class NewSample:
    """A candidate was proposed. It begins as queued; its moves follow as `StateChange`."""

    time: float
    candidate: Candidate
    sample: Sample


@dataclass(frozen=True, slots=True)
class StateChange:
    """A candidate moved. `attempts`: labels begun so far; None leaves the number as it is.

    A labelled sample stays labelled, whatever comes after; its history keeps the move.
    """

    time: float
    sample: int
    state: State
    detail: str = ""
    attempts: int | None = None


@dataclass(frozen=True, slots=True)
class NewLabel:
    """An oracle returned a label; the sample is labelled with the same commit.

    `seconds` is the time the oracle took.
    """

    time: float
    sample: int
    label: Label
    oracle: int
    host: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FailureEntry:
    """A kernel failed."""

    time: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class Metric:
    """One look at the campaign, e.g. `Snapshot.as_dict()`; anything JSON can hold."""

    time: float
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """A remark that belongs to the campaign, e.g. kind "evaluation" with JSON as text."""

    time: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class GrantedTotal:
    """The exchange was granted so many candidates since the campaign started."""

    time: float
    total: int


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """`pal run` began to work on this campaign. `settings` is JSON.

    `began` is the wall clock, seconds since 1970; `time` is the campaign's clock.
    """

    time: float
    began: float
    host: str
    pid: int
    version: str
    settings: str


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The newest session ended in good order."""

    time: float
    reason: str


Entry: TypeAlias = (
    NewSample
    | StateChange
    | NewLabel
    | FailureEntry
    | Metric
    | Note
    | GrantedTotal
    | SessionStarted
    | SessionEnded
)


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit did. The numbers are samples.

    `labels`: newly labelled. `repeated`: a sample or label that the ledger already had; the
    first one stays and nothing is counted twice. `unknown`: a label or a move of a sample the
    ledger never saw; it is not kept, and whoever sent it has a fault.
    """

    labels: tuple[int, ...]
    repeated: tuple[int, ...]
    unknown: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A candidate without its arrays. `created`: when it was proposed."""

    candidate: Candidate
    state: State
    attempts: int
    created: float


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A label without its arrays. `seq` counts commits of labels; it grows with time."""

    seq: int
    sample: int
    oracle: int
    host: str
    seconds: float
    time: float


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One thing that happened to a sample."""

    time: float
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Session:
    """One `pal run`. `end` is None while it runs, and for ever if it was killed."""

    number: int
    start: float
    end: float | None
    began: float
    host: str
    pid: int
    version: str
    settings: str
    reason: str
