"""What the paper expects of labelling, training and exploring at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pal.monitor.summary import Summary


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds that labelling, training and exploring take, each on its own."""

    label: float
    train: float
    explore: float

    @classmethod
    def of(cls, summary: Summary) -> Self:
        """Read them from a campaign: how long the processes of each kernel were busy.

        Walkers and committee take turns, so their times add up to the exploration's.
        """
        busy = {name: share * summary.wall for name, share in summary.utilisation.items()}
        explore = busy.get("generator", 0.0) + busy.get("prediction", 0.0)
        return cls(busy.get("oracle", 0.0), busy.get("training", 0.0), explore)

    @property
    def speedup(self) -> float:
        """How much faster all three are at the same time than one after the other.

        The sum of the stages divided by the longest: equation (4) of arXiv 2412.00401, SI S2,
        with `label` = N / P t_oracle. It takes for granted that each stage has processors of its
        own.
        """
        stages = (self.label, self.train, self.explore)
        return sum(stages) / max(stages) if max(stages) > 0 else 1.0
