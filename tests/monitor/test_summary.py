import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.summary import Summary, mean_utilisation, render, summarise

SNAPSHOTS = [
    Snapshot(time=10.0, utilisation={"oracle": 1.0}),
    Snapshot(
        time=40.0,
        samples=5000,
        labelled=300,
        failed=2,
        dropped=13,
        epochs=1204,
        version=14,
        restarts=1,
        utilisation={"oracle": 0.5, "training": 1.0},
        totals={"oracle": 75.0, "training": 25.0},
    ),
]
EVALUATIONS = [
    Evaluation(labels=0, version=0, error=812.0, rmse=1000.0, unit="meV/Å"),
    Evaluation(labels=300, version=14, error=121.0, rmse=160.0, unit="meV/Å", errors=(1.0,) * 200),
]


def made() -> Summary:
    return summarise(
        name="proton [red]",
        directory="/data/run",
        reason="300 labels reached",
        snapshots=SNAPSHOTS,
        evaluations=EVALUATIONS,
        quantity="forces",
        messages=["sample 7 was quarantined"],
        files={"report.html": "plots and tables"},
    )


def shown(summary: Summary, width: int = 80) -> str:
    console = Console(file=io.StringIO(), force_terminal=False, width=width)
    render(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_verdict_names_the_change_of_the_error() -> None:
    assert made().verdict == (
        "Force error on 200 held-out samples: 812 → 121 meV/Å (6.7 times smaller)"
    )


def test_render_tells_cost_time_and_files() -> None:
    text = shown(made())
    for part in (
        "proton [red] ended: 300 labels reached",
        "6.7 times smaller",
        "300 labels (2 failed, 13 candidates dropped)",
        "5,000 samples",
        "1,204 epochs, 14 weight updates, 40 s of wall time",
        "1 worker restarted",
        "75 %",
        "sample 7 was quarantined",
        "/data/run",
        "report.html",
    ):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_quarantined_and_rejected_samples_are_told_where_there_are_some() -> None:
    ill = replace(SNAPSHOTS[-1], failed=5, quarantined=3, rejected=1_717)
    summary = summarise(name="x", directory="run", reason="stopped", snapshots=[ill])
    text = " ".join(shown(summary).split())
    assert "300 labels (2 failed, 3 under quarantine, 13 candidates dropped)" in text
    assert "5,000 samples explored (1,717 rejected as unphysical)" in text
    assert summary.as_dict()["rejected"] == 1_717


def test_a_campaign_that_did_nothing_still_has_a_summary() -> None:
    summary = summarise(name="x", directory="run", reason="stopped", snapshots=[])
    assert summary.verdict == ""
    assert "x ended: stopped" in shown(summary)


def test_utilisation_weighs_each_snapshot_with_its_time_span() -> None:
    mean = mean_utilisation(SNAPSHOTS)
    assert mean["oracle"] == pytest.approx((10 * 1.0 + 30 * 0.5) / 40)
    assert mean["training"] == pytest.approx(30 / 40)
    assert mean_utilisation([Snapshot(time=0.0, utilisation={"oracle": 1.0})]) == {"oracle": 0.0}


def test_as_dict_is_valid_json_even_with_nan() -> None:
    summary = Summary("x", "run", "stopped", error_before=math.nan, error_after=math.inf)
    data = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert data["error_before"] is None
    assert data["reason"] == "stopped"
