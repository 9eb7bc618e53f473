"""The `pal` program: its commands, and how errors become messages and exit codes."""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from pal.cli import campaign, operator, project, samples
from pal.cli.check import check
from pal.cli.compare import compare
from pal.cli.recover import recover
from pal.cli.submit import submit
from pal.errors import PalError
from pal.transport.parting import part

EXIT_CODES = {
    0: "ended in good order, also after a stop by signal or request",
    1: "any other error",
    2: "wrong settings, or a wrong command line",
    3: "a kernel cannot be used or broke its contract",
    4: "the run directory or its ledger cannot be used",
    5: "a road between processes broke",
    6: "workers failed too often and were given up",
    7: "a batch system cannot be reached, or refused the job",
    75: "the time of the batch job is up; the same command goes on in another job",
    130: "interrupted (Ctrl-C) where there was nothing to end in good order",
}


LOOK, CHANGE = "Look at a campaign", "Change a campaign while it runs"
"""Headings of the help."""


class _Commands(TyperGroup):
    """Turns PAL's errors into one clean message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PalError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            complain(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(130) from interrupt


def complain(message: str) -> None:
    """Write an error to standard error, as it is: no markup, no line breaks of our own."""
    text = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True).print(text, soft_wrap=True)


def _epilogue() -> str:
    lines = (f"{code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    return "Exit codes:\n" + "\n".join(lines)


app = typer.Typer(
    name="pal",
    cls=_Commands,
    help="Parallel active learning: explore, predict, label and train at the same time.",
    epilog=_epilogue(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, too.")
    ] = False,
) -> None:
    pass


app.command()(project.init)
app.command()(check)
app.command()(campaign.run)
app.command()(compare)
app.command()(submit)
app.command(rich_help_panel=LOOK)(campaign.status)
app.command()(campaign.stop)
app.command(rich_help_panel=LOOK)(samples.samples)
app.command(rich_help_panel=LOOK)(samples.show)
app.command(rich_help_panel=LOOK)(samples.history)
app.command(rich_help_panel=CHANGE)(operator.drop)
app.command(rich_help_panel=CHANGE)(operator.requeue)
app.command(rich_help_panel=CHANGE)(operator.label)
app.command(rich_help_panel=CHANGE)(operator.pause)
app.command(rich_help_panel=CHANGE)(operator.resume)
app.command("set", rich_help_panel=CHANGE)(operator.set_)
app.command(rich_help_panel=CHANGE)(operator.scale)
app.command(rich_help_panel=CHANGE)(operator.move)
app.command()(campaign.export)
app.command()(recover)
app.command()(project.kernels)
app.command()(project.convert)
app.command()(project.schema)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(project.bench)
app.command()(project.version)


def main() -> None:
    """Run the program with the arguments it was started with."""
    try:
        app()
    except SystemExit as end:
        part(end.code if isinstance(end.code, int) else int(bool(end.code)))
        raise
