"""The story of a sample, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pal.cli.tables import COLOURS, asker, date, settings_of, wall_clock
from pal.controller.commands import State
from pal.errors import LedgerError
from pal.ledger import story as stories
from pal.ledger.changes import standing
from pal.ledger.entries import Session
from pal.ledger.export import frame
from pal.ledger.ledger import Ledger
from pal.ledger.search import maker
from pal.ledger.story import Story, Try
from pal.monitor.text import ago, duration, figure, finite, plural
from pal.records import Array, LabelledSample, Sample, named

_FEW: Final = 9
"""Numbers of an array that are shown; larger ones are summarised."""

_LEAST: Final = 32
"""Columns that time and state take in the history."""


@dataclass(frozen=True, slots=True)
class Told:
    """A story, and what is needed to tell it: `selector` as it was when the sample was chosen."""

    story: Story
    file: Path
    now: float
    sessions: tuple[Session, ...]
    selector: Mapping[str, Any]


def gather(ledger: Ledger, number: int) -> Told:
    """Read all that is known of a sample.

    Raises:
        LedgerError: there is no such sample.
    """
    story = stories.tell(ledger, number)
    return Told(
        story,
        ledger.file,
        ledger.last_time(),
        tuple(ledger.sessions()),
        _selector_then(ledger, story),
    )


def _selector_then(ledger: Ledger, story: Story) -> dict[str, Any]:
    if story.session is None or story.row.candidate.walker < 0:
        return {}
    selector = settings_of(story.session).get("selector", {})
    options = dict(selector.get("options", {}))
    for key, (_, new) in standing(ledger, story.row.created).settings.items():
        section, _, name = key.rpartition(".")
        if section == "selector.options":
            options[name] = new
    return {"kernel": selector.get("kernel", ""), "options": options}


def structure(told: Told) -> str:
    """Return the sample as extended XYZ, with its label where the format holds it.

    Raises:
        LedgerError: it is no sample of atoms.
    """
    story = told.story
    bare = LabelledSample(story.row.candidate.sample, story.sample, {})
    if story.label is not None:
        try:
            labelled = LabelledSample(bare.identity, story.sample, story.label)
            return frame(labelled, told.file)
        except LedgerError:
            pass  # the label is of another kind; `pal export` says of which
    return frame(bare, told.file)


# For people -----------------------------------------------------------------------------------


def present(console: Console, told: Told) -> None:
    """Print a story."""
    story = told.story
    row = story.row
    console.print(
        Text.assemble(
            (f"Sample {row.candidate.sample}", "bold"),
            "  ",
            (row.state.value, COLOURS[row.state]),
            f" after {plural(row.attempts, 'try').replace('trys', 'tries')}",
        )
    )
    facts = Table.grid(padding=(0, 2, 0, 0))
    for heading, text in _facts(told):
        facts.add_row(Text(heading, style="dim"), Text(text))
    console.print(Padding(facts, (0, 0, 0, 2)))
    if story.tries:
        _heading(console, "Tries")
        console.print(Padding(_tries(story.tries), (0, 0, 0, 2)))
    _heading(console, "History")
    console.print(Padding(_moves(told, console.width - _LEAST), (0, 0, 0, 2)))
    _tracebacks(console, story)
    _records(console, told)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _facts(told: Told) -> list[tuple[str, str]]:
    story, given = told.story, told.story.row.candidate
    at = wall_clock(told.sessions, story.row.created)
    since = ago(max(0.0, told.now - story.row.created))
    lines = [("Proposed", f"{date(at)}, {_clock(story.row.created)} ({since} ago)")]
    if given.walker < 0:
        lines.append(("By", "the initial samples"))
    else:
        lines.append(("By", f"walker {asker(given.walker)}, model version {given.version}"))
        lines.append(("Because", f"uncertainty {figure(given.uncertainty)}{_judge(told)}"))
    if story.session is not None:
        who = story.session
        lines.append(("In", f"session {who.number}: process {who.pid} on {who.host}"))
    made = story.made
    if made is not None:
        lines.append(("Label", f"{maker(made.oracle, made.host, made.seconds)}"))
    return lines


def _clock(seconds: float) -> str:
    return f"{duration(seconds)} into the campaign"


def _judge(told: Told) -> str:
    if not told.selector:
        return ""
    options = ", ".join(f"{key} = {value}" for key, value in told.selector["options"].items())
    return f"; selector {told.selector['kernel']}{f' ({options})' if options else ''}"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for name, side in columns:
        right = side == "right"
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    table.columns[-1].ratio = 1
    table.columns[-1].overflow = "fold"
    return table


def _tries(tries: tuple[Try, ...]) -> Table:
    table = _table(
        ("", "right"), ("Oracle", "left"), ("Start", "right"), ("Took", "right"), ("Outcome", "")
    )
    for one in tries:
        took = "-" if one.seconds is None else duration(one.seconds)
        where = f"{one.oracle} on {one.host}" if one.host else str(one.oracle)
        table.add_row(str(one.number), where, duration(one.started), took, outcome(one))
    return table


def outcome(one: Try) -> Text:
    """Say what came of a try."""
    if one.failure is not None:
        return Text(f"{one.failure.kind}: {one.failure.message}", style="red")
    if one.state is None:
        return Text("under way", style="blue")
    if one.state is State.LABELLED:
        return Text("labelled", style="green")
    return Text(one.outcome or one.state.value)


def _moves(told: Told, width: int) -> Table:
    """Return every move, a line each: what failed stands with the tries in full."""
    story = told.story
    table = _table(("At", "right"), ("State", "left"), ("Detail", ""))
    table.add_row(duration(story.row.created), _state("queued"), "proposed")
    for move in story.moves:
        if move.what == State.QUEUED and not move.detail:
            continue  # as every candidate at first
        detail = Text(move.detail.split("\n", 1)[0])
        detail.truncate(max(20, width), overflow="ellipsis")
        table.add_row(duration(move.time), _state(move.what), detail)
    if story.made is not None:
        who = maker(story.made.oracle, story.made.host, story.made.seconds)
        table.add_row(duration(story.made.time), _state("labelled"), Text(f"on disk; {who}"))
    for at, failure in story.failures:
        first = str(failure).split("\n", 1)[0]
        table.add_row(duration(at), Text("failure", style="red"), Text(first))
    return table


def _state(name: str) -> Text:
    return Text(name, style=COLOURS[State(name)])


def _tracebacks(console: Console, story: Story) -> None:
    """Print every traceback once, with the tries that ended so."""
    ends: dict[str, list[str]] = {}
    for one in story.tries:
        if one.failure is not None and one.failure.traceback:
            ends.setdefault(one.failure.traceback, []).append(str(one.number))
    for text, numbers in ends.items():
        *first, last = numbers
        which = f"tries {', '.join(first)} and {last}" if first else f"try {last}"
        _heading(console, f"What try {last} said" if not first else f"What {which} said")
        console.print(Padding(Text(text.rstrip()), (0, 0, 0, 2)), soft_wrap=False)


def _records(console: Console, told: Told) -> None:
    story = told.story
    if story.label is not None:
        _heading(console, "Label")
        for name, array in named(story.label).items():
            console.print(Text.assemble("  ", _summary(name, array)), soft_wrap=True)
    try:
        text = structure(told)
    except LedgerError:
        _heading(console, "Arrays")
        for name, array in named(story.sample).items():
            console.print(Text.assemble("  ", _summary(name, array)), soft_wrap=True)
        return
    _heading(console, "Structure (extended XYZ)")
    print(text, end="")


def _summary(name: str, array: Array) -> str:
    """Describe an array: its numbers, or its shape and how large they are."""
    title = name or "array"
    if array.size <= _FEW or array.dtype.kind not in "biuf":
        return f"{title} {array.tolist()}"
    low, high = float(np.min(array)), float(np.max(array))
    text = f"{title} {array.shape} {array.dtype}: {figure(low)} to {figure(high)}"
    if array.ndim > 1 and array.shape[-1] == 3:
        text += f", longest {figure(float(np.linalg.norm(array, axis=-1).max()))}"
    return text


# For programs ---------------------------------------------------------------------------------


def plain(told: Told) -> dict[str, Any]:
    """Return a story as plain data, with all arrays."""
    story = told.story
    row, made = story.row, story.made
    data = {
        "sample": row.candidate.sample,
        "state": row.state.value,
        "walker": row.candidate.walker,
        "version": row.candidate.version,
        "uncertainty": row.candidate.uncertainty,
        "proposed": row.created,
        "at": wall_clock(told.sessions, row.created),
        "session": None if story.session is None else story.session.number,
        "selector": told.selector,
        "tries": [_plain_try(one) for one in story.tries],
        "history": [{"time": m.time, "state": m.what, "detail": m.detail} for m in story.moves],
        "label": None
        if made is None or story.label is None
        else {
            "oracle": made.oracle,
            "host": made.host,
            "seconds": made.seconds,
            "time": made.time,
            "arrays": _lists(story.label),
        },
        "arrays": _lists(story.sample),
    }
    found: dict[str, Any] = finite(data)
    return found


def _plain_try(one: Try) -> dict[str, Any]:
    failure = one.failure
    return {
        "number": one.number,
        "oracle": one.oracle,
        "host": one.host,
        "started": one.started,
        "seconds": one.seconds,
        "outcome": outcome(one).plain,
        "kind": None if failure is None else failure.kind,
        "message": None if failure is None else failure.message,
        "traceback": None if failure is None else failure.traceback,
    }


def _lists(record: Sample) -> dict[str, Any]:
    return {name: array.tolist() for name, array in named(record).items()}
