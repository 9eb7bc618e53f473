"""The evaluator: judges stored weights on held-out data once the campaign has ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pal.building import build_committee
from pal.errors import LedgerError, SettingsError
from pal.exchange.reduction import reduce
from pal.ledger.export import read_labelled
from pal.monitor.metrics import Evaluation
from pal.records import Array, Batch, LabelledSample, Prediction, as_members, named
from pal.roles import Committee, Selector
from pal.runtime.messages import Evaluated
from pal.runtime.weights import facts, fetch
from pal.runtime.worker import Desktop
from pal.sections import EvaluationSettings

_BATCH = 64


def predict(committee: Committee, members: int, samples: Batch) -> list[Prediction]:
    """Predict in batches that fit into memory."""
    predictions = []
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        labels = as_members(committee.predict(part), members, len(part), "the committee")
        predictions.append(reduce(labels))
    return predictions


def largest_row(difference: Array) -> float:
    """Return the largest norm over rows (atoms), or the largest value where there are no rows."""
    if difference.ndim > 1:
        return float(np.linalg.norm(difference, axis=-1).max())
    return float(np.abs(difference).max(initial=0.0))


def judge(
    predictions: list[Prediction],
    data: list[LabelledSample],
    selector: Selector,
    wanted: EvaluationSettings,
    noted: dict[str, float],
) -> Evaluation:
    """Compare the committee's mean with the labels."""
    differences: list[Array] = []
    uncertainty: list[float] = []
    position = 0
    for prediction in predictions:
        part = data[position : position + len(prediction.mean)]
        position += len(part)
        samples = Batch([item.sample for item in part])
        uncertainty.extend(selector.select(samples, prediction).uncertainty.tolist())
        for mean, item in zip(prediction.mean, part, strict=True):
            label = named(item.label)
            if wanted.field not in label:
                raise SettingsError(
                    f"evaluation.field = {wanted.field!r} is not in the labels of "
                    f"{wanted.data}; they have {', '.join(label)}"
                )
            differences.append(np.asarray(named(mean)[wanted.field] - label[wanted.field]))
    everything = np.concatenate([d.reshape(-1) for d in differences])
    scale = wanted.scale
    return Evaluation(
        labels=int(noted["labels"]),
        version=int(noted["version"]),
        error=float(np.abs(everything).mean() * scale),
        rmse=float(np.sqrt((everything**2).mean()) * scale),
        unit=wanted.unit,
        uncertainty=tuple(value * scale for value in uncertainty),
        errors=tuple(largest_row(d) * scale for d in differences),
    )


def run(desk: Desktop) -> None:
    """Judge every stored version named in the job, then end."""
    job = desk.job
    wanted: EvaluationSettings = job.extra["evaluation"]
    assert wanted.data is not None
    contexts = [desk.context("model", member, job.member_count) for member in job.members]
    committee = build_committee(job.kernels["model"], contexts, training=False)
    selector: Selector = job.kernels["selector"].build(desk.context("selector", 0, 1))
    desk.ready()
    data = list(read_labelled(wanted.data))
    samples = Batch([item.sample for item in data])
    evaluations = []
    for folder in map(Path, job.extra["folders"]):
        try:
            members = fetch(folder)
        except LedgerError as error:
            print(f"left out: {error}")
            continue
        for member, weights in members.items():
            committee.set_weights(member, weights)
        predictions = predict(committee, job.member_count, samples)
        evaluations.append(judge(predictions, data, selector, wanted, facts(folder)))
    desk.channel.send(Evaluated(evaluations))
    desk.channel.flush()
