"""The command that runs a campaign as a batch job."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pal.cli.arguments import SETTINGS, Overrides, SettingsFile, overrides, read
from pal.errors import LedgerDiskError, SettingsError

if TYPE_CHECKING:
    from pal.batch.request import Request
    from pal.batch.systems import System
    from pal.settings import Settings


def submit(
    settings: SettingsFile = SETTINGS,
    time: Annotated[
        str, typer.Option("--time", "-t", help="Longest time of one job: 2h, 90min, 02:00:00.")
    ] = "",
    nodes: Annotated[int, typer.Option("--nodes", "-N", min=1, help="Number of nodes.")] = 1,
    partition: Annotated[
        str, typer.Option("--partition", "--queue", "-q", help="Partition or queue.")
    ] = "",
    account: Annotated[str, typer.Option("--account", "-A", help="Account or project.")] = "",
    cores: Annotated[
        int | None,
        typer.Option("--cores-per-node", min=1, help="Cores of each node. Default: all."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus-per-node", min=1, help="GPUs of each node.")
    ] = None,
    name: Annotated[
        str, typer.Option("--name", "-J", help="Name of the job. Default: the campaign's.")
    ] = "",
    system: Annotated[
        str,
        typer.Option(
            "--system", help="slurm, pbs, torque, lsf or sge. Default: by its submit command."
        ),
    ] = "",
    launcher: Annotated[
        str,
        typer.Option(
            "--launcher",
            help="What starts PAL on several nodes: mpirun (Open MPI 5), srun, or a command "
            "in which {nodes} is their number.",
        ),
    ] = "mpirun",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="A directive more, e.g. --mem=0. May be repeated."),
    ] = None,
    prologue: Annotated[
        list[str] | None,
        typer.Option("--prologue", help="A line of shell before PAL, e.g. 'module load xtb'."),
    ] = None,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="When the time is up, submit the next job.")
    ] = False,
    changes: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the script; write and submit nothing.")
    ] = False,
    again: Annotated[
        Path | None,
        typer.Option("--again", help="Submit this script, written before, again."),
    ] = None,
) -> None:
    """Run a campaign as a batch job of Slurm, PBS, Torque, LSF or SGE.

    Writes a job script into the run directory and submits it. The campaign ends in good order
    before the job does; with --requeue, or when submitted again, the next job goes on.
    """
    from pal.batch import script, systems
    from pal.batch.request import duration

    chosen = systems.named(system) if system else systems.guess(shutil.which, os.environ)
    if again is not None:
        _send(chosen, _existing(again))
        return
    if not time:
        raise SettingsError("--time is missing: say how long a job may take, e.g. --time 2h")
    seconds = duration(time)
    request = replace(
        _request(settings.resolve(), read(settings, overrides(changes)).settings, name, seconds),
        nodes=nodes,
        queue=partition,
        account=account,
        cores=cores,
        gpus=gpus,
        launcher=launcher,
        options=tuple(option or ()),
        prologue=tuple(prologue or ()),
        requeue=requeue,
        changes=tuple(changes or ()),
    )
    text = script.text(request, chosen)
    if dry_run:
        print(text, end="")
        return
    _write(request.script, text)
    _send(chosen, request.script)


def _request(settings: Path, campaign: Settings, name: str, seconds: int) -> Request:
    """Return what is asked for without a word of the user: this Python, this campaign."""
    from pal.batch.request import Request, job_name, next_script
    from pal.ledger.directory import RunDirectory

    called = job_name(name or campaign.name)
    jobs = RunDirectory(campaign.directory.resolve()).jobs
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return Request(
        settings=settings,
        script=next_script(jobs, called, [*jobs.glob("*.sh")]),
        name=called,
        python=sys.executable,
        seconds=seconds,
        margin=round(campaign.oracle.grace + campaign.stop.before_end),
        command=shlex.join(["pal", *sys.argv[1:]]),
        python_path=os.pathsep.join(str(Path(path).absolute()) for path in paths),
    )


def _existing(script: Path) -> Path:
    if not script.is_file():
        raise SettingsError(
            f"--again {script}: there is no such script; `pal submit` without --again writes one"
        )
    return script.resolve()


def _write(script: Path, text: str) -> None:
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
    except OSError as error:
        raise LedgerDiskError(
            f"the disk refused the job script {script}: {error.strerror}; free some space, or "
            "choose another run directory"
        ) from error


def _send(system: System, script: Path) -> None:
    from pal.batch import jobs, queue

    number = queue.submit(system, script)
    job = jobs.note(script.parent, system, number, script)
    print(f"job {number} is submitted to {system.title}; `pal status` tells how it stands")
    print(f"  script  {script}")
    print(f"  output  {job.log}")
