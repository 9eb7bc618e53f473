"""The sections of the settings: what each may hold, with units and defaults.

Durations are seconds, or text such as "90 s", "15 min", "2 h", "3 d".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _quantity(value: Any, units: Mapping[str, float]) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.]+(?:e[-+]?\d+)?)\s*([A-Za-z]*)\s*", value)
    if not match or (match[2] and match[2] not in units):
        raise ValueError(f"cannot read {value!r}; write a number and one of: {', '.join(units)}")
    return float(match[1]) * units[match[2]] if match[2] else float(match[1])


def _seconds(value: Any) -> Any:
    return _quantity(value, _UNITS)


def seconds(text: str) -> float:
    """Read a duration as the settings do: 90, "90 s", "15min", "2 h".

    Raises:
        ValueError: it is none.
    """
    return float(_seconds(text))


def _bytes(value: Any) -> Any:
    number = _quantity(value, _BYTES)
    return int(number) if isinstance(number, float) else number


Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
Bytes: TypeAlias = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Count: TypeAlias = Annotated[int, Field(ge=0)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError("expected [smallest, largest]")
    return bounds


Bounds: TypeAlias = dict[str, Annotated[tuple[float, float], AfterValidator(_ordered)]]
Devices: TypeAlias = str | Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """A part of the settings: unknown keys are refused, and nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class Kernel(Section):
    """Which code plays a role, and how."""

    kernel: Any = Field(description="'package.module:Class', a short name, or a Python object")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the kernel")
    threads: PositiveInt = Field(default=1, description="threads per process")


class GeneratorSettings(Kernel):
    """The explorers."""

    walkers: PositiveInt = Field(default=1, description="number of trajectories")
    hosts: PositiveInt | Literal["each"] = Field(
        default="each", description="processes that run them; 'each': one process per walker"
    )
    placement: Literal["hosts", "committee"] = Field(
        default="hosts",
        description="'committee': walkers live in the committee's process (tight coupling)",
    )
    deadline: Seconds | None = Field(
        default=None,
        description="longest time for one step; its process is then killed and started again",
    )
    restarts: Count | None = Field(
        default=None, description="instead of `restart.budget`: of a host, and of a walker"
    )


class ModelSettings(Kernel):
    """The committee, predicting and training."""

    members: PositiveInt = Field(default=4, description="models compared for disagreement")
    predictors: PositiveInt = Field(
        default=1, description="processes that predict; 1: the exchange holds the whole committee"
    )
    trainers: PositiveInt = Field(default=1, description="processes that train")
    replicas: PositiveInt | None = Field(
        default=None,
        description="nodes that hold the committee, each a shard with walkers of its own; "
        "none: every node that can",
    )
    train: bool = Field(default=True, description="False: pure simulation with given weights")
    weights: Path | None = Field(
        default=None, description="folder with member-<k>.npz to start from"
    )
    weights_every: PositiveInt = Field(
        default=10, description="epochs between two transfers of weights to the predictors"
    )
    reinitialise_every: Count = Field(
        default=0, description="rounds of training after which weights start anew; 0: never"
    )
    device: Devices = Field(
        default="cpu",
        description="of the predictors: 'cpu', 'cuda' (any of the node's), 'cuda:0,1' (in turn), "
        "a list, one for each predictor, or 'all': every device is there, and the model chooses",
    )
    train_device: Devices = Field(default="cpu", description="of the trainers, as `device`")
    deadline: Seconds | None = Field(
        default=None,
        description="longest time for one prediction; whoever makes it is then killed and "
        "started again",
    )
    train_deadline: Seconds | None = Field(
        default=None, description="longest time for one epoch, likewise"
    )
    restarts: Count | None = Field(
        default=None,
        description="instead of `restart.budget`: of an exchange, a predictor and a trainer",
    )


