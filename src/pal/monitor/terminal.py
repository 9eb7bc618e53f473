"""What a person sees while a campaign runs: a live panel, plain lines, or JSON lines.

The views draw only when `update` is called; no thread refreshes them, since waiting must cost
nothing.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, TypeAlias, final

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pal.monitor.metrics import Snapshot
from pal.monitor.text import (
    bar,
    duration,
    figure,
    finite,
    heading,
    kernels,
    percent,
    plural,
    sparkline,
)

Level: TypeAlias = Literal["info", "warning", "error"]

PLAIN_INTERVAL = 10.0
"""Seconds of campaign time between two plain lines."""

_COLOURS = {"generator": "green", "prediction": "cyan", "oracle": "yellow", "training": "magenta"}
_STYLES = {"info": "", "warning": "yellow", "error": "bold red"}
_LABEL_WIDTH = 11
_HISTORY = 60


class View(Protocol):
    """Shows a campaign while it runs."""

    def update(self, snapshot: Snapshot) -> None:
        """Show the newest state, about once a second."""
        ...

    def message(self, text: str, level: Level = "info") -> None:
        """Tell something that happened; it stays on the screen."""
        ...

    def close(self) -> None:
        """Leave the last state on the screen and free the terminal."""
        ...


@final
class TerminalView:
    """A panel that redraws itself on a terminal; one line every ten seconds elsewhere."""

    def __init__(self, console: Console, name: str, directory: Path | str) -> None:
        self._console = console
        self._name = name
        self._directory = str(directory)
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._last: Snapshot | None = None
        self._printed: Snapshot | None = None
        self._live: Live | None = None

    def update(self, snapshot: Snapshot) -> None:
        """Show the newest state, about once a second."""
        self._last = snapshot
        self._history.append(snapshot.uncertain_fraction)
        if self._console.is_terminal:
            self._draw(snapshot)
        elif self._is_due(snapshot):
            self._print(snapshot)

    def message(self, text: str, level: Level = "info") -> None:
        """Print a line above the panel, or between the plain lines."""
        shown = text if level == "info" else f"{level}: {text}"
        encoding = self._console.encoding
        shown = shown.encode(encoding, "replace").decode(encoding)
        self._console.print(Text(shown, style=_STYLES[level]), soft_wrap=True)

    def close(self) -> None:
        """Leave the last state on the screen and free the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._last is not None and self._last is not self._printed:
            self._print(self._last)

    def _draw(self, snapshot: Snapshot) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self._panel(snapshot), refresh=True)

    def _is_due(self, snapshot: Snapshot) -> bool:
        last = self._printed
        return (
            last is None
            or snapshot.phase != last.phase
            or snapshot.time - last.time >= PLAIN_INTERVAL
        )

    def _print(self, snapshot: Snapshot) -> None:
        self._printed = snapshot
        self._console.out(_line(snapshot), highlight=False)

    def _panel(self, snapshot: Snapshot) -> Panel:
        width = self._console.width
        right = f"{snapshot.phase}, {duration(snapshot.time)}"
        # The border needs two corners, a dash and blanks around both titles.
        name = _shortened(self._name, width - len(right) - 8)
        fill = "-" if self._ascii else "─"
        dashes = fill * max(1, width - 8 - len(name) - len(right))
        title = Text.assemble(
            (name, "not dim bold"), (f" {dashes} ", "dim"), (right, "not dim"),
        )  # fmt: skip
        return Panel(
            self._rows(snapshot),
            title=title,
            title_align="left",
            subtitle=Text(_shortened(self._directory, width - 6), style="dim"),
            subtitle_align="left",
            border_style="dim",
        )

    @property
    def _ascii(self) -> bool:
        return self._console.options.ascii_only

    @property
    def _bar_width(self) -> int:
        return min(_HISTORY, max(10, self._console.width - _LABEL_WIDTH - 18))

    def _rows(self, snapshot: Snapshot) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="dim", width=_LABEL_WIDTH, no_wrap=True)
        grid.add_column()
        grid.add_row("Explored", _items(_explored(snapshot)))
        grid.add_row("Uncertain", self._uncertain(snapshot))
        grid.add_row("Labels", _items(_labels(snapshot)))
        grid.add_row("Training", _items(_training(snapshot)))
        if snapshot.quarantined:
            killers = f"{plural(snapshot.quarantined, 'sample')} that killed oracles"
            grid.add_row("Quarantine", Text(killers, style="red"))
        if snapshot.restarts:
            grid.add_row("Restarts", Text(plural(snapshot.restarts, "worker"), style="yellow"))
        if snapshot.utilisation:
            grid.add_row("", "")
        for kernel in kernels(snapshot.utilisation):
            grid.add_row(heading(kernel), self._bar(kernel, snapshot.utilisation[kernel]))
        return grid

    def _uncertain(self, snapshot: Snapshot) -> Text:
        line = sparkline(list(self._history)[-self._bar_width :], ascii_only=self._ascii)
        return Text.assemble(
            (f"{percent(snapshot.uncertain_fraction):>6}", "bold"), "  ", (line, "blue")
        )

    def _bar(self, kernel: str, busy: float) -> Text:
        full, empty = bar(busy, self._bar_width, ascii_only=self._ascii)
        colour = _COLOURS.get(kernel, "white")
        return Text.assemble(
            (f"{percent(busy):>6}", "bold"), "  ", (full, colour), (empty, "dim"), " busy"
        )


