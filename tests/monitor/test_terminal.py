import io
import json
import math
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from pal.monitor.metrics import Snapshot
from pal.monitor.terminal import JsonView, TerminalView

SNAPSHOT = Snapshot(
    time=192.3,
    phase="exploring",
    rounds=51200,
    samples=412033,
    rate=1234.4,
    uncertain_fraction=0.123,
    queued=100,
    running=16,
    labelled=12345,
    failed=23,
    dropped=1234,
    epochs=1204,
    loss=0.01234,
    version=14,
    restarts=1,
    utilisation={"prediction": 0.63, "generator": 0.32, "oracle": 0.98, "training": 1.0},
)


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=30, color_system=None,
        legacy_windows=False,
    )  # fmt: skip


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_panel_fits_its_terminal_and_shows_every_number(width: int) -> None:
    console = terminal(width)
    view = TerminalView(console, "hydrogen transfer", "/data/runs/" + "deep/" * 40)
    panel = view._panel(SNAPSHOT)
    console.print(panel)
    lines = written(console).splitlines()
    assert {len(line) for line in lines} == {width}
    if width >= 80:
        assert len(lines) <= 13
        text = written(console)
        for shown in ("1,234", "412,033", "12 %", "12,345 done", "23 failed", "98 %", "0.0123"):
            assert shown in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_quarantined_and_rejected_samples_are_shown_where_there_are_some(width: int) -> None:
    console = terminal(width)
    view = TerminalView(console, "hydrogen transfer", "run")
    ill = replace(SNAPSHOT, quarantined=3, rejected=1_717)
    console.print(view._panel(ill))
    text = written(console)
    assert {len(line) for line in text.splitlines()} == {width}
    if width >= 80:
        assert "20 failed" in text
        assert "3 samples that killed oracles" in text
        assert "1,717 rejected" in text
    console = plain()
    TerminalView(console, "hydrogen transfer", "run").update(ill)
    line = written(console)
    assert "20 failed, 1,234 dropped, 3 quarantined" in line
    assert "12 % uncertain, 1,717 rejected)" in line


def test_panel_is_redrawn_only_on_update_and_without_a_thread() -> None:
    console = terminal(80)
    view = TerminalView(console, "name", "run")
    before = threading.active_count()
    view.update(SNAPSHOT)
    size = len(written(console))
    assert threading.active_count() == before
    assert len(written(console)) == size
    view.update(replace(SNAPSHOT, samples=777_777))
    assert "777,777" in written(console)
    view.message("oracle 2 was restarted", "warning")
    assert "warning: oracle 2 was restarted" in written(console)
    view.close()
    view.close()
    assert written(console).endswith("\n") or "\x1b[?25h" in written(console)


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_on_a_new_phase() -> None:
    console = plain()
    view = TerminalView(console, "name", "run")
    for second in range(25):
        view.update(replace(SNAPSHOT, time=float(second)))
    view.update(replace(SNAPSHOT, time=25.0, phase="stopping"))
    view.update(replace(SNAPSHOT, time=26.0, phase="stopping"))
    view.close()
    starts = [line.split(";")[0] for line in written(console).splitlines()]
    assert starts == [
        "[0.0 s] exploring",
        "[10 s] exploring",
        "[20 s] exploring",
        "[25 s] stopping",
        "[26 s] stopping",
    ]
    assert "\x1b" not in written(console)
    assert written(console).isascii()


def test_text_from_users_is_not_read_as_markup() -> None:
    console = plain()
    view = TerminalView(console, "[bold]x", "run")
    view.message("[red]not a colour[/red] [/]", "error")
    assert written(console) == "error: [red]not a colour[/red] [/]\n"
    tty = terminal(80)
    TerminalView(tty, "[bold]x", "[/]").update(SNAPSHOT)
    assert "[bold]x" in written(tty)
    assert "[/]" in written(tty)


def test_nothing_measured_yet_can_be_shown() -> None:
    for console in (terminal(80), plain()):
        view = TerminalView(console, "name", "run")
        view.update(Snapshot(time=0.0, rate=math.nan, uncertain_fraction=math.nan))
        view.close()
        assert "starting" in written(console)


def test_json_view_writes_one_valid_object_per_line() -> None:
    stream = io.StringIO()
    view = JsonView(stream)
    view.update(replace(SNAPSHOT, loss=math.nan))
    view.message('say "no"\nto it', "error")
    view.close()
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["event"] == "snapshot"
    assert first["samples"] == 412033
    assert first["loss"] is None
    assert first["utilisation"]["oracle"] == 0.98
    assert second == {"event": "message", "level": "error", "text": 'say "no"\nto it'}