class OracleSettings(Kernel):
    """Who labels."""

    enabled: bool = Field(default=True, description="False: no labels, walkers and models only")
    workers: Count = Field(
        default=1, description="labelling processes; may be 0 where there is an executor"
    )
    executor: Any = Field(
        default=None,
        description="who makes labels beyond the job: 'parsl', 'package.module:factory' of an "
        "executor like those of concurrent.futures, or such a factory or executor in Python",
    )
    executor_options: dict[str, Any] = Field(
        default_factory=dict, description="passed to the executor's factory"
    )
    outside: PositiveInt | None = Field(
        default=None, description="labels given to the executor at once; needed with one"
    )
    deadline: Seconds | None = Field(
        default=None, description="longest time for one label, without its wait for an executor"
    )
    memory: Bytes | None = Field(
        default=None,
        description="most memory of its own that one of a label's processes may take, e.g. "
        '"4 GiB"; of the workers in the job (Linux)',
    )
    retries: Count = Field(
        default=1,
        description="more tries after a crash, a deadline or an error; none after LabelFailure",
    )
    backoff: Seconds = Field(
        default=0.0,
        description="pause before a sample is tried again; doubled each time, up to 1 h",
    )
    restarts: Count | None = Field(
        default=None, description="instead of `restart.budget`: of an oracle, and of a broker"
    )
    pause_after: PositiveInt | None = Field(
        default=10,
        description="samples in a row without a label after which labelling pauses: the oracle "
        "is broken; none: never",
    )
    probe_after: Seconds = Field(
        default=60.0,
        description="pause before a single label is tried to see whether the oracle works again; "
        "doubled each time, up to 30 min",
    )
    bounds: Bounds = Field(
        default_factory=dict,
        description="for fields of the label the smallest and the largest value that any element "
        "may have, e.g. energy = [-1e6, 0]; a label outside is a failure, and never kept",
    )
    converged: str | None = Field(
        default=None,
        description="a field of the label that must be true, or the label is a failure; it is "
        "not kept, since it is the same in all labels",
    )
    grace: Seconds = Field(
        default=30.0, description="time running labels are given at the end, then requeued"
    )

    @property
    def places(self) -> int:
        """How many oracles there are, in the job and beyond."""
        return self.workers + (self.outside or 0)

    @model_validator(mode="after")
    def _somebody_labels(self) -> OracleSettings:
        if self.executor is None and (self.outside is not None or self.executor_options):
            key = "executor_options" if self.outside is None else "outside"
            raise ValueError(f"{key} is for an executor, and there is none: set executor")
        if self.executor is not None and self.outside is None:
            raise ValueError("the executor needs outside: how many labels it is given at once")
        if not self.places:
            raise ValueError("workers = 0 and no executor: nobody would label; set one of them")
        return self


class RejectSettings(Section):
    """Samples that are not physical: no oracle is asked for them, and no walker goes on there."""

    min_distance: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="two atoms nearer than this fraction of the sum of their covalent radii",
    )
    max_force: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="eV/Å; a larger component of the committee's mean forces"
    )
    bounds: Bounds = Field(
        default_factory=dict,
        description="for fields of the sample the smallest and the largest value that any element "
        "may have",
    )

    @property
    def options(self) -> dict[str, Any]:
        """What is set; nothing: no sample is rejected."""
        return {key: value for key, value in self.model_dump().items() if value}


class SelectorSettings(Kernel):
    """Which samples are worth a label."""

    kernel: Any = Field(default="deviation", description=Kernel.model_fields["kernel"].description)
    rerank: bool = Field(
        default=False, description="order the queue anew whenever new weights have come"
    )
    reject: RejectSettings = Field(default_factory=RejectSettings)


