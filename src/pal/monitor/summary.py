"""The end of a campaign in a few lines: what became better, what it cost, where time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.text import (
    duration,
    error_name,
    figure,
    finite,
    heading,
    improvement,
    kernels,
    percent,
    plural,
)


@dataclass(frozen=True, slots=True)
class Summary:
    """A campaign after its end; counts are totals over all its sessions.

    `wall`: seconds of active campaign time. `utilisation`: busy fraction of each kernel's
    processes over the whole campaign; `busy`: busy seconds per kernel, summed over its
    processes. `error_before` and `error_after`: mean absolute error of the first and the last
    weights on `held_out` samples, of the label's `quantity`, in `unit`; None without held-out
    data. `files`: what was written into the directory, name and meaning.
    """

    name: str
    directory: str
    reason: str
    wall: float = 0.0
    samples: int = 0
    skipped: int = 0
    rejected: int = 0
    labels: int = 0
    failed: int = 0
    quarantined: int = 0
    dropped: int = 0
    epochs: int = 0
    version: int = 0
    restarts: int = 0
    utilisation: Mapping[str, float] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)
    error_before: float | None = None
    error_after: float | None = None
    quantity: str = ""
    unit: str = ""
    held_out: int = 0
    messages: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become None."""
        data: dict[str, Any] = finite(asdict(self))
        return data

    @property
    def verdict(self) -> str:
        """The change of the error in one line; empty without held-out data."""
        if self.error_before is None or self.error_after is None:
            return ""
        data = f"{self.held_out:,} held-out samples" if self.held_out else "held-out data"
        change = improvement(self.error_before, self.error_after)
        values = f"{figure(self.error_before)} → {figure(self.error_after)} {self.unit}".strip()
        line = f"{error_name(self.quantity)} on {data}: {values}"
        return f"{line} ({change})" if change else line


def summarise(
    *,
    name: str,
    directory: Path | str,
    reason: str,
    snapshots: Sequence[Snapshot],
    evaluations: Sequence[Evaluation] = (),
    quantity: str = "",
    messages: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> Summary:
    """Make the summary from the campaign's snapshots and evaluations, in order of time."""
    last = snapshots[-1] if snapshots else Snapshot(time=0.0)
    first, final = (evaluations[0], evaluations[-1]) if evaluations else (None, None)
    return Summary(
        name=name,
        directory=str(directory),
        reason=reason,
        wall=last.time,
        samples=last.samples,
        skipped=last.skipped,
        rejected=last.rejected,
        labels=last.labelled,
        failed=last.failed,
        quarantined=last.quarantined,
        dropped=last.dropped,
        epochs=last.epochs,
        version=last.version,
        restarts=last.restarts,
        utilisation=mean_utilisation(snapshots),
        busy=dict(last.totals),
        error_before=first.error if first else None,
        error_after=final.error if final else None,
        quantity=quantity,
        unit=final.unit if final else "",
        held_out=len(final.errors) if final else 0,
        messages=tuple(messages),
        files=dict(files or {}),
    )


def mean_utilisation(snapshots: Sequence[Snapshot]) -> dict[str, float]:
    """Return the busy fraction per kernel over the campaign.

    Each snapshot counts with the time since the one before, for that is what it measured.
    """
    names = kernels(*(snapshot.utilisation for snapshot in snapshots))
    spans = np.diff([0.0, *(snapshot.time for snapshot in snapshots)]).clip(min=0)
    total = float(spans.sum())
    if not total:
        return dict.fromkeys(names, 0.0)
    return {
        name: float(sum(
            span * snapshot.utilisation.get(name, 0.0)
            for span, snapshot in zip(spans, snapshots, strict=True)
        ) / total)
        for name in names
    }  # fmt: skip


def render(summary: Summary, console: Console) -> None:
    """Print the summary for people."""
    console.print()
    console.print(Text.assemble((summary.name, "bold"), f" ended: {summary.reason}"))
    lines = [Text(summary.verdict, style="bold green")] if summary.verdict else []
    lines += [Text(line) for line in _facts(summary)]
    for line in lines:
        console.print(Padding(line, (0, 0, 0, 2)))
    if summary.busy:
        console.print()
        console.print(Padding(_time_table(summary), (0, 0, 0, 2)))
    if summary.messages:
        console.print()
    for message in summary.messages:
        console.print(Padding(Text(message, style="yellow"), (0, 0, 0, 2)))
    console.print()
    console.print(Text(f"  Files in {summary.directory}"), soft_wrap=True)
    if summary.files:
        console.print(Padding(_file_table(summary), (0, 0, 0, 4)))


def _facts(summary: Summary) -> list[str]:
    labels = plural(summary.labels, "label")
    lost = [
        f"{number:,} {what}"
        for number, what in (
            (summary.failed - summary.quarantined, "failed"),
            (summary.quarantined, "under quarantine"),
            (summary.dropped, "candidates dropped"),
        )
        if number
    ]
    if lost:
        labels += f" ({', '.join(lost)})"
    work = f"{plural(summary.samples, 'sample')} explored"
    if summary.rejected:
        work += f" ({summary.rejected:,} rejected as unphysical)"
    training = f"{plural(summary.epochs, 'epoch')}, {plural(summary.version, 'weight update')}"
    facts = [f"{labels}, {work}", f"{training}, {duration(summary.wall)} of wall time"]
    if summary.restarts:
        facts.append(f"{plural(summary.restarts, 'worker')} restarted after a failure")
    return facts


def busy_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Return the table of time: kernel, busy time, share of all busy time, utilisation."""
    total = sum(summary.busy.values())
    return [
        (
            heading(name),
            duration(summary.busy.get(name, 0.0)),
            percent(summary.busy.get(name, 0.0) / total) if total else "-",
            percent(summary.utilisation[name]) if name in summary.utilisation else "-",
        )
        for name in kernels(summary.busy, summary.utilisation)
    ]


BUSY_COLUMNS = ("Where the time went", "busy", "share", "utilisation")


def _time_table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(BUSY_COLUMNS[0])
    for column in BUSY_COLUMNS[1:]:
        table.add_column(column, justify="right")
    for row in busy_rows(summary):
        table.add_row(*row)
    return table


def _file_table(summary: Summary) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, meaning in summary.files.items():
        table.add_row(Text(name), Text(meaning, style="dim"))
    return table
