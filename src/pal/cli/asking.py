"""Asking a campaign to do something: the request, the wait for the answer, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pal.cli.arguments import SETTINGS, run_directory
from pal.errors import LedgerError, SettingsError

if TYPE_CHECKING:
    from pal.ledger.directory import RunDirectory
    from pal.records import Sample

PATIENCE = 10.0
"""Seconds to wait for an answer; a campaign looks for requests ten times a second."""

Where: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--dir", "-d", metavar="DIR|SETTINGS", help="Run directory, or settings that name it."
    ),
]
NoWait: TypeAlias = Annotated[
    bool, typer.Option("--no-wait", help="Leave the request, and do not wait for the answer.")
]
Samples: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="SAMPLE...", help="Numbers, runs such as 20-25, or - to read them."),
]


def campaign_in(where: Path) -> RunDirectory:
    """Return the run directory of a campaign.

    Raises:
        LedgerError: there is no campaign in it.
    """
    directory = run_directory(where)
    if not directory.ledger.exists():
        raise LedgerError(
            f"there is no campaign in {directory.path}; name the directory of a campaign, or "
            "its settings file"
        )
    return directory


def numbers(words: Iterable[str]) -> list[int]:
    """Read numbers of samples: 17, 20-25, and for - what stands in the standard input.

    Raises:
        SettingsError: one of them is none.
    """
    found: dict[int, None] = {}
    for word in words:
        if word == "-":
            found |= dict.fromkeys(numbers(sys.stdin.read().split()))
            continue
        first, dash, last = word.strip(",").partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SettingsError(f"{word!r} is no sample: expected a number or a run, as 20-25")
        found |= dict.fromkeys(range(int(first), int(last or first) + 1))
    return list(found)


def ask(
    where: Path,
    deed: str,
    arguments: Mapping[str, Any],
    arrays: Sample | None = None,
    no_wait: bool = False,
) -> None:
    """Leave a request, and tell what came of it.

    Raises:
        typer.Exit: it was refused; the reason has been told.
    """
    from pal.cli.app import complain
    from pal.runtime.requests import Requests

    directory = campaign_in(where)
    _expect(directory, arguments)
    box = Requests(directory.requests)
    request = box.leave(deed, arguments, arrays)
    runs = directory.holder() is not None
    answer = box.answer_to(request, PATIENCE) if runs and not no_wait else None
    if answer is not None and answer.done:
        print(answer.text)
    elif answer is not None:
        complain(answer.text)
        raise typer.Exit(answer.code or 1)
    elif directory.holder() is None:
        print(
            f"no campaign runs in {directory.path}; it will be done as soon as `pal run` goes on"
        )
    elif no_wait:
        print(f"asked the campaign in {directory.path}")
    else:
        complain(
            f"no answer within {PATIENCE:g} s; the campaign may be busy, or starting: the request "
            "stays, and `pal history` tells when it was carried out"
        )
        raise typer.Exit(1)


def _expect(directory: RunDirectory, arguments: Mapping[str, Any]) -> None:
    """Refuse at once what nobody can ever do: something with samples that were never there."""
    wanted = arguments.get("samples", [arguments["sample"]] if "sample" in arguments else [])
    if not wanted:
        return
    from pal.ledger.ledger import Ledger

    with Ledger.open_readonly(directory.path) as ledger:
        unused = ledger.totals()[0]
    unknown = [number for number in wanted if number >= unused]
    if unknown:
        last = f"its samples are 0 to {unused - 1}" if unused else "it has no samples yet"
        raise LedgerError(f"{directory.ledger} has no sample {unknown[0]}; {last}")


__all__ = ["SETTINGS", "NoWait", "Samples", "Where", "ask", "campaign_in", "numbers"]
