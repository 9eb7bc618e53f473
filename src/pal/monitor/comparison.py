"""Campaigns side by side: how many labels does each strategy need for the same error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.summary import Summary


@dataclass(frozen=True, slots=True)
class CampaignData:
    """One campaign to compare. Those of the same `name` differ by their `seed` only.

    `summary` and `snapshots` tell how its time went; `serial`: one stage after the other.
    """

    name: str
    evaluations: Sequence[Evaluation]
    seed: int = 0
    summary: Summary | None = None
    snapshots: Sequence[Snapshot] = ()
    serial: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """The campaigns of one name together.

    `labels`, `mean`, `low` and `high` are float arrays (k,): mean, smallest and largest error
    over the seeds, at numbers of labels that all seeds have reached. `finals` and `spent` hold
    each seed's last error and last number of labels.
    """

    name: str
    unit: str
    labels: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    finals: tuple[float, ...]
    spent: tuple[int, ...]

    def labels_until(self, error: float) -> float | None:
        """Return how many labels the mean needs to fall to `error`; None where it never does.

        Between two evaluations the error is taken as linear in the number of labels.
        """
        below = np.flatnonzero(self.mean <= error)
        if not below.size:
            return None
        last = int(below[0])
        if last == 0:
            return float(self.labels[0])
        pair = slice(last - 1, last + 1)
        return float(np.interp(-error, -self.mean[pair], self.labels[pair]))


def last_versions(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return one evaluation per number of labels, in their order.

    Several versions of the weights may have seen the same labels; the last one counts.
    """
    ordered = sorted(evaluations, key=lambda item: item.version)
    last = {item.labels: item for item in ordered if np.isfinite(item.error)}
    return [last[count] for count in sorted(last)]


def curve(evaluations: Sequence[Evaluation]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return numbers of labels and errors, float arrays (k,), in the order of the labels."""
    rows = last_versions(evaluations)
    labels = np.array([row.labels for row in rows], dtype=float)
    return labels, np.array([row.error for row in rows], dtype=float)


def bands(campaigns: Sequence[CampaignData]) -> list[Band]:
    """Join the campaigns by their names, in order of appearance; leave out unmeasured ones."""
    grouped: dict[str, list[CampaignData]] = {}
    for campaign in campaigns:
        if curve(campaign.evaluations)[0].size:
            grouped.setdefault(campaign.name, []).append(campaign)
    return [_band(name, seeds) for name, seeds in grouped.items()]


def _band(name: str, campaigns: Sequence[CampaignData]) -> Band:
    curves = [curve(campaign.evaluations) for campaign in campaigns]
    start = max(labels[0] for labels, _ in curves)
    end = min(labels[-1] for labels, _ in curves)
    union = np.unique(np.concatenate([labels for labels, _ in curves]))
    grid = union[(union >= start) & (union <= end)]
    errors = np.array([np.interp(grid, labels, error) for labels, error in curves])
    return Band(
        name=name,
        unit=campaigns[0].evaluations[-1].unit,
        labels=grid,
        mean=errors.mean(axis=0),
        low=errors.min(axis=0),
        high=errors.max(axis=0),
        finals=tuple(float(error[-1]) for _, error in curves),
        spent=tuple(int(labels[-1]) for labels, _ in curves),
    )


def common_error(found: Sequence[Band]) -> float | None:
    """Return the smallest error that the mean of every band reaches; None without bands."""
    reached = [float(band.mean.min()) for band in found if band.mean.size]
    return max(reached) if len(reached) == len(found) and reached else None


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of two float arrays (n,); NaN where undefined.

    Pearson's correlation of the ranks, ties sharing their mean rank (C. Spearman,
    Am. J. Psychol. 15, 72 (1904)).
    """
    ranks = np.array([_ranks(first), _ranks(second)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = float(np.sqrt((ranks**2).sum(axis=1).prod()))
    return float((ranks[0] * ranks[1]).sum() / norm) if norm else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(shared[inverse], dtype=np.float64)
