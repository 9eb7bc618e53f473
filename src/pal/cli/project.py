"""Commands around a project: begin one, its schema, the kernels there are, version and speed."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterable
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pal.cli.arguments import Overrides, overrides
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


def convert(
    settings: Annotated[
        Path, typer.Argument(metavar="AL_SETTING", help="Settings of the published interface.")
    ],
    changes: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else it is printed.")
    ] = None,
) -> None:
    """Write the settings of the published PAL (al_setting.py) as those of this one."""
    from pal.compat.convert import toml
    from pal.compat.settings import is_published, native, published_of
    from pal.ledger.directory import write_atomically

    if not is_published(settings):
        raise SettingsError(f"{settings} is no file with AL_SETTING: nothing to convert")
    text = toml(native(published_of(settings, overrides(changes))), settings)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(output, text.encode())
        typer.echo(f"wrote {output}; next: pal run {output}")


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
        for _, group in itertools.groupby(find(name), key=lambda kernel: kernel.target):
            kernel, *others = group
            _describe(kernel, [kernel.role, *(other.role for other in others)], console)
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


def _describe(kernel: Registered, roles: Iterable[str], console: Console) -> None:
    """Print one kernel's page."""
    described = kernel.described
    state = Text(kernel.fix or "installed", style="yellow" if kernel.fix else "green")
    title = Text.assemble((kernel.name, "bold"), f" ({', '.join(roles)})  ", state)
    console.print(title, soft_wrap=True)
    console.print(Text(kernel.target, style="dim"), soft_wrap=True)
    for paragraph in (described.summary, *described.text.split("\n\n")):
        text = _reflowed(paragraph)
        console.print(Text(f"\n{text}"), soft_wrap="\n" in text)
    console.print(Text("\nOptions", style="bold"))
    for option in described.options:
        default = ", needed" if option.required else f" = {option.default}"
        head = Text.assemble("  ", (option.name, "bold"), (f": {option.kind}{default}", "dim"))
        console.print(head, soft_wrap=True)
        console.print(Padding(Text(option.meaning), (0, 0, 0, 6), expand=False))
    console.print(Text("\nExample", style="bold"))
    # As plain lines, however long: a broken or clipped line could not be copied.
    console.print(Text(textwrap.indent(described.example, "  ") + "\n"), soft_wrap=True)


def _reflowed(paragraph: str) -> str:
    """Join the lines of a paragraph, unless it is a list, a table or a formula."""
    lines = paragraph.splitlines()
    if any(line.startswith((" ", "-")) for line in lines):
        return paragraph
    return " ".join(lines)


def bench(context: typer.Context) -> None:
    """Measure what an exchange costs here; `pal bench simulate` plays schedules of faults."""
    if context.args[:1] == ["simulate"]:
        from pal.simulate.command import main as simulate

        raise typer.Exit(simulate(context.args[1:]))
    from pal.testing.bench import main

    raise typer.Exit(main(context.args))


def version() -> None:
    """Print PAL's version."""
    from pal import __version__

    typer.echo(f"pal {__version__}")