class ExchangeSettings(Section):
    """The hot loop between walkers and committee."""

    batching: Literal["all", "ready"] = Field(
        default="ready",
        description="'all': every living walker, deterministic; 'ready': whoever is ready",
    )
    max_size: PositiveInt | None = Field(default=None, description="largest batch; none: no limit")
    min_size: PositiveInt = Field(default=1, description="batch worth waiting for ('ready')")
    max_wait: Seconds = Field(default=0.01, description="longest wait for min_size ('ready')")
    slot_size: Bytes = Field(
        default=4 << 20, description="room per walker for a sample, and for its feedback"
    )
    nice: int = Field(
        default=0,
        ge=0,
        le=19,
        description="how far walkers and committee stand back where others want the same cores, "
        "as of the command nice: 0, not at all, to 19",
    )


class QueueSettings(Section):
    """The candidates that wait for an oracle."""

    capacity: PositiveInt = Field(default=100, description="most candidates waiting")
    when_full: Literal["drop_new", "drop_certain", "drop_old"] = Field(
        default="drop_certain",
        description="which candidate gives way: the new one, the least uncertain, the oldest",
    )


class TrainingSettings(Section):
    """What trainers learn from, and when."""

    retrain_size: PositiveInt = Field(
        default=10, description="new labels that interrupt training and start the next round"
    )
    window: PositiveInt | None = Field(
        default=None, description="rolling dataset: only the newest so many; none: all"
    )
    bootstrap: bool = Field(
        default=False, description="each member learns from its own resampling of the dataset"
    )


class InitialSettings(Section):
    """What is labelled before exploration starts."""

    kernel: Any = Field(default=None, description="callable that yields the first samples")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the callable")
    labels: Count | None = Field(
        default=None,
        description="labels that must be there, and trained on, before walkers start; "
        "none: all that `kernel` yields",
    )


class StopSettings(Section):
    """When the campaign ends by itself. The first rule met stops it."""

    after: Seconds | None = Field(default=None, description="wall time")
    labels: PositiveInt | None = Field(default=None, description="labels in the ledger")
    epochs: PositiveInt | None = Field(default=None, description="epochs of the busiest trainer")
    samples: PositiveInt | None = Field(default=None, description="samples the walkers made")
    quiet: Seconds | None = Field(default=None, description="no uncertain sample for so long")
    failures: PositiveInt | None = Field(
        default=20, description="failed labels in a row: the oracle is broken"
    )
    disk: Seconds = Field(
        default=600.0, description="time for which the disk may refuse to be written, e.g. full"
    )
    final_training: Seconds = Field(
        default=60.0, description="longest training on the last labels, after the stop"
    )
    before_end: Seconds = Field(
        default=120.0,
        description="in a batch job: time kept at its end, beside oracle.grace, to save and close",
    )


class RestartSettings(Section):
    """How often a dead worker is started again."""

    budget: Count = Field(default=10, description="restarts of one worker within an hour")
    delay: Seconds = Field(default=0.1, description="first pause; doubled each time, up to 30 s")
    silence: Annotated[Seconds, Field(ge=2)] = Field(
        default=30.0, description="an agent that says nothing for so long counts as lost"
    )


class PlacementSettings(Section):
    """Which node has how many of what, by hand: one number for each node, the head node first.

    Without numbers they are placed by the nodes' cores and devices.
    """

    prediction: tuple[Count, ...] | None = Field(
        default=None,
        description="predictor processes on each node, e.g. [1, 0]; 0: no committee there",
    )
    generator: tuple[Count, ...] | None = Field(
        default=None, description="walkers on each node; those without a committee use another's"
    )
    oracle: tuple[Count, ...] | None = Field(default=None, description="oracles on each node")
    training: tuple[Count, ...] | None = Field(default=None, description="trainers on each node")


class EvaluationSettings(Section):
    """How good the models became, judged after the campaign on data nobody trained on."""

    data: Path | None = Field(
        default=None, description="labelled samples (extxyz or npz), never used for training"
    )
    field: str = Field(default="forces", description="the label's name to compare")
    unit: str = Field(default="", description="unit of the error in reports")
    scale: float = Field(default=1.0, description="factor from the label's unit to `unit`")
