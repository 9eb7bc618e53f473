"""One look at a running campaign, as status, ledger, terminal and report share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The campaign at one moment. Counts are totals over all sessions of the campaign.

    `time` is in seconds of active campaign time (sessions joined, pauses between them left
    out). `rate` is samples per second, `uncertain_fraction` the share of uncertain samples,
    both since the last snapshot. `utilisation` maps each kernel ("prediction", "generator",
    "oracle", "training") to the busy fraction of its processes since the last snapshot.
    """

    time: float
    phase: str = "starting"
    rounds: int = 0
    samples: int = 0
    rate: float = 0.0
    uncertain: int = 0
    uncertain_fraction: float = 0.0
    uncertainty: float = 0.0
    """Mean uncertainty of the samples since the last snapshot."""
    skipped: int = 0
    rejected: int = 0
    """Unphysical samples, for which no oracle was asked."""
    queued: int = 0
    running: int = 0
    labelled: int = 0
    failed: int = 0
    """Samples that ended without a label, those under quarantine among them."""
    quarantined: int = 0
    """Of these, how many killed their oracles."""
    dropped: int = 0
    epochs: int = 0
    loss: float | None = None
    version: int = 0
    restarts: int = 0
    utilisation: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)
    """Busy seconds per kernel since the campaign's start, summed over its processes."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One version of the committee on held-out data.

    `labels`: labelled samples when these weights were stored. `error`: mean absolute error of
    the committee's mean, in `unit`; `rmse` likewise. `uncertainty` and `errors`: per held-out
    sample, the selector's uncertainty and the sample's own largest error per atom or row.
    """

    labels: int
    version: int
    error: float
    rmse: float
    unit: str
    uncertainty: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
