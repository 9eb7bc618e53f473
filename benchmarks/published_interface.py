"""Rounds of kernels written for the published interface beside the same kernels written for PAL.

Kernels that do nothing, 20 walkers x 2 members and 89 x 4, a process for each walker and pooled:
what is left is the program's own time. Run `python benchmarks/published_interface.py`; it prints
the time of a round less the kernels' own calls (measured in a plain loop), and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pal.compat import modules
from pal.compat.settings import check, native
from pal.records import Batch, Feedback, Prediction
from pal.roles import Context
from pal.settings import merged
from pal.testing.bench import CASES, Case, campaign, machine, mean_round
from pal.testing.noop import Constant, Content, Still

PLACES: Mapping[str, Mapping[str, Any]] = {
    "a process per walker": {"hosts": "each"},
    "pooled in two hosts": {"hosts": 2},
}

GENERATOR = """
import numpy as np
class UserGene:
    def __init__(self, rank, result_dir):
        self.data = np.random.default_rng(rank).normal(size={out})
    def generate_new_data(self, data_to_gene):
        return False, self.data
"""
MODEL = """
import numpy as np
class UserModel:
    def __init__(self, rank, result_dir, i_device, mode):
        self.answers = list(np.random.default_rng(rank).normal(size=(1024, {back})))
    def predict(self, list_data_to_pred):
        return self.answers[: len(list_data_to_pred)]
    def update(self, weight_array):
        pass
    def get_weight_size(self):
        return 1
"""
UTILS = """
def prediction_check(list_data_to_pred, list_data_to_gene):
    return [], [predictions[0] for predictions in list_data_to_gene]
"""


def published(case: Case, folder: Path, place: Mapping[str, Any]) -> dict[str, Any]:
    """Write the users' files and return the campaign's settings."""
    texts = {"generator": GENERATOR, "model": MODEL, "utils": UTILS}
    for name, text in texts.items():
        filled = text.format(out=case.out, back=case.back) if name != "utils" else text
        (folder / f"{name}.py").write_text(filled)
    given = {
        "result_dir": str(folder / "results"),
        "pred_process": case.members,
        "gene_process": case.walkers,
        "usr_pkg": {name: str(folder / f"{name}.py") for name in texts},
    }
    data = native(check(given, folder / "al_setting.py"))
    own = {f"generator.{name}": value for name, value in place.items()}
    return merged(data, {**own, "model.predictors": 1})


def of_published(case: Case, folder: Path) -> float:
    """Median seconds of the users' own calls in a round, in a plain loop."""
    published(case, folder, {})
    make_gene = modules.member(folder / "generator.py", "UserGene")
    make_model = modules.member(folder / "model.py", "UserModel")
    look = modules.member(folder / "utils.py", "prediction_check")
    genes = [make_gene(rank, "") for rank in range(case.walkers)]
    models = [make_model(rank, "", 0, "predict") for rank in range(case.members)]
    heard: Sequence[Any] = [None] * case.walkers

    def calls() -> float:
        nonlocal heard
        start = time.perf_counter()
        inputs = [gene.generate_new_data(x)[1] for gene, x in zip(genes, heard, strict=True)]
        found = [model.predict(inputs) for model in models]
        middle = time.perf_counter()
        stacked = list(np.stack([np.stack(rows) for rows in found], axis=1))
        again = time.perf_counter()
        _, heard = look(inputs, stacked)
        return middle - start + time.perf_counter() - again

    return statistics.median(calls() for _ in range(2000))


def of_native(case: Case) -> float:
    """The same for PAL's own kernels that do nothing."""

    def context(index: int) -> Context:
        return Context("loop", index, 1, index, Path())

    walkers = [Still(context(index), case.out) for index in range(case.walkers)]
    members = [Constant(context(index), case.back) for index in range(case.members)]
    selector, empty = Content(), np.zeros(1)
    feedback = Feedback(empty, empty, 0.0, True, 0)

    def calls() -> float:
        start = time.perf_counter()
        samples = [walker.step(feedback) for walker in walkers]
        middle = time.perf_counter()
        batch = Batch.stacked(np.stack(samples))
        again = time.perf_counter()
        rows = [member.predict(batch) for member in members]
        third = time.perf_counter()
        prediction = Prediction([], Batch.stacked(rows[0]), Batch.stacked(rows[0]))
        last = time.perf_counter()
        selector.select(batch, prediction)
        return middle - start + third - again + time.perf_counter() - last

    return statistics.median(calls() for _ in range(2000))


_OWN = ("name", "directory", "stop")
"""Sections that the measurement sets itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for every case and placement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each campaign")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; medians count")
    given = parser.parse_args(argv)
    print(f"Machine: {machine()}\n")
    print("| case | placement | published: rounds/s | native: rounds/s | own time: ratio |")
    print("|---|---|---|---|---|")
    for case in CASES:
        for name, place in PLACES.items():
            rows = [_compared(case, place, given.seconds) for _ in range(given.repeats)]
            one, other, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
            print(
                f"| {case} | {name} | {1 / one:,.0f} | {1 / other:,.0f} | {ratio:.2f} |",
                flush=True,
            )
    return 0


def _compared(case: Case, place: Mapping[str, Any], seconds: float) -> tuple[float, float, float]:
    """Seconds of a round of either, and the ratio of the program's own part."""
    with tempfile.TemporaryDirectory() as folder:
        settings = published(case, Path(folder), place)
        plain = {name: value for name, value in settings.items() if name not in _OWN}
        one = mean_round(plain, case.walkers, seconds)
        own = of_published(case, Path(folder))
    other = mean_round(campaign(case, place), case.walkers, seconds)
    return one, other, (one - own) / (other - of_native(case))


if __name__ == "__main__":
    raise SystemExit(main())
