"""The report of a campaign as one HTML file to keep or to send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from pal.errors import Failure
from pal.monitor import page, plots
from pal.monitor.figures import write_figures
from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.summary import BUSY_COLUMNS, Summary, busy_rows
from pal.monitor.text import duration, error_name, figure, improvement, plural, with_unit

SHOWN_FAILURES: Final = 200
"""Failures written out in the report; the ledger has them all."""

_NO_PLOTS = (
    "This report has no plots, because matplotlib is not installed. "
    "Install it with: pip install 'pal[report]'. Then write the report again."
)


def write_report(
    path: Path,
    *,
    summary: Summary,
    snapshots: Sequence[Snapshot],
    evaluations: Sequence[Evaluation],
    settings: Mapping[str, Any],
    failures: Sequence[Failure],
    labels: Sequence[Sequence[float]],
) -> Path:
    """Write the report of one campaign, its plots as files beside it, and return its path.

    Each entry of `labels` begins with the campaign time (s) at which the label came.
    Without matplotlib the report has its tables and says how to get the plots.
    """
    drawn = _plots(summary, snapshots, evaluations, labels)
    body = "".join(
        [
            _header(summary),
            without_plots(),
            page.section("What the models learned", _learning(evaluations, drawn)),
            page.section("How the campaign ran", _course(summary, drawn)),
            page.section("Failures", _failures(failures)),
            page.section("Settings", _settings(settings)),
        ]
    )
    write_figures(path.parent, drawn)
    return write_page(path, page.page(summary.name, body))


def _plots(
    summary: Summary,
    snapshots: Sequence[Snapshot],
    evaluations: Sequence[Evaluation],
    labels: Sequence[Sequence[float]],
) -> dict[str, str]:
    if not plots.available():
        return {}
    drawn = {
        "exploration": plots.exploration(snapshots),
        "labelling": plots.labelling(snapshots, labels),
        "utilisation": plots.utilisation(snapshots),
    }
    if evaluations:
        drawn["learning"] = plots.learning(evaluations, summary.quantity)
        drawn["calibration"] = plots.calibration(evaluations[-1], summary.quantity)
    return drawn


def without_plots() -> str:
    """Say what is missing where matplotlib is; nothing where it is there."""
    return "" if plots.available() else page.paragraph(_NO_PLOTS, "quiet")


def write_page(path: Path, text: str) -> Path:
    """Write a page, and return its path."""
    # Text from kernels may hold bytes that no encoding accepts; a report must not fail on it.
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def _header(summary: Summary) -> str:
    return (
        f"<header><h1>{escape(summary.name)}</h1>\n"
        + page.paragraph(f"Ended: {summary.reason}. Directory: {summary.directory}", "quiet")
        + page.paragraph(summary.verdict, "lead")
        + f'<div class="tiles">\n{"".join(_tiles(summary))}</div>\n'
        + page.bullets(summary.messages)
        + "</header>\n"
    )


def _tiles(summary: Summary) -> Iterator[str]:
    if summary.error_before is not None and summary.error_after is not None:
        yield page.tile(
            error_name(summary.quantity),
            figure(summary.error_after),
            unit=summary.unit,
            note=improvement(summary.error_before, summary.error_after),
            good=summary.error_after < summary.error_before,
        )
    lost = f"{summary.failed:,} failed, {summary.dropped:,} dropped"
    yield page.tile("Labels", f"{summary.labels:,}", note=lost)
    rate = summary.samples / summary.wall if summary.wall else 0.0
    yield page.tile("Samples", f"{summary.samples:,}", note=f"{figure(rate)} per second")
    updates = plural(summary.version, "weight update")
    yield page.tile("Epochs", f"{summary.epochs:,}", note=updates)
    yield page.tile("Time", duration(summary.wall), note=plural(summary.restarts, "restart"))


def _learning(evaluations: Sequence[Evaluation], drawn: Mapping[str, str]) -> str:
    if not evaluations:
        return page.paragraph(
            "Not measured: name held-out data in evaluation.data to see the error here.", "quiet"
        )
    pictures = page.figures(
        page.figure(
            "Error and uncertainty against labels",
            drawn.get("learning", ""),
            "Errors of the committee's mean on held-out data, for the last weights "
            "at each number of labels.",
        ),
        page.figure(
            "Is the uncertainty right?",
            drawn.get("calibration", ""),
            "Each point is a held-out sample, judged by the last weights. Above the dashed "
            "line the committee is too sure, below it too careful.",
        ),
    )
    return pictures + page.details("Every evaluation", _evaluation_table(evaluations))


def _evaluation_table(evaluations: Sequence[Evaluation]) -> str:
    unit = evaluations[-1].unit
    columns = (
        "Weights",
        "labels",
        with_unit("mean absolute error", unit),
        with_unit("root mean square error", unit),
    )
    rows = [
        (f"version {item.version:,}", f"{item.labels:,}", figure(item.error), figure(item.rmse))
        for item in evaluations
    ]
    return page.table(columns, rows, numbers=3)


def _course(summary: Summary, drawn: Mapping[str, str]) -> str:
    pictures = page.figures(
        page.figure("Exploration", drawn.get("exploration", "")),
        page.figure("Labels and queue", drawn.get("labelling", "")),
        page.figure(
            "Busy share of each kernel (%)",
            drawn.get("utilisation", ""),
            "The part of the time in which the processes of a kernel were at work.",
            wide=True,
        ),
    )
    rows = busy_rows(summary)
    times = page.table(BUSY_COLUMNS, rows, numbers=3) if rows else ""
    return (pictures + times) or page.paragraph("Nothing was recorded.", "quiet")


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return page.paragraph("None.", "quiet")
    kinds = Counter(failure.kind for failure in failures).most_common()
    counts = ", ".join(f"{number:,} {kind}" for kind, number in kinds)
    columns = ("Where", "host", "sample", "kind", "message")
    shown = failures[-SHOWN_FAILURES:]
    rows = [_failure_row(failure) for failure in shown]
    body = page.table(columns, rows)
    if len(shown) < len(failures):
        body += page.paragraph(
            f"The last {len(shown):,} of {len(failures):,}; the ledger has all.", "quiet"
        )
    return page.details(f"{plural(len(failures), 'failure')}: {counts}", body + _traces(shown))


def _failure_row(failure: Failure) -> tuple[str, ...]:
    sample = "" if failure.sample is None else str(failure.sample)
    where = f"{failure.role} {failure.index}"
    return where, failure.host, sample, failure.kind, failure.message


def _traces(failures: Sequence[Failure]) -> str:
    """Show each traceback once: a broken kernel fails in the same way every time."""
    traces = Counter(failure.traceback.strip() for failure in failures if failure.traceback)
    return "".join(
        page.details(f"Traceback ({plural(number, 'time')})", page.preformatted(trace))
        for trace, number in traces.most_common(20)
    )


def _settings(settings: Mapping[str, Any]) -> str:
    rows = list(_flat(settings))
    if not rows:
        return ""
    return page.details(plural(len(rows), "setting"), page.table(("Setting", "value"), rows))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
