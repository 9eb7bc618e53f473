"""Several campaigns side by side, as one HTML file, and as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from pal.monitor import page, plots
from pal.monitor.comparison import Band, CampaignData, bands, common_error
from pal.monitor.figures import write_figures
from pal.monitor.report import without_plots, write_page
from pal.monitor.speedup import Stages
from pal.monitor.summary import Summary
from pal.monitor.text import duration, figure, finite, times, with_unit

_BANDS: Final = "Lines are means over the seeds, shades the range from the best to the worst."


def write_comparison(
    path: Path,
    campaigns: Sequence[CampaignData],
    *,
    title: str = "Campaigns compared",
    quantity: str = "",
) -> Path:
    """Write a page that compares campaigns, grouped by name over their seeds.

    Its plots are written as files beside it, too.
    """
    found = bands(campaigns)
    shown = _first_of_each(campaigns)
    drawn: dict[str, str] = {}
    if plots.available():
        drawn["comparison"] = plots.comparison(found, quantity)
        for campaign in shown:
            drawn[f"utilisation-{campaign.name}"] = plots.utilisation(campaign.snapshots)
    body = "".join(
        [
            f"<header><h1>{escape(title)}</h1></header>\n",
            without_plots(),
            _learned(found, drawn),
            page.section("How long it took", _took(campaigns)),
            page.section("Busy share of each kernel (%)", _busy(shown, drawn)),
        ]
    )
    write_figures(path.parent, drawn)
    return write_page(path, page.page(title, body))


def compared(campaigns: Sequence[CampaignData]) -> dict[str, Any]:
    """Return the figures of the page as plain data for JSON."""
    found = bands(campaigns)
    target = common_error(found)
    data = {
        "common_error": target,
        "speedup": _speedup(campaigns),
        "campaigns": [
            {
                "name": band.name,
                "unit": band.unit,
                "labels": band.spent,
                "errors": band.finals,
                "labels_until_common_error": None if target is None else band.labels_until(target),
                "wall": [s.wall for s in _summaries(campaigns, band.name)],
                "utilisation": [s.utilisation for s in _summaries(campaigns, band.name)],
                "curve": {"labels": band.labels.tolist(), "error": band.mean.tolist()},
            }
            for band in found
        ],
    }
    result: dict[str, Any] = finite(data)
    return result


def _first_of_each(campaigns: Sequence[CampaignData]) -> list[CampaignData]:
    return list({campaign.name: campaign for campaign in reversed(campaigns)}.values())[::-1]


def _summaries(campaigns: Sequence[CampaignData], name: str) -> list[Summary]:
    return [c.summary for c in campaigns if c.name == name and c.summary is not None]


def _learned(found: Sequence[Band], drawn: Mapping[str, str]) -> str:
    if not found:
        return page.paragraph("None of the campaigns has been evaluated.", "quiet")
    target = common_error(found)
    picture = page.figures(
        page.figure("Error against labels", drawn.get("comparison", ""), _BANDS, wide=True)
    )
    lead = page.paragraph(_saving(found, target), "lead")
    return lead + picture + _comparison_table(found, target)


def _took(campaigns: Sequence[CampaignData]) -> str:
    names = [campaign.name for campaign in _first_of_each(campaigns)]
    rows = list(_time_rows(campaigns, names))
    if not rows:
        return ""
    columns = ("Campaign", "labels", "wall time", "samples", "oracle", "training", "exploration")
    caption = "Medians over the seeds. The last three: how long each kernel's processes were busy."
    return (
        page.paragraph(speedup_text(campaigns), "lead")
        + page.table(columns, rows, numbers=len(columns) - 1)
        + page.paragraph(caption, "quiet")
    )


def _time_rows(
    campaigns: Sequence[CampaignData], names: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    for name in names:
        if summaries := _summaries(campaigns, name):
            stages = [Stages.of(summary) for summary in summaries]
            yield (
                name,
                f"{statistics.median(s.labels for s in summaries):,.0f}",
                duration(statistics.median(s.wall for s in summaries)),
                f"{statistics.median(s.samples for s in summaries):,.0f}",
                duration(statistics.median(s.label for s in stages)),
                duration(statistics.median(s.train for s in stages)),
                duration(statistics.median(s.explore for s in stages)),
            )


def _speedup(campaigns: Sequence[CampaignData]) -> dict[str, Any] | None:
    """Compare the first parallel campaigns with the first serial ones, where there are both."""
    sides: dict[bool, list[Summary]] = {}
    names: dict[bool, str] = {}
    for campaign in campaigns:
        names.setdefault(campaign.serial, campaign.name)
        if campaign.summary is not None and campaign.name == names[campaign.serial]:
            sides.setdefault(campaign.serial, []).append(campaign.summary)
    if not (sides.get(False) and sides.get(True)):
        return None
    parallel, serial = (
        statistics.median(summary.wall for summary in sides[side]) for side in (False, True)
    )
    formula = statistics.median(Stages.of(summary).speedup for summary in sides[True])
    return {
        "parallel": names[False],
        "serial": names[True],
        "parallel_s": parallel,
        "serial_s": serial,
        "measured": serial / parallel if parallel else float("nan"),
        "formula": formula,
    }


def speedup_text(campaigns: Sequence[CampaignData]) -> str:
    """Say what doing everything at once saved; empty without a parallel and a serial campaign."""
    found = _speedup(campaigns)
    if found is None:
        return ""
    return (
        f"{found['parallel']} took {duration(found['parallel_s'])}, and {found['serial']}, one "
        f"stage after the other, {duration(found['serial_s'])}: a speedup of "
        f"{found['measured']:.2f}. The paper's formula with the serial stages' own times, each on "
        f"processors of its own, gives {found['formula']:.2f}."
    )


def _busy(shown: Sequence[CampaignData], drawn: Mapping[str, str]) -> str:
    return page.figures(
        *(
            page.figure(campaign.name, drawn.get(f"utilisation-{campaign.name}", ""), wide=True)
            for campaign in shown
        )
    )


def saving_text(campaigns: Sequence[CampaignData]) -> str:
    """Say in one sentence what the best way saves; empty where nothing can be said."""
    found = bands(campaigns)
    return _saving(found, common_error(found))


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
