"""What the controller hears. Every event carries `time`, seconds on the campaign's own clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pal.errors import Failure

if TYPE_CHECKING:
    from pal.controller.commands import State
    from pal.controller.rules import Rules

Pausable: TypeAlias = Literal["generator", "oracle", "training"]
"""What the operator may hold: walkers, new labels, training."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample worth a label. The arrays stay outside the controller; `sample` is their number.

    `walker` is -1 for initial samples. `version` counts the weights that judged it.
    """

    sample: int
    walker: int
    version: int
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    time: float


@dataclass(frozen=True, slots=True)
class CandidatesProposed:
    """The exchange, or the initial sampler, offers samples for labelling."""

    time: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class OracleReady:
    """An oracle worker has started, or started again, and can take a sample."""

    time: float
    oracle: int


@dataclass(frozen=True, slots=True)
class OracleLost:
    """An oracle worker died, or was killed after its deadline; so did the label it worked on."""

    time: float
    oracle: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class LabelReturned:
    """An oracle answered. The label is not yet on disk: see `LabelsDurable`."""

    time: float
    oracle: int
    sample: int


@dataclass(frozen=True, slots=True)
class LabelFailed:
    """An oracle said no, or broke, and lives on."""

    time: float
    oracle: int
    sample: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class LabelsDurable:
    """These labels are on disk; now they may be acted upon."""

    time: float
    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainerReady:
    """A trainer worker has started, or started again; it knows no data yet."""

    time: float
    trainer: int


@dataclass(frozen=True, slots=True)
class TrainerLost:
    """A trainer worker died."""

    time: float
    trainer: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class EpochDone:
    """A trainer finished an epoch (each of its members did)."""

    time: float
    trainer: int


@dataclass(frozen=True, slots=True)
class TrainingDone:
    """A trainer has nothing more to learn from data round `round`, and waits for new data."""

    time: float
    trainer: int
    round: int
    version: int | None = None
    """The version its last weights got; None: not known, so the next one to come."""


@dataclass(frozen=True, slots=True)
class WeightsInstalled:
    """The predictors now use this version of the weights."""

    time: float
    version: int
    trained: bool
    """Whether every member has been trained at least once."""


@dataclass(frozen=True, slots=True)
class Explored:
    """What the exchange did since the last report."""

    time: float
    samples: int
    uncertain: int


@dataclass(frozen=True, slots=True)
class QueueRanked:
    """The selector's new order of the queue: samples kept, most urgent first; the rest drop."""

    time: float
    ranked: tuple[int, ...]
    order: tuple[int, ...]
    uncertainty: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A walker, a trainer, the operator or a signal asks for the end, in good order.

    Asked again, the end hurries, unless the request is `patient`: walkers and trainers ask one
    by one and more than once, and mean the end, not haste. `continued`: only the time of a batch
    job is up, and the next job goes on with the campaign.
    """

    time: float
    reason: str
    patient: bool = False
    continued: bool = False


@dataclass(frozen=True, slots=True)
class OracleRetired:
    """The operator wants one oracle less: this one goes as soon as it has no label to make."""

    time: float
    oracle: int


@dataclass(frozen=True, slots=True)
class SampleDropped:
    """The operator wants no label of this sample, which waits or is being labelled.

    `by`: who said so, in this and the following events, e.g. "anna@login1".
    """

    time: float
    sample: int
    by: str


@dataclass(frozen=True, slots=True)
class SampleRequeued:
    """The operator wants another label made: of a sample that ended without one, or is running.

    Whatever was held against it is forgotten. `ended`: how it ended, for a sample that did so in
    an earlier session, of which this one has not heard.
    """

    time: float
    candidate: Candidate
    by: str
    ended: State | None = None


@dataclass(frozen=True, slots=True)
class LabelGiven:
    """The operator brings the label of a sample that has none. It is not yet on disk.

    `ended`: as in `SampleRequeued`.
    """

    time: float
    candidate: Candidate
    by: str
    ended: State | None = None


@dataclass(frozen=True, slots=True)
class KernelPaused:
    """The operator holds a kernel (`on`), or lets it go on."""

    time: float
    kernel: Pausable
    on: bool
    by: str


@dataclass(frozen=True, slots=True)
class RulesChanged:
    """From now on the campaign goes by other rules; only those that may change live differ."""

    time: float
    rules: Rules


Event: TypeAlias = (
    Tick
    | CandidatesProposed
    | OracleReady
    | OracleLost
    | LabelReturned
    | LabelFailed
    | LabelsDurable
    | TrainerReady
    | TrainerLost
    | EpochDone
    | TrainingDone
    | WeightsInstalled
    | Explored
    | QueueRanked
    | StopRequested
    | OracleRetired
    | SampleDropped
    | SampleRequeued
    | LabelGiven
    | KernelPaused
    | RulesChanged
)
