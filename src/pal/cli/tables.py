"""Samples and history as tables, readable on 80 columns."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pal.controller.commands import State
from pal.ledger.changes import KIND, changes
from pal.ledger.entries import Session
from pal.ledger.ledger import Ledger
from pal.ledger.search import Found
from pal.monitor.text import ago, figure, finite, plural

COLOURS: Final = {
    State.QUEUED: "cyan",
    State.RUNNING: "blue",
    State.RETURNED: "blue",
    State.LABELLED: "green",
    State.FAILED: "red",
    State.QUARANTINED: "bold red",
    State.DROPPED: "yellow",
}

_PREFIX: Final = re.compile(r"attempt \d+ on oracle \d+: ")
_SILENT: Final = ("evaluation", KIND)


def asker(walker: int) -> str:
    """Name who proposed a sample."""
    return "initial" if walker < 0 else str(walker)


def list_samples(
    console: Console,
    found: Sequence[Found],
    total: int,
    now: float,
    folder: Path,
    states: Sequence[State],
) -> None:
    """Print samples, one a row; a column that would say the same in each is left out."""
    kind = f" {' or '.join(states)}" if states else ""
    shown = f"{len(found):,} of {total:,}" if len(found) < total else f"{total:,}"
    noun = "sample" if total == 1 else "samples"
    console.print(Text.assemble((f"{shown}{kind} {noun}", "bold"), f" in {folder}"))
    if not found:
        return
    alike = len(states) == 1
    rows = [_cells(item, now, alike) for item in found]
    headings = ("Sample", "State", "Walker", "Model", "Uncertainty", "Tries", "Since")
    names = [name for name in headings if not (alike and name == "State")]
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    left = console.width
    for place, name in enumerate(names):
        side: Any = "left" if name == "State" else "right"
        table.add_column(name, justify=side, no_wrap=True)
        left -= 1 + max(len(name), *(len(row[place]) for row in rows))
    table.add_column("What happened", no_wrap=True)
    for row in rows:
        # The last column alone gives way where the screen is narrow.
        row[-1].truncate(max(13, left), overflow="ellipsis")
        table.add_row(*row)
    console.print(table)
    if len(found) < total:
        console.print(Text("--limit 0 lists all, --sort and filters choose others", style="dim"))


def _cells(item: Found, now: float, alike: bool) -> list[Text]:
    row = item.row
    candidate = row.candidate
    state = [] if alike else [Text(row.state.value, style=COLOURS[row.state])]
    return [
        Text(str(candidate.sample)),
        *state,
        Text(asker(candidate.walker)),
        Text(f"v{candidate.version}"),
        Text(figure(candidate.uncertainty)),
        Text(str(row.attempts)),
        Text(ago(max(0.0, now - item.time))),
        Text(news(item.news)),
    ]


def news(text: str) -> str:
    """Shorten what happened to what fits into a column."""
    return _PREFIX.sub("", text).split("\n", 1)[0].rstrip(":") or "-"


def plain(item: Found) -> dict[str, Any]:
    """Return a sample as plain data."""
    row = item.row
    data = {
        "sample": row.candidate.sample,
        "state": row.state.value,
        "walker": row.candidate.walker,
        "version": row.candidate.version,
        "uncertainty": row.candidate.uncertainty,
        "tries": row.attempts,
        "proposed": row.created,
        "since": item.time,
        "news": item.news,
    }
    found: dict[str, Any] = finite(data)
    return found


# History --------------------------------------------------------------------------------------


def wall_clock(sessions: Sequence[Session], moment: float) -> float:
    """Return when it was by the wall clock that the campaign's own clock showed a time."""
    before = [session for session in sessions if session.start <= moment] or sessions[:1]
    return before[-1].began + moment - before[-1].start if before else moment


def date(at: float) -> str:
    """Write a time of the wall clock as people here do."""
    return time.strftime("%a %d %b %H:%M:%S", time.localtime(at))


def chronicle(ledger: Ledger) -> list[dict[str, Any]]:
    """Return sessions, changes by hand and what the campaign told, in the order of time."""
    sessions = ledger.sessions()
    lines = [line for session in sessions for line in _session(session)]
    for change in changes(ledger):
        by_hand = {"deed": change.deed} if "@" in change.by else {}
        lines.append(_line(change.time, change.at, change.by, change.text, **by_hand))
    lines += [
        _line(note.time, wall_clock(sessions, note.time), "the campaign", note.text)
        for note in ledger.notes()
        if note.kind not in _SILENT
    ]
    return sorted(lines, key=lambda line: float(line["time"]))


def _line(moment: float, at: float, who: str, what: str, **more: Any) -> dict[str, Any]:
    return {"time": moment, "at": at, "who": who, "what": what, **more}


def _session(session: Session) -> list[dict[str, Any]]:
    who = f"session {session.number}"
    where = f"process {session.pid} on {session.host}, pal {session.version}"
    lines = [_line(session.start, session.began, who, f"began: {where}")]
    if session.end is not None:
        at = session.began + session.end - session.start
        lines.append(_line(session.end, at, who, f"ended: {session.reason}"))
    return lines


def list_history(console: Console, lines: Sequence[dict[str, Any]]) -> None:
    """Print the history, a row for each thing that was done or said."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("When", no_wrap=True)
    table.add_column("Who", overflow="fold", max_width=24)
    table.add_column("What", overflow="fold", ratio=1)
    for line in lines:
        style = "bold" if "deed" in line else "dim"
        table.add_row(date(line["at"]), Text(line["who"], style=style), Text(line["what"]))
    console.print(table)
    count = sum("deed" in line for line in lines)
    console.print(Text(f"{plural(count, 'change')} by hand", style="dim"))


def settings_of(session: Session) -> dict[str, Any]:
    """Return the settings with which a session began."""
    found: dict[str, Any] = json.loads(session.settings)
    return found
