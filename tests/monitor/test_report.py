import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pal.errors import Failure
from pal.monitor.comparison import CampaignData
from pal.monitor.comparison_report import compared, write_comparison
from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.report import SHOWN_FAILURES, write_report
from pal.monitor.speedup import Stages
from pal.monitor.summary import Summary, summarise

VOID = {"meta", "br", "hr", "img", "link", "input"}
EVIL = "<script>alert('&')</script>"


class Checker(HTMLParser):
    """Follows the tags: each opened one must be closed, in order; ids must be unique."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check(path: Path) -> Checker:
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http://" not in without_names
    assert "https://" not in without_names
    assert not re.search(r"url\((?!#)", without_names)
    assert not {"script", "link", "img", "iframe"} & set(checker.seen)
    return checker


def history(count: int) -> list[Snapshot]:
    busy = {"generator": 0.3, "prediction": 0.6, "oracle": 0.97, "training": 1.0}
    return [
        Snapshot(
            time=float(second),
            phase="exploring",
            samples=1000 * second,
            rate=1000 + 100 * math.sin(second),
            uncertain_fraction=0.3 * math.exp(-second / count),
            queued=second % 50,
            running=2,
            labelled=second // 10,
            utilisation=busy,
            totals={name: share * second for name, share in busy.items()},
        )
        for second in range(1, count + 1)
    ]


def evaluations(count: int = 6, samples: int = 100, scale: float = 800.0) -> list[Evaluation]:
    random = np.random.default_rng(0)
    errors = tuple(np.exp(random.normal(5, 0.5, samples)))
    uncertainty = tuple(np.exp(random.normal(5, 0.5, samples)))
    return [
        Evaluation(
            20 * (v + 1), v, scale / (v + 1), 1000.0 / (v + 1), "meV/Å", uncertainty, errors
        )
        for v in range(count)
    ]


def write(
    path: Path,
    *,
    name: str = "proton transfer",
    snapshots: Sequence[Snapshot] = (),
    measured: Sequence[Evaluation] = (),
    failures: Sequence[Failure] = (),
    labels: Sequence[tuple[float, ...]] = (),
    settings: dict[str, object] | None = None,
    summary: Summary | None = None,
) -> str:
    made = summary or summarise(
        name=name,
        directory="/data/run",
        reason="300 labels reached",
        snapshots=snapshots,
        evaluations=measured,
        quantity="forces",
    )
    write_report(
        path,
        summary=made,
        snapshots=snapshots,
        evaluations=measured,
        settings=settings or {},
        failures=failures,
        labels=labels,
    )
    return path.read_text(encoding="utf-8")


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    # An entry of None makes every import of the module raise ImportError.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_report_shows_every_part_and_is_self_contained(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(
        path,
        snapshots=history(300),
        measured=evaluations(),
        failures=[Failure("oracle", 1, "LabelFailure", "SCF not converged", "n1", 17, "Trace")],
        labels=[(float(time), 9.0) for time in range(0, 300, 10)],
        settings={"generator": {"kernel": "dynamics", "options": {"temperature": 600}}},
    )
    checker = check(path)
    assert checker.seen.count("svg") == 5
    for part in (
        "proton transfer",
        "Ended: 300 labels reached",
        "Force error on 100 held-out samples: 800 → 133 meV/Å (6 times smaller)",
        "What the models learned",
        "rank correlation",
        "Mean uncertainty of the same samples (meV/Å)",
        "How the campaign ran",
        "Exploration (samples/s)",
        "Candidates waiting and running",
        "Oracles, 97 % on average",
        "campaign time (min)",
        "SCF not converged",
        "Trace",
        "generator.options.temperature",
    ):
        assert part in checker.text, part


def test_text_of_users_is_escaped_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    unit = "<b>$x_{$"
    measured = [Evaluation(n, n, 9.0 / n, 9.0 / n, unit, (1.0, 2.0), (1.0, 2.0)) for n in (1, 2)]
    snapshots = [Snapshot(time=t, phase=EVIL, utilisation={EVIL: 0.5}) for t in (1.0, 2.0)]
    summary = Summary(
        EVIL, EVIL, EVIL, busy={EVIL: 1.0}, error_before=9.0, error_after=1.0, quantity=EVIL,
        unit=unit, messages=(EVIL,),
    )  # fmt: skip
    text = write(
        path,
        summary=summary,
        snapshots=snapshots,
        measured=measured,
        failures=[Failure(EVIL, 0, EVIL, EVIL, EVIL, 1, EVIL)],
        settings={EVIL: {EVIL: EVIL}},
    )
    check(path)
    assert "<script" not in text.lower()
    assert "<b>" not in text


def test_names_in_any_script_and_broken_text_are_written(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    broken = Failure("oracle", 0, "crash", "output \udcff of a program")
    write(path, name="主动学习", measured=evaluations(), failures=[broken])
    assert "主动学习" in check(path).text


def test_a_campaign_that_did_nothing_still_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(path)
    checker = check(path)
    assert "svg" not in checker.seen
    assert "evaluation.data" in checker.text
    assert "Nothing was recorded." in checker.text


@pytest.mark.parametrize(
    "measured",
    [
        [Evaluation(0, 0, 0.0, 0.0, "")],
        [Evaluation(10, 1, math.nan, math.nan, "eV")],
        [Evaluation(10, v, 5.0, 5.0, "eV", (0.0, math.nan), (1.0, 2.0)) for v in (1, 2)],
        [Evaluation(10, 1, 5.0, math.inf, "eV", (1.0, 1.0), (1.0, 1.0))],
    ],
)
def test_odd_numbers_do_not_break_the_report(tmp_path: Path, measured: list[Evaluation]) -> None:
    path = tmp_path / "report.html"
    snapshots = [Snapshot(time=0.0), Snapshot(time=0.0, rate=math.nan)]
    write(path, snapshots=snapshots, measured=measured)
    check(path)


def test_without_matplotlib_the_tables_stay_and_the_way_to_plots_is_told(
    tmp_path: Path, no_matplotlib: None
) -> None:
    path = tmp_path / "report.html"
    write(path, snapshots=history(30), measured=evaluations())
    checker = check(path)
    assert "svg" not in checker.seen
    assert "pip install 'pal[report]'" in checker.text
    assert "133" in checker.text
    assert "Oracles" in checker.text


def test_the_report_stays_small_however_long_the_campaign(tmp_path: Path) -> None:
    failures = [Failure("oracle", 0, "crash", "killed by signal 9", traceback="x" * 2000)] * 5000
    text = write(
        tmp_path / "report.html",
        snapshots=history(10_000),
        measured=evaluations(count=300, samples=5000),
        failures=failures,
        labels=[(float(second),) for second in range(10_000)],
    )
    assert len(text) < 1_000_000
    assert f"The last {SHOWN_FAILURES} of 5,000" in text


def test_the_same_campaign_gives_the_same_report(tmp_path: Path) -> None:
    pages = [
        write(tmp_path / f"{run}.html", snapshots=history(30), measured=evaluations())
        for run in range(2)
    ]
    assert pages[0] == pages[1]


def test_plots_take_their_colours_from_the_page(tmp_path: Path) -> None:
    text = write(tmp_path / "report.html", snapshots=history(30), measured=evaluations())
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "currentColor" in drawings
    assert "var(--series-1)" in drawings
    assert not re.search(r"#0[12]0[12]0", drawings)
    assert set(re.findall(r"(?<!url\()#[0-9a-f]{6}\b", drawings)) <= set()


def test_plots_are_files_beside_the_report_that_need_no_page(tmp_path: Path) -> None:
    write(tmp_path / "report.html", snapshots=history(30), measured=evaluations())
    files = sorted((tmp_path / "figures").iterdir())
    assert [file.stem for file in files] == [
        "calibration",
        "exploration",
        "labelling",
        "learning",
        "utilisation",
    ]
    for file in files:
        text = file.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "var(" not in text
        assert "currentColor" not in text
        assert 'fill="#ffffff"/>' in text


def campaign(name: str, seed: int, *, wall: int, serial: bool = False) -> CampaignData:
    """A campaign whose oracles worked half of the time, its trainer a quarter."""
    shares = {"oracle": 0.5, "training": 0.25, "prediction": 0.2, "generator": 0.05}
    snapshots = [replace(snapshot, utilisation=shares) for snapshot in history(wall)]
    summary = summarise(name=name, directory="run", reason="done", snapshots=snapshots)
    return CampaignData(name, evaluations(), seed, summary, snapshots, serial)


def test_parallel_is_compared_with_serial_and_with_the_formula(tmp_path: Path) -> None:
    campaigns = [
        campaign(name, seed, wall=wall + seed, serial=name == "serial")
        for name, wall in (("parallel", 100), ("serial", 160))
        for seed in range(3)
    ]
    write_comparison(tmp_path / "comparison.html", campaigns)
    checker = check(tmp_path / "comparison.html")
    assert checker.seen.count("svg") == 3
    assert "parallel took" in checker.text
    assert "a speedup of 1.59" in checker.text
    assert "gives 2.00" in checker.text
    data = json.loads(json.dumps(compared(campaigns), allow_nan=False))
    assert data["speedup"]["measured"] == pytest.approx(161 / 101)
    assert data["speedup"]["formula"] == pytest.approx(2.0)
    assert [item["name"] for item in data["campaigns"]] == ["parallel", "serial"]
    assert data["campaigns"][0]["wall"] == [100.0, 101.0, 102.0]


def test_the_speedup_is_that_of_the_paper() -> None:
    assert Stages(label=3.0, train=3.0, explore=3.0).speedup == 3.0
    assert Stages(label=10.0, train=10.0, explore=0.0).speedup == 2.0
    assert Stages(label=0.0, train=0.0, explore=0.0).speedup == 1.0


def test_comparison_groups_seeds_and_says_what_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "comparison.html"
    campaigns = [
        CampaignData(name, evaluations(scale=scale * (1 + 0.1 * seed)), seed)
        for name, scale in (("active", 800.0), ("random", 1600.0))
        for seed in range(3)
    ]
    write_comparison(path, campaigns, title="Active and random", quantity="forces")
    checker = check(path)
    assert checker.seen.count("svg") == 1
    assert "Active and random" in checker.text
    assert re.search(
        r"active reaches 293 meV/Å with 60 labels: 2 times fewer than random \(120\)\.",
        checker.text,
    )
    assert "final error (meV/Å)" in checker.text


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    path = tmp_path / "comparison.html"
    write_comparison(path, [CampaignData("active", [])])
    assert "None of the campaigns has been evaluated." in check(path).text


def test_summary_json_and_report_agree(tmp_path: Path) -> None:
    summary = summarise(
        name="x", directory="run", reason="stopped", snapshots=history(30),
        evaluations=evaluations(), quantity="forces",
    )  # fmt: skip
    data = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert data["samples"] == 30_000
    assert "30,000" in write(tmp_path / "report.html", summary=summary)
