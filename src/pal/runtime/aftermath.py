"""After the end: judge the models, export the dataset, write summary and report."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from pal.errors import LedgerError
from pal.ledger.directory import write_atomically
from pal.ledger.export import export_extxyz, export_npz
from pal.ledger.ledger import Ledger
from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.report import write_report
from pal.monitor.summary import Summary, summarise
from pal.runtime.agent import Agent, Died, Left, Said
from pal.runtime.messages import Evaluated
from pal.runtime.orders import Job
from pal.runtime.placement import device_of, specs
from pal.runtime.session import Session
from pal.runtime.weights import facts, stored
from pal.settings import Settings, dump

_PATIENCE = 600.0
_MOST = 40


def conclude(session: Session) -> Summary:
    """Write all that is of use after a session, and return the campaign's summary.

    At the end of a batch job there is no time for more than the summary; `pal export` writes the
    dataset whenever it is wanted, and the last job all the rest.
    """
    directory, settings = session.directory, session.settings
    hasty = session.outcome is not None and session.outcome.hasty
    messages: list[str] = []
    files: dict[str, str] = {directory.ledger.name: "every sample and label with its history"}
    evaluations: list[Evaluation] = []
    if settings.evaluation.data is not None and settings.model.train and not hasty:
        evaluations = _evaluate(session, messages)
    if stored(directory.models):
        files["models/"] = "weights, one folder for each stored version"
    with Ledger.open_readonly(directory.path) as ledger:
        snapshots = [Snapshot(**metric.values) for metric in ledger.metrics()]
        failures = [entry.failure for entry in ledger.failures()]
        labels = [(row.time, float(row.sample)) for row in ledger.label_rows()]
        if not hasty:
            files |= export(ledger, directory.path)
    if not hasty:
        files["report.html"] = "plots and figures, in one file"
        files["figures/"] = "its plots, an SVG file each"
    summary = summarise(
        name=settings.name,
        directory=directory.path,
        reason=session.outcome.reason if session.outcome else "",
        snapshots=snapshots,
        evaluations=evaluations,
        quantity=settings.evaluation.field,
        messages=messages,
        files=files,
    )
    write_atomically(
        directory.path / "summary.json",
        json.dumps(
            {**summary.as_dict(), "evaluations": [e.as_dict() for e in evaluations]}, indent=1
        ).encode(),
    )
    if hasty:
        return summary
    try:
        write_report(
            directory.path / "report.html",
            summary=summary,
            snapshots=snapshots,
            evaluations=evaluations,
            settings=dump(settings),
            failures=failures,
            labels=labels,
        )
    except Exception as error:
        session_note = f"the report could not be written: {type(error).__name__}: {error}"
        messages.append(session_note)
    return summary


def export(ledger: Ledger, folder: Path) -> dict[str, str]:
    """Write the dataset as extxyz where it is atoms, as npz otherwise; say what was written."""
    if not ledger.labelled_ids():
        return {}
    try:
        count = export_extxyz(ledger, folder / "dataset.extxyz")
        return {"dataset.extxyz": f"{count} labelled geometries"}
    except LedgerError:
        count = export_npz(ledger, folder / "dataset.npz")
        return {"dataset.npz": f"{count} labelled samples"}


def chosen(folders: list[Path]) -> list[Path]:
    """Of all stored weights, choose some that spread evenly over the labels, ends included."""
    labels: dict[Path, int] = {}
    for folder in folders:
        with contextlib.suppress(LedgerError):  # a damaged one is left out
            labels[folder] = int(facts(folder)["labels"])
    newest = {count: folder for folder, count in labels.items()}
    first = {count: folder for folder, count in list(labels.items())[:1]}
    kept = sorted({**newest, **first}.items())
    if len(kept) > _MOST:
        step = (len(kept) - 1) / (_MOST - 1)
        kept = [kept[round(index * step)] for index in range(_MOST)]
    return [folder for _, folder in kept]


def _evaluate(session: Session, messages: list[str]) -> list[Evaluation]:
    """Judge stored weights on the held-out data, in a process of its own."""
    folders = chosen(stored(session.directory.models))
    if not folders:
        messages.append("no weights were stored, so there is nothing to evaluate")
        return []
    settings: Settings = session.settings
    job = Job(
        "evaluator",
        0,
        specs(settings, session.paths),
        session.directory.path,
        settings.seed,
        session.home,
        threads=settings.model.threads,
        device=device_of(settings.model.device, 0),
        members=tuple(range(settings.model.members)),
        member_count=settings.model.members,
        extra={"evaluation": settings.evaluation, "folders": [str(f) for f in folders]},
    )
    return _run_evaluator(job, messages)


def _run_evaluator(job: Job, messages: list[str]) -> list[Evaluation]:
    agent = Agent(budget=0)
    agent.open()
    try:
        agent.start([job])
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for news in agent.poll(1.0):
                if isinstance(news, Said) and isinstance(news.message, Evaluated):
                    return list(news.message.evaluations)
                if isinstance(news, Died):
                    messages.append(f"the evaluation failed: {news.failure.message}")
                    return []
                if isinstance(news, Left):
                    return []
        messages.append(f"the evaluation took longer than {_PATIENCE:.0f} s and was ended")
        return []
    finally:
        agent.close(patience=1.0)
