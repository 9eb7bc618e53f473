"""`pal compare`: several ways to run a campaign, put side by side, and gone on with."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

SERIAL = 'extends = "pal.toml"\nmode = "serial"\n'
FEW = ("--set", "stop.labels=25", "--set", "oracle.options.seconds=0.01")


def test_ways_to_run_a_campaign_are_put_side_by_side(project: Any) -> None:
    (project.folder / "serial.toml").write_text(SERIAL)
    command = ("compare", "parallel=pal.toml", "serial.toml", "--quiet", *FEW)
    done = project.pal(*command)
    assert done.returncode == 0, done.stderr
    assert "a speedup of" in done.stdout
    folder = project.folder / "run-compare"
    data = json.loads((folder / "comparison.json").read_text())
    assert [item["name"] for item in data["campaigns"]] == ["parallel", "serial"]
    assert all(item["labels"][0] >= 25 for item in data["campaigns"])
    assert data["speedup"]["serial"] == "serial"
    assert (folder / "report.html").is_file()
    assert (folder / "figures" / "comparison.svg").is_file()
    before = (folder / "parallel-0" / "ledger.sqlite").stat().st_mtime_ns
    again = project.pal(*command)
    assert again.returncode == 0, again.stderr
    assert "seed 0 ─" not in again.stdout, "nothing is run a second time"
    assert (folder / "parallel-0" / "ledger.sqlite").stat().st_mtime_ns == before


def test_an_interrupted_comparison_goes_on_where_it_stood(project: Any) -> None:
    """The second campaign never ends by itself; what counts is that it, and it only, goes on."""
    command = ("compare", "pal.toml", "small.toml", "--set", "oracle.options.seconds=0.01")
    folder = project.folder / "run-compare"
    begun: list[list[str]] = []
    for _ in range(2):
        process = project.popen(*command)
        begun.append([])
        for line in process.stdout:
            if ", seed 0" in line:
                begun[-1].append(line.strip("─ \n"))
            if "running" in line and "small" in begun[-1][-1]:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "the same command goes on where it stood" in output
        marks = [json.loads((folder / f"{n}-0.json").read_text()) for n in ("pal", "small")]
        assert [mark["ended"] for mark in marks] == [True, False]
    small = "toy landscape, small, seed 0"
    assert begun == [["toy landscape, pal, seed 0", small], [small]]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("pal.toml", "pal.toml"), "two campaigns to compare are named 'pal'"),
        (("=pal.toml",), "expected NAME=SETTINGS"),
        (("none.toml",), "cannot read settings file none.toml"),
    ],
)
def test_mistakes_are_told_before_anything_runs(project: Any, files: Any, told: str) -> None:
    done = project.pal("compare", *files)
    assert done.returncode != 0
    assert told in " ".join(done.stderr.split())
    assert not (project.folder / "run-compare").exists()


def test_names_with_a_dot_keep_their_seeds_apart(project: Any) -> None:
    """A campaign's mark lies beside its directory, under the whole of its name."""
    done = project.pal("compare", "v1.5=pal.toml", "--seeds", "2", "--quiet", *FEW)
    assert done.returncode == 0, done.stderr
    folder = project.folder / "run-compare"
    assert {path.name for path in folder.glob("v*.json")} == {"v1.5-0.json", "v1.5-1.json"}
