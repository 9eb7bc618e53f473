"""What agent and workers say to each other on their channels, outside the hot loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pal.errors import Failure
from pal.monitor.metrics import Evaluation
from pal.records import Label, LabelledSample, Metrics, Sample, Weights


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has built its kernels and works from now on.

    `hears_labels`: its selector wants to hear of every label.
    """

    seconds: float
    hears_labels: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A kernel failed. `fatal`: the worker ends now."""

    failure: Failure
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A walker or a trainer asks for the end of the campaign."""

    reason: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """Samples that the exchange offers for labelling."""

    samples: Sequence[Sample]
    walkers: Sequence[int]
    uncertainty: Sequence[float]
    version: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The exchange may propose so many candidates in all."""

    total: int


@dataclass(frozen=True, slots=True)
class SetExploring:
    """Let the walkers move, or hold them."""

    on: bool


@dataclass(frozen=True, slots=True)
class NewWeights:
    """Weights of some members. From a trainer `version` is 0; the session numbers them."""

    members: Mapping[int, Weights]
    version: int = 0
    epochs: int = 0


@dataclass(frozen=True, slots=True)
class Installed:
    """The predictor uses this version from now on."""

    version: int


@dataclass(frozen=True, slots=True)
class Distrusted:
    """A member with the weights of this version has predicted nothing but NaN from the first.

    `good`: the last weights that did not, if there are some.
    """

    member: int
    version: int
    good: Weights | None = None


@dataclass(frozen=True, slots=True)
class RankSamples:
    """Judge these queued samples with the newest models."""

    identities: Sequence[int]
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answer: identities kept, most urgent first, and every sample's uncertainty."""

    identities: Sequence[int]
    order: Sequence[int]
    uncertainty: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class NewLabels:
    """Labels that no weights sent so far were trained on, for a selector that learns."""

    items: Sequence[LabelledSample]


@dataclass(frozen=True, slots=True)
class LabelTask:
    """Label this sample, as this oracle: a worker may be several."""

    oracle: int
    identity: int
    sample: Sample
    attempt: int


@dataclass(frozen=True, slots=True)
class LabelDone:
    """The label of a sample, after so many seconds; `host` unless it is the agent's."""

    oracle: int
    identity: int
    label: Label
    seconds: float
    host: str = ""


@dataclass(frozen=True, slots=True)
class LabelRefused:
    """The oracle could not label a sample; the worker lives on."""

    oracle: int
    identity: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class OracleFree:
    """An oracle beyond the job can take a sample."""

    oracle: int


@dataclass(frozen=True, slots=True)
class OracleDown:
    """An oracle beyond the job died, or was killed, with the sample it worked on."""

    oracle: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class DropLabel:
    """Nobody waits for this oracle's label any more."""

    oracle: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """New data for a trainer, which starts a round of training with them."""

    round: int
    add: Sequence[LabelledSample]
    remove: Sequence[int]
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class EndRound:
    """Leave the present round of training after its epoch."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A trainer's members finished an epoch; one metrics per member."""

    metrics: Sequence[Metrics]


@dataclass(frozen=True, slots=True)
class RoundDone:
    """A trainer has nothing more to learn in this round, or was told to end it."""

    round: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Save your state and end."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The evaluator's answer."""

    evaluations: Sequence[Evaluation]
