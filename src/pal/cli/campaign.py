"""Commands that run a campaign, look at it, end it and export its dataset."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pal.cli.arguments import (
    SETTINGS,
    Overrides,
    SettingsFile,
    Target,
    overrides,
    read,
    run_directory,
)
from pal.cli.asking import campaign_in
from pal.errors import LedgerError, PalError

if TYPE_CHECKING:
    from pal.compat.settings import Published
    from pal.ledger.directory import RunDirectory
    from pal.monitor.metrics import Snapshot
    from pal.monitor.summary import Summary
    from pal.monitor.terminal import Level, View
    from pal.settings import Settings


CONTINUES = 75
"""The exit code that asks a job script for another job; EX_TEMPFAIL of sysexits.h."""


def run(
    settings: SettingsFile = SETTINGS,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the earlier campaign in the run directory.")
    ] = False,
    changes: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object per line, for programs.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only warnings, errors and the summary.")
    ] = False,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Refuse to start unless the launcher has started so many agents."
        ),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Go on, even if the earlier labels are of another oracle."
        ),
    ] = False,
) -> None:
    """Start a campaign, or go on with one where it stood.

    On several nodes, start one agent on each: mpirun -n 4 --map-by ppr:1:node pal run.

    Ctrl-C (or SIGTERM) ends it in good order: running labels are finished, and the same command
    goes on later. Ctrl-C again stops at once. In a batch job it ends in time before the job
    does, with exit code 75: another job is to go on.
    """
    code = start(settings, overrides(changes), fresh, as_json, quiet, nodes, accept_changes)
    if code:
        raise typer.Exit(code)


def start(
    path: Path,
    changes: Mapping[str, Any],
    fresh: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    nodes: int | None = None,
    accept_changes: bool = False,
) -> int:
    """Run a campaign from its settings file; return the exit code.

    Raises:
        PalError: it could not start, or had to end by a failure.
    """
    from pal.compat.ranks import superfluous
    from pal.compat.settings import is_published
    from pal.runtime.campaign import Campaign
    from pal.runtime.muster import decline

    if is_published(path) and superfluous():
        return 0
    try:
        found = read(path, changes)
    except PalError as error:
        if decline(error):
            return 0
        raise
    settings = found.settings
    campaign = Campaign.from_settings(
        settings, fresh=fresh, home=found.home, nodes=nodes, accept_changes=accept_changes
    )
    view = show(settings, quiet, as_json)
    if found.published is not None:
        view = _with_buffers(view, found.published, settings.directory, fresh)
    try:
        campaign.run(view)
    finally:
        # A campaign that had to end by a failure has a summary, too.
        if campaign.summary is not None:
            _present(campaign.summary, as_json)
    return CONTINUES if campaign.continues else 0


def show(settings: Settings, quiet: bool, as_json: bool = False) -> View:
    """Return how a campaign is shown: to people or to programs, all or only what matters."""
    from pal.monitor.terminal import JsonView, TerminalView

    view: View
    if as_json:
        view = JsonView(sys.stdout)
    else:
        view = TerminalView(_console(), settings.name, settings.directory)
    return _Quiet(view) if quiet else view


def _with_buffers(view: View, published: Published, directory: Path, fresh: bool) -> View:
    """Let a campaign of the published interface read and write its buffer files."""
    from pal.compat.buffers import BufferView, take_over

    if not fresh and (text := take_over(published, directory)):
        view.message(text)
    return BufferView(view, published, directory)


def _console() -> Console:
    """Return where a campaign is shown: in plain lines if nobody at a terminal sees it."""
    from pal.transport.launch import has_feigned_terminal

    return Console(force_terminal=False if has_feigned_terminal() else None)


class _Quiet:
    """Passes on only what somebody should look into."""

    def __init__(self, view: View) -> None:
        self._view = view

    def update(self, snapshot: Snapshot) -> None:
        """Say nothing."""

    def message(self, text: str, level: Level = "info") -> None:
        """Pass on warnings and errors."""
        if level != "info":
            self._view.message(text, level)

    def close(self) -> None:
        """Free the terminal."""
        self._view.close()


def _present(summary: Summary, as_json: bool) -> None:
    from pal.monitor.summary import render

    if as_json:
        print(json.dumps({"event": "summary", **summary.as_dict()}), flush=True)
    else:
        render(summary, _console())


def status(
    target: Target = SETTINGS,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Tell how a campaign stands, running or ended, without disturbing it."""
    from pal.cli.standing import describe, standing

    found = standing(run_directory(target))
    if as_json:
        print(json.dumps(found))
    else:
        describe(found, Console())


def stop(
    target: Target = SETTINGS,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; kept in the ledger.")
    ] = "asked to stop by the operator",
    now: Annotated[
        bool,
        typer.Option("--now", help="Requeue running labels and leave out the final training."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return only when the campaign has ended.")
    ] = False,
) -> None:
    """Ask a running campaign to end in good order, as Ctrl-C does, from anywhere."""
    from pal.runtime.requests import Requests

    directory = run_directory(target)
    holder = directory.holder()
    if holder is None:
        campaign_in(directory.path)
        print(f"no campaign runs in {directory.path}")
        return
    for _ in range(2 if now else 1):
        Requests(directory.requests).leave("stop", {"reason": reason}, pid=holder.get("pid"))
    print(f"asked {_who(holder)} to stop the campaign in {directory.path}")
    if wait:
        _await_end(directory, holder)
        print("it has ended")


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _await_end(directory: RunDirectory, holder: dict[str, Any]) -> None:
    """Wait until this holder is gone; another campaign may have begun since."""
    while (current := directory.holder()) is not None:
        if current and current != holder:
            return
        time.sleep(0.1)


class Format(StrEnum):
    """What the dataset is exported as."""

    EXTXYZ = "extxyz"
    NPZ = "npz"


def export(
    target: Target = SETTINGS,
    kind: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="extxyz holds atoms, npz anything. Default: by the output's name, else "
            "extxyz where the samples are atoms.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write. Default: dataset.* in the run directory."
        ),
    ] = None,
) -> None:
    """Write all labelled samples into one file, also while the campaign runs."""
    from pal.ledger.ledger import Ledger

    directory = run_directory(target)
    with Ledger.open_readonly(directory.path) as ledger:
        if not ledger.labelled_ids():
            raise LedgerError(f"{ledger.file} has no labels yet; there is nothing to export")
        if kind is None and output is not None:
            with suppress(ValueError):
                kind = Format(output.suffix.removeprefix("."))
        for path, count in _written(ledger, directory.path, kind, output).items():
            print(f"{path}: {count}")


def _written(
    ledger: Any, folder: Path, kind: Format | None, output: Path | None
) -> dict[Path, str]:
    """Write the dataset and say what is where."""
    from pal.ledger.export import export_extxyz, export_npz
    from pal.runtime.aftermath import export as export_either

    if kind is None and output is None:
        return {folder / name: what for name, what in export_either(ledger, folder).items()}
    if kind is None:
        raise LedgerError(
            f"{output}: cannot tell the format from this name; end it with .extxyz or .npz, or "
            "give --format"
        )
    path = output or folder / f"dataset.{kind}"
    writer = export_extxyz if kind is Format.EXTXYZ else export_npz
    return {path: f"{writer(ledger, path)} labelled samples"}
