"""`pal check`: try settings and kernels before a campaign costs anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pal.cli.arguments import SETTINGS, Overrides, Read, SettingsFile, overrides, read

if TYPE_CHECKING:
    from pal.cli.trial import Trial
    from pal.runtime.machines import Machine
    from pal.runtime.placement import Placement


def check(
    settings: SettingsFile = SETTINGS,
    changes: Overrides = None,
    deadline: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Longest time for one kernel.")
    ] = 120.0,
    nodes: Annotated[
        int, typer.Option(min=1, help="Show the placement on so many nodes like this one.")
    ] = 1,
    cores_per_node: Annotated[
        int | None, typer.Option(min=1, help="Cores of each node, if not those of this one.")
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="GPUs of each node, if not those of this one.")
    ] = None,
) -> None:
    """Validate settings, try every kernel once in a process of its own, show the placement."""
    with TemporaryDirectory(prefix="pal-check-") as folder:
        found = read(settings, overrides(changes))
        if found.published is not None:  # whose kernels write where the settings tell them to
            found = read(settings, {**overrides(changes), "result_dir": folder})
        _try(settings, found, deadline, _machines(nodes, cores_per_node, gpus_per_node))


def _try(settings: Path, found: Read, deadline: float, machines: list[Machine]) -> None:
    """Try the kernels, and print what came of it and where they would be placed."""
    from pal.cli.trial import Trial
    from pal.runtime.placement import place, specs

    wanted, home = found.settings, found.home
    kernels = specs(wanted, (str(home),))
    console = Console()
    console.print(Text(f"{settings}: the settings are valid"), soft_wrap=True)
    trial = Trial(wanted, kernels, deadline, home)
    trial.run()
    console.print()
    console.print(_table(trial))
    _print_placement(place(wanted, wanted.directory, kernels, machines=machines), console)
    for remark in trial.remarks:
        console.print(Text.assemble(("remark: ", "yellow"), remark), soft_wrap=True)
    _conclude(trial, settings, console)


def _machines(nodes: int, cores: int | None, gpus: int | None) -> list[Machine]:
    """Describe nodes like this machine, but for what was said otherwise."""
    from pal.runtime.machines import this_machine

    here = this_machine()
    if cores is not None:
        here = replace(here, cores=tuple(range(cores)))
    if gpus is not None:
        here = replace(here, devices=tuple(map(str, range(gpus))))
    if nodes == 1:
        return [here]
    return [replace(here, rank=rank, host=f"node{rank}") for rank in range(nodes)]


def _table(trial: Trial) -> Table:
    from pal.monitor.text import figure

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("Role", "Kernel", "Call"):
        table.add_column(heading, overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("Result", overflow="fold")
    for role, found in trial.findings.items():
        first: tuple[str, str] = (role, trial.kernels[role].target)
        for call in found.calls:
            table.add_row(*first, call.name, figure(1e3 * call.seconds), Text(call.result))
            first = ("", "")
        if found.refusal:
            table.add_row(*first, "label", "", Text(f"refused: {found.refusal}", style="yellow"))
        if found.failure is not None:
            what = f"{found.failure.kind}, see below"
            table.add_row(*first, "", "", Text(what, style="bold red"))
    return table


def _print_placement(placement: Placement, console: Console) -> None:
    console.print()
    needed = sum(job.threads for job in placement.jobs)
    cores = sum(len(machine.cores) for machine in placement.machines)
    console.print(f"{len(placement.jobs)} processes with {needed} threads on {cores} cores:")
    for line in placement.lines():
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print()


def _conclude(trial: Trial, settings: Path, console: Console) -> None:
    """Print what is wrong, or what to do next; end with the exit code of the worst.

    Raises:
        typer.Exit: something is wrong.
    """
    if not trial.problems:
        fine = "all kernels fit together" if trial.complete else "nothing wrong was found"
        console.print(Text(f"{fine}; next: pal run {settings}", style="green"), soft_wrap=True)
        return
    errors = Console(stderr=True)
    for problem in trial.problems:
        errors.print(Text.assemble(("error: ", "bold red"), problem.text), soft_wrap=True)
    raise typer.Exit(trial.problems[0].exit_code)
