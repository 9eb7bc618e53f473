"""Commands that look at the samples of a campaign, one or many, and at its history."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pal.cli.arguments import SETTINGS, Target, run_directory
from pal.cli.asking import Where, campaign_in
from pal.controller.commands import State
from pal.errors import SettingsError

_MOST = 50
"""Samples that are listed if nobody says how many."""


class Sort(StrEnum):
    """By what samples are sorted; as `pal.ledger.search.Order`."""

    NUMBER = "number"
    NEWEST = "newest"
    UNCERTAINTY = "uncertainty"
    TRIES = "tries"


def samples(
    target: Target = SETTINGS,
    state: Annotated[
        list[State] | None,
        typer.Option("--state", "-s", help="Only in this state. May be given several times."),
    ] = None,
    walker: Annotated[
        int | None, typer.Option("--walker", help="Only of this walker; -1: the initial ones.")
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", help="Only judged by this version of the weights.")
    ] = None,
    least: Annotated[
        float | None, typer.Option("--min-uncertainty", help="Only at least so uncertain.")
    ] = None,
    newer: Annotated[
        str | None,
        typer.Option("--newer", metavar="TIME", help="Only proposed within the last 10min, 2h."),
    ] = None,
    older: Annotated[
        str | None, typer.Option("--older", metavar="TIME", help="Only proposed before that.")
    ] = None,
    failed_with: Annotated[
        str | None,
        typer.Option(
            "--failed-with", metavar="KIND", help="Only with such a failure, e.g. deadline."
        ),
    ] = None,
    sort: Annotated[Sort, typer.Option("--sort", help="What comes first.")] = Sort.NUMBER,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", min=0, help=f"Most to list; 0: all. Default: {_MOST} in the table."
        ),
    ] = None,
    ids: Annotated[
        bool, typer.Option("--ids", help="Only the numbers, one a line, for other commands.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object a line, for programs.")
    ] = False,
) -> None:
    """List samples: where they stand, how uncertain they are, and what became of them.

    It only reads, and a running campaign does not notice.
    """
    from pal.cli import tables
    from pal.ledger import search
    from pal.ledger.ledger import Ledger

    directory = campaign_in(run_directory(target).path)
    most = limit or None
    if limit is None and not (ids or as_json):
        most = _MOST
    order = search.Order(sort.value)
    with Ledger.open_readonly(directory.path) as ledger:
        now = ledger.last_time()
        wanted = search.Wanted(
            states=tuple(state or ()),
            walker=walker,
            version=version,
            least=least,
            since=None if newer is None else now - _seconds("--newer", newer),
            before=None if older is None else now - _seconds("--older", older),
            failed_with=failed_with,
        )
        if ids:
            print("".join(f"{n}\n" for n in search.numbers(ledger, wanted, order, most)), end="")
            return
        found = search.find(ledger, wanted, order, most)
        total = search.count(ledger, wanted) if most is not None else len(found)
        kinds = search.kinds_of_failure(ledger) if failed_with and not found else []
    if as_json:
        for item in found:
            print(json.dumps(tables.plain(item)))
        return
    tables.list_samples(Console(), found, total, now, directory.path, wanted.states)
    if failed_with and not found:
        print(f"kinds of failure that there were: {', '.join(kinds) or 'none'}")


def _seconds(option: str, text: str) -> float:
    from pal.sections import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise SettingsError(f"{option} {text}: {error}") from error


def show(
    sample: Annotated[int, typer.Argument(metavar="SAMPLE", help="Number of the sample.", min=0)],
    where: Where = SETTINGS,
    xyz: Annotated[
        Path | None,
        typer.Option("--xyz", metavar="FILE", help="Write the structure, with its label, there."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object, with all arrays.")
    ] = False,
) -> None:
    """Tell the whole story of a sample.

    Who asked for it and why; every try with oracle, host, time, outcome and traceback; its label;
    its structure.
    """
    from pal.cli import stories
    from pal.ledger.directory import write_atomically
    from pal.ledger.ledger import Ledger

    with Ledger.open_readonly(campaign_in(where).path) as ledger:
        told = stories.gather(ledger, sample)
    if xyz is not None:
        write_atomically(xyz, stories.structure(told).encode())
        print(f"wrote sample {sample} to {xyz}")
    elif as_json:
        print(json.dumps(stories.plain(told)))
    else:
        stories.present(Console(), told)


def history(
    target: Target = SETTINGS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object a line, for programs.")
    ] = False,
) -> None:
    """List what was done to a campaign, by whom and when, and what it said of itself.

    Sessions, everything that operators changed, and what the campaign decided and told.
    """
    from pal.cli import tables
    from pal.ledger.ledger import Ledger

    directory = campaign_in(run_directory(target).path)
    with Ledger.open_readonly(directory.path) as ledger:
        lines = tables.chronicle(ledger)
    if as_json:
        for line in lines:
            print(json.dumps(line))
    else:
        tables.list_history(Console(), lines)
