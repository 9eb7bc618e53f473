"""What the controller goes by: plain numbers, and what an earlier session left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pal.controller.events import Candidate

INITIAL: Final = -1
"""The walker of samples that were there before exploration began."""

LOSSES: Final = 5
"""How often a sample may lose its oracle through no fault that is known to be its own: beyond
the job, where blocks end when their time is up. The next loss counts as a failed try."""

WhenFull: TypeAlias = Literal["drop_new", "drop_certain", "drop_old"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a campaign is run. Times are seconds; None means no limit.

    `n_oracles` counts all oracles; those in `outside` are beyond the job and watch over the
    deadline themselves. `backoff` is the pause before a sample is tried again, doubled each time.
    After `pause_after` samples in a row that ended without a label, one label at a time is tried,
    `probe_after` later and ever more rarely, until one comes. `trainers` lists, for each trainer,
    the members it fits. `initial_labels` are needed before exploration starts. The stop rules
    have the names they have in the settings.
    """

    n_oracles: int = 1
    outside: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    """The node of each oracle at the start: what failed on one is tried on another first."""
    trainers: tuple[tuple[int, ...], ...] = ((0,),)
    oracle_deadline: float | None = None
    oracle_retries: int = 1
    backoff: float = 0.0
    pause_after: int | None = None
    probe_after: float = 60.0
    grace: float = 30.0
    queue_capacity: int = 100
    when_full: WhenFull = "drop_certain"
    retrain_size: int = 10
    window: int | None = None
    reinitialise_every: int = 0
    serial: bool = False
    labelling: bool = True
    training: bool = True
    rerank: bool = False
    initial_labels: int = 0
    after: float | None = None
    labels: int | None = None
    epochs: int | None = None
    samples: int | None = None
    quiet: float | None = None
    failures: int | None = 20
    final_training: float = 60.0


@dataclass(frozen=True, slots=True)
class Restored:
    """What earlier sessions of the campaign left.

    `queued` holds (candidate, attempts so far) in their order, the labels that were running
    when the session ended among them. `labelled` are sample numbers in the order of their
    commit. `epochs` is that of the busiest trainer, `elapsed` in seconds, and `proposed` the
    candidates the exchange has proposed; initial samples do not count in it.
    """

    queued: tuple[tuple[Candidate, int], ...] = ()
    labelled: tuple[int, ...] = ()
    samples: int = 0
    uncertain: int = 0
    epochs: int = 0
    elapsed: float = 0.0
    failed: int = 0
    quarantined: int = 0
    dropped: int = 0
    proposed: int = 0