@final
class JsonView:
    """The same for programs: one JSON object per line, with `event` "snapshot" or "message"."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def update(self, snapshot: Snapshot) -> None:
        """Write the whole snapshot."""
        self._write({"event": "snapshot", **snapshot.as_dict()})

    def message(self, text: str, level: Level = "info") -> None:
        """Write a message."""
        self._write({"event": "message", "level": level, "text": text})

    def close(self) -> None:
        """Nothing is held; the stream belongs to the caller."""

    def _write(self, data: dict[str, Any]) -> None:
        self._stream.write(json.dumps(finite(data)) + "\n")
        self._stream.flush()


def _explored(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    return [
        (figure(snapshot.rate), "samples/s", ""),
        (f"{snapshot.samples:,}", "samples", ""),
        (f"{snapshot.rounds:,}", "rounds", ""),
        *_rejected(snapshot),
    ]


def _rejected(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    return [(f"{snapshot.rejected:,}", "rejected", "yellow")] if snapshot.rejected else []


def _labels(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    failed = snapshot.failed - snapshot.quarantined
    return [
        (f"{snapshot.labelled:,}", "done", ""),
        (f"{snapshot.running:,}", "running", ""),
        (f"{snapshot.queued:,}", "waiting", ""),
        (f"{failed:,}", "failed", "red" if failed else ""),
        (f"{snapshot.dropped:,}", "dropped", ""),
    ]


def _training(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    items = [(f"{snapshot.epochs:,}", "epochs", "")]
    if snapshot.loss is not None:
        items.append((figure(snapshot.loss), "loss", ""))
    return [*items, (f"{snapshot.version:,}", "weight updates", "")]


def _items(items: list[tuple[str, str, str]]) -> Text:
    """Join (number, what, style) into one line with the numbers in bold."""
    text = Text()
    for position, (number, what, style) in enumerate(items):
        text.append("  " if position else "")
        text.append(number, style=f"bold {style}".strip())
        text.append(f" {what}", style=style)
    return text


def _line(snapshot: Snapshot) -> str:
    """Write the snapshot as one plain line, in ASCII, for log files."""
    labels = ", ".join(f"{number} {what}" for number, what, _ in _labels(snapshot))
    if snapshot.quarantined:
        labels += f", {snapshot.quarantined:,} quarantined"
    training = ", ".join(f"{number} {what}" for number, what, _ in _training(snapshot))
    rate = figure(snapshot.rate)
    rejected = "".join(f", {number} {what}" for number, what, _ in _rejected(snapshot))
    parts = [
        f"[{duration(snapshot.time)}] {snapshot.phase}",
        f"{snapshot.samples:,} samples ({rate}/s, {percent(snapshot.uncertain_fraction)} "
        f"uncertain{rejected})",
        f"labels: {labels}",
        f"training: {training}",
    ]
    if snapshot.restarts:
        parts.append(plural(snapshot.restarts, "restart"))
    return "; ".join(parts)


def _shortened(text: str, width: int) -> str:
    """Cut a text in its middle, where names and paths differ least."""
    if len(text) <= width:
        return text
    half = max(1, (width - 3) // 2)
    return f"{text[:half]}...{text[-half:]}"
