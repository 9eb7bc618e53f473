"""The report of a campaign, and of several side by side, as one HTML file to keep or to send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from pal.errors import Failure
from pal.monitor import page, plots
from pal.monitor.comparison import Band, CampaignData, bands, common_error
from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.summary import BUSY_COLUMNS, Summary, busy_rows
from pal.monitor.text import duration, error_name, figure, improvement, plural, times, with_unit

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
    others: Sequence[CampaignData] = (),
) -> Path:
    """Write the report of one campaign and return its path.

    Each entry of `labels` begins with the campaign time (s) at which the label came.
    `others` are campaigns to compare with, for instance the same one with random selection.
    Without matplotlib the report has its tables and says how to get the plots.
    """
    drawing = plots.available()
    compared = [CampaignData(summary.name, evaluations), *others] if others else []
    body = "".join(
        [
            _header(summary),
            "" if drawing else page.paragraph(_NO_PLOTS, "quiet"),
            page.section("What the models learned", _learning(summary, evaluations, drawing)),
            page.section("Compared", _comparison(compared, summary.quantity, drawing)),
            page.section("How the campaign ran", _course(summary, snapshots, labels, drawing)),
            page.section("Failures", _failures(failures)),
            page.section("Settings", _settings(settings)),
        ]
    )
    return _write(path, page.page(summary.name, body))


def write_comparison(
    path: Path,
    campaigns: Sequence[CampaignData],
    *,
    title: str = "Campaigns compared",
    quantity: str = "",
) -> Path:
    """Write a page that compares campaigns, grouped by name over their seeds."""
    drawing = plots.available()
    body = f"<header><h1>{escape(title)}</h1></header>\n"
    body += "" if drawing else page.paragraph(_NO_PLOTS, "quiet")
    content = _comparison(campaigns, quantity, drawing)
    body += content or page.paragraph("None of the campaigns has been evaluated.", "quiet")
    return _write(path, page.page(title, body))


def _write(path: Path, text: str) -> Path:
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


def _learning(summary: Summary, evaluations: Sequence[Evaluation], drawing: bool) -> str:
    if not evaluations:
        return page.paragraph(
            "Not measured: name held-out data in evaluation.data to see the error here.", "quiet"
        )
    pictures = ""
    if drawing:
        pictures = page.figures(
            page.figure(
                "Error and uncertainty against labels",
                plots.learning(evaluations, summary.quantity),
                "Errors of the committee's mean on held-out data, for the last weights "
                "at each number of labels.",
            ),
            page.figure(
                "Is the uncertainty right?",
                plots.calibration(evaluations[-1], summary.quantity),
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


def _course(
    summary: Summary,
    snapshots: Sequence[Snapshot],
    labels: Sequence[Sequence[float]],
    drawing: bool,
) -> str:
    pictures = ""
    if drawing:
        pictures = page.figures(
            page.figure("Exploration", plots.exploration(snapshots)),
            page.figure("Labels and queue", plots.labelling(snapshots, labels)),
            page.figure(
                "Busy share of each kernel (%)",
                plots.utilisation(snapshots),
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


def _comparison(campaigns: Sequence[CampaignData], quantity: str, drawing: bool) -> str:
    found = bands(campaigns)
    if not found:
        return ""
    target = common_error(found)
    lead = page.paragraph(_saving(found, target), "lead")
    picture = ""
    if drawing:
        picture = page.figures(
            page.figure(
                "Error against labels",
                plots.comparison(found, quantity),
                "Lines are means over the seeds, shades the range from the best to the worst.",
                wide=True,
            )
        )
    return lead + picture + _comparison_table(found, target)


def _saving(found: Sequence[Band], target: float | None) -> str:
    """Say in one sentence what the best strategy saves against each other one."""
    if target is None or len(found) < 2:
        return ""
    needs = sorted((band.labels_until(target) or 0.0, band.name) for band in found)
    (least, best), rest = needs[0], needs[1:]
    if least <= 0:
        return ""
    others = ", ".join(
        f"{times(need / least)} fewer than {name} ({need:,.0f})" for need, name in rest
    )
    unit = found[0].unit
    goal = f"{figure(target)} {unit}".strip()
    return f"{best} reaches {goal} with {least:,.0f} labels: {others}."


def _comparison_table(found: Sequence[Band], target: float | None) -> str:
    unit = found[0].unit
    columns = [
        "Campaign",
        "seeds",
        "labels",
        with_unit("final error", unit),
        with_unit("best to worst", unit),
    ]
    if target is not None:
        columns.append(f"labels until {figure(target)} {unit}".strip())
    rows = [_comparison_row(band, target) for band in found]
    return page.table(columns, rows, numbers=len(columns) - 1)


def _comparison_row(band: Band, target: float | None) -> list[str]:
    low, high = min(band.finals), max(band.finals)
    fewest, most = min(band.spent), max(band.spent)
    row = [
        band.name,
        f"{len(band.finals):,}",
        f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}",
        figure(sum(band.finals) / len(band.finals)),
        f"{figure(low)} to {figure(high)}",
    ]
    if target is not None:
        needed = band.labels_until(target)
        row.append("-" if needed is None else f"{needed:,.0f}")
    return row
