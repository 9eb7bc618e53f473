"""The paper's speedup of parallel over serial active learning (its SI, S2), measured.

    python benchmarks/speedup.py

Each use case of S2.2 with its times scaled to seconds. One iteration is N labels by P oracles,
one training on them, and one stretch of exploration; serial does them one after the other,
parallel at the same time. S = (N/P t_oracle + t_train + t_gen) / max(N/P t_oracle, t_train,
t_gen), equation (4) of the SI.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pal.monitor.speedup import Stages
from pal.records import Dataset, Metrics
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.testing.bench import machine
from pal.testing.noop import Constant, Content, Sleeper, Still

EPOCHS = 20
REPEATS = 3


@dataclass(frozen=True)
class UseCase:
    """Times in seconds: of a label, of a training, of an exploration that finds N samples."""

    name: str
    labels: int
    oracles: int
    oracle: float
    train: float
    explore: float
    iterations: int

    @property
    def formula(self) -> float:
        label = self.labels / self.oracles * self.oracle
        return Stages(label, self.train, self.explore).speedup


CASES = [
    UseCase("1: DFT, GNN, MD; oracle and training balanced, P = N", 4, 4, 2.0, 2.0, 0.02, 6),
    UseCase("2: xTB, GNN, saddle search; training dominates", 4, 4, 0.006, 2.16, 0.36, 6),
    UseCase("3: CFD, CNN, particle swarm; all three balanced, P = N", 4, 4, 2.0, 2.0, 2.0, 6),
]


class Silent:
    """Shows nothing."""

    def update(self, snapshot: Any) -> None: ...
    def message(self, text: str, level: str = "info") -> None: ...
    def close(self) -> None: ...


class Timed(Constant):
    """A member that notes the time at which each epoch begins."""

    def __init__(self, context: Context, log: str, **options: Any) -> None:
        super().__init__(context, **options)
        self._log = Path(log) if context.index == 0 else None

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        for metrics in super().train(dataset):
            if self._log is not None:
                with self._log.open("a") as file:
                    file.write(f"{time.monotonic()}\n")
            yield metrics


def settings(case: UseCase, mode: str) -> dict[str, Any]:
    """Walkers that need `explore` seconds for the N samples; every sample becomes a candidate."""
    return {
        "mode": mode,
        "generator": {
            "kernel": Still,
            "walkers": case.labels,
            "options": {"size": 3, "delay": case.explore},
        },
        "model": {
            "kernel": Timed,
            "members": 2,
            "weights_every": EPOCHS,
            "options": {"size": 1, "epochs": EPOCHS, "epoch": case.train / EPOCHS / 2},
        },
        "oracle": {
            "kernel": Sleeper,
            "workers": case.oracles,
            "options": {"seconds": case.oracle},
        },
        "selector": {"kernel": Content, "options": {"wanted": case.labels}},
        "exchange": {"batching": "all"},
        "queue": {"capacity": 2 * case.labels},
        "training": {"retrain_size": case.labels},
    }


def iteration_time(case: UseCase, mode: str) -> float:
    """Seconds of one iteration: the time in which the epochs of one training pass."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = settings(case, mode)
        wanted["model"]["options"]["log"] = f"{folder}/epochs"
        Campaign(
            directory=f"{folder}/run", stop={"epochs": EPOCHS * (case.iterations + 2)}, **wanted
        ).run(Silent())
        times = [float(line) for line in Path(f"{folder}/epochs").read_text().split()]
    marks = times[EPOCHS - 1 :: EPOCHS]
    return (marks[case.iterations] - marks[1]) / (case.iterations - 1)


def main() -> None:
    print(f"Machine: {machine()}\n")
    print("| use case of S2.2 | serial, s | parallel, s | measured | formula | reached |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        pairs = [
            (iteration_time(case, "serial"), iteration_time(case, "parallel"))
            for _ in range(REPEATS)
        ]
        serial = statistics.median(s for s, _ in pairs)
        parallel = statistics.median(p for _, p in pairs)
        speedup = statistics.median(s / p for s, p in pairs)
        print(
            f"| {case.name} | {serial:.2f} | {parallel:.2f} | {speedup:.2f} | "
            f"{case.formula:.2f} | {speedup / case.formula:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
