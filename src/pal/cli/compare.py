"""The command that runs a campaign in several ways and puts them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pal.cli.arguments import Overrides, overrides, read
from pal.cli.campaign import show
from pal.errors import SettingsError

if TYPE_CHECKING:
    from pal.monitor.comparison import CampaignData
    from pal.runtime.compare import Contender


def compare(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]SETTINGS...",
            help="Settings files, each with the name under which it is shown; "
            "by default the file's.",
        ),
    ],
    seeds: Annotated[
        int, typer.Option(min=1, help="Campaigns of each, which differ by their seed.")
    ] = 1,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where all is written. Default: run-compare, beside the first file."),
    ] = None,
    changes: Overrides = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only warnings, errors and the result.")
    ] = False,
) -> None:
    """Run a campaign in several ways, each with several seeds, and put them side by side.

    Active against random selection, parallel against serial, one model against another: each way
    is a settings file, which best says `extends = "pal.toml"` and what differs. What --set says
    holds for all of them. Writes report.html, comparison.json and figures/. Interrupted, the
    same command goes on where it stood.
    """
    from pal.runtime.compare import Comparison

    contenders = [_contender(text, changes) for text in files]
    place = folder or contenders[0].home / "run-compare"
    comparison = Comparison(contenders, seeds, place)
    console = Console()
    finished = 0
    for name, summary in comparison.run(lambda settings: show(settings, quiet)):
        if summary is None:
            console.rule(name)
        else:
            finished += 1
    results = list(comparison.results())
    path = comparison.write(f"{contenders[0].settings.name}: compared", results)
    _present(console, results)
    console.print(f"\n{path}", soft_wrap=True)
    if finished < seeds * len(contenders):
        console.print("interrupted; the same command goes on where it stood")
        raise typer.Exit(130)


def _contender(text: str, changes: list[str] | None) -> Contender:
    from pal.runtime.compare import Contender

    name, sign, file = text.rpartition("=")
    path = Path(file)
    name = name if sign else path.stem
    if not name or "/" in name:
        raise SettingsError(f"{text}: expected NAME=SETTINGS, such as active=pal.toml")
    found = read(path, overrides(changes))
    return Contender(name, found.settings, found.home)


def _present(console: Console, results: Sequence[CampaignData]) -> None:
    """Print a line for each campaign, and what they are beside each other."""
    from pal.monitor.comparison_report import saving_text, speedup_text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(("Campaign", "seed", "labels", "error", "", "wall time")):
        table.add_column(column, justify="right" if number else "left")
    for campaign in results:
        table.add_row(*_row(campaign))
    console.print()
    console.print(table)
    for text in (saving_text(results), speedup_text(results)):
        if text:
            console.print(f"\n{text}", highlight=False)


def _row(campaign: CampaignData) -> tuple[str, ...]:
    from pal.monitor.text import duration, figure

    summary = campaign.summary
    assert summary is not None
    ends = (summary.error_before, summary.error_after)
    before, after = ("-" if error is None else figure(error) for error in ends)
    return (
        campaign.name,
        str(campaign.seed),
        f"{summary.labels:,}",
        f"{before} → {after}",
        summary.unit,
        duration(summary.wall),
    )
