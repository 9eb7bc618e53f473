"""Active against random selection: the same campaign, the same number of labels.

    python examples/alanine/compare.py             # one seed, two campaigns
    python examples/alanine/compare.py --seeds 3   # the figure of benchmarks/README.md

Writes run-compare/report.html, and prints the errors on held-out geometries.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from pal.monitor.comparison import CampaignData
from pal.monitor.metrics import Evaluation
from pal.monitor.report import write_comparison
from pal.runtime.campaign import Campaign

HERE = Path(__file__).parent
SELECTORS = {"active": "deviation", "random": "random"}


def evaluations(directory: Path) -> list[Evaluation]:
    """Read a campaign's learning curve."""
    summary = json.loads((directory / "summary.json").read_text())
    return [
        Evaluation(**{**e, "uncertainty": tuple(e["uncertainty"]), "errors": tuple(e["errors"])})
        for e in summary["evaluations"]
    ]


def run(name: str, seed: int, labels: int | None, folder: Path, console: Console) -> CampaignData:
    """Run one campaign and return its learning curve."""
    directory = folder / f"{name}-{seed}"
    overrides: dict[str, Any] = {
        "name": f"alanine dipeptide, {name} selection, seed {seed}",
        "selector.kernel": SELECTORS[name],
        "seed": seed,
        "directory": str(directory.resolve()),
    }
    if labels is not None:
        overrides["stop.labels"] = labels
    console.rule(overrides["name"])
    Campaign.from_file(HERE / "pal.toml", fresh=True, overrides=overrides).run()
    return CampaignData(name, evaluations(directory), seed)


def main() -> None:
    """Run all campaigns and compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="campaigns of each kind")
    parser.add_argument("--labels", type=int, help="labels each may spend; default: as pal.toml")
    parser.add_argument("--folder", type=Path, default=HERE / "run-compare")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    done = [
        run(name, seed, given.labels, given.folder, console)
        for seed in range(given.seeds)
        for name in SELECTORS
    ]
    page = write_comparison(
        given.folder / "report.html",
        done,
        title="Alanine dipeptide: active against random selection",
        quantity="forces",
    )
    console.print("\n| selection | seed | labels | force error before | after, meV/Å |")
    console.print("|---|---|---|---|---|")
    for item in done:
        first, last = item.evaluations[0], item.evaluations[-1]
        console.print(
            f"| {item.name} | {item.seed} | {last.labels} | {first.error:.0f} | {last.error:.0f} |"
        )
    for name in SELECTORS:
        errors = [item.evaluations[-1].error for item in done if item.name == name]
        console.print(f"{name}: mean of {len(errors)}: {statistics.mean(errors):.0f} meV/Å")
    console.print(f"\n{page}")


if __name__ == "__main__":
    main()
