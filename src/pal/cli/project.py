"""Commands around a project: begin one, its schema, the kernels there are, version and speed."""

from __future__ import annotations

import itertools
import json
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pal.errors import PalError, SettingsError

if TYPE_CHECKING:
    from pal.catalogue import Registered


class Template(StrEnum):
    """The projects `pal init` can begin with."""

    TOY = "toy"
    ATOMS = "atoms"
    PLUGIN = "plugin"


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to put it; made if need be.")
    ] = Path("."),
    template: Annotated[
        Template,
        typer.Option(
            help="toy: a surface learned by a numpy committee, needs nothing else; atoms: a "
            "machine-learned potential of a molecule; plugin: a package of kernels of your own."
        ),
    ] = Template.TOY,
) -> None:
    """Write a small project that runs at once: settings and kernels, to be changed."""
    source = resources.files("pal.cli") / "templates" / template
    files = sorted(
        (item for item in source.iterdir() if item.is_file()), key=lambda item: item.name
    )
    present = [item.name for item in files if (directory / item.name).exists()]
    if present:
        raise SettingsError(
            f"{directory} holds {', '.join(present)} already, and nothing is overwritten; "
            "choose another directory"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for item in files:
            (directory / item.name).write_bytes(item.read_bytes())
    except OSError as error:
        raise PalError(f"cannot write {directory}: {error.strerror or error}") from error
    typer.echo(f"wrote {', '.join(item.name for item in files)} into {directory}")
    command = "pip install -e '.[test]' && pytest" if template is Template.PLUGIN else "pal run"
    typer.echo(f"next: {'' if directory == Path('.') else f'cd {directory} && '}{command}")


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else it is printed.")
    ] = None,
) -> None:
    """Print the JSON schema of the settings file, with which editors complete and check it."""
    from pal.ledger.directory import write_atomically
    from pal.settings import schema as settings_schema

    text = json.dumps(settings_schema(), indent=2)
    if output is None:
        typer.echo(text)
    else:
        write_atomically(output, f"{text}\n".encode())


def kernels(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Tell all of this kernel: options, example.")
    ] = "",
) -> None:
    """List the kernels that have short names, and what to install for those that need more."""
    from pal.catalogue import find, registered_kernels

    console = Console()
    if name:
        for kernel in find(name):
            _describe(kernel, console)
        return
    found = registered_kernels()
    width = max(len(kernel.name) for kernel in found)
    for role, group in itertools.groupby(found, key=lambda kernel: kernel.role):
        console.print(Text(f"{_PLURALS[role]}", style="bold"))
        for kernel in group:
            state = Text(kernel.fix or "installed", style="yellow" if kernel.fix else "green")
            line = Text.assemble(f"  {kernel.name:{width}}  ", kernel.described.summary, "  ")
            console.print(line + state, soft_wrap=True, highlight=False)


_PLURALS = {
    "generator": "Generators: explore",
    "model": "Models: predict and learn",
    "oracle": "Oracles: label",
    "selector": "Selectors: choose what is labelled",
    "initial": "Initial: make the first samples (initial.kernel)",
}


def _describe(kernel: Registered, console: Console) -> None:
    """Print one kernel's page."""
    described = kernel.described
    state = Text(kernel.fix or "installed", style="yellow" if kernel.fix else "green")
    title = Text.assemble((kernel.name, "bold"), f" ({kernel.role}, {kernel.target})  ", state)
    console.print(title, soft_wrap=True)
    console.print(Text(f"\n{described.summary}\n\n{described.text}\n"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("Option", no_wrap=True)
    for heading in ("Type", "Default", "Meaning"):
        table.add_column(heading, overflow="fold")
    for option in described.options:
        table.add_row(option.name, Text(option.kind), Text(option.default), Text(option.meaning))
    console.print(table)
    if described.example:
        console.print(Text(f"\n{described.example}\n"))


def bench(context: typer.Context) -> None:
    """Measure on this machine what an exchange costs; options as `pal bench --help` tells."""
    from pal.testing.bench import main

    raise typer.Exit(main(context.args))


def version() -> None:
    """Print PAL's version."""
    from pal import __version__

    typer.echo(f"pal {__version__}")
