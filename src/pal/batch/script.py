"""The text of a job script: plain enough to be read, edited and submitted by hand."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from pal.batch.request import Request
from pal.batch.systems import System

_HEAD = """\
#!/bin/bash
# A campaign of PAL as a batch job, written by
#   {command}
# It may be edited, and submitted by hand: {by_hand}
{directives}

cd {folder} || exit 1
"""

_END = """\

# PAL ends in good order before this time, in seconds since 1970.
export PAL_JOB_END=$(($(date +%s) + {seconds}))
"""

_RUN = """\

# The batch system signals this shell, which passes it on. What it starts is deaf to USR1 until it
# listens itself: a signal at the very start must not kill it.
cancelled=
trap '' USR1
{run} &
trap 'kill -USR1 $! 2>/dev/null' USR1
trap 'cancelled=1; kill -TERM $! 2>/dev/null' TERM
wait $!
code=$?
# A signal interrupts `wait`, which then returns a number above 128.
while [ "$code" -gt 128 ] && kill -0 $! 2>/dev/null; do
    wait $!
    code=$?
done
"""

_COUNT = """\

# A job that loses a node is followed by another one if it has brought labels.
labels() {{ {status} 2>/dev/null | grep -o '"labelled": [0-9]*' | head -n 1; }}
before=$(labels)
"""

_CUT_OFF = """\

# mpirun's code is 0, too, where it has lost a node and ended what ran on the others.
if [ "$code" -eq 0 ] && [ -z "$cancelled" ] &&
    {status} | grep -Eq '"ended": (null|"SIGTERM)'; then
    echo "error: the launcher ended before the campaign did; submitted again, it goes on" >&2
    code=1
{further}fi
"""

_FURTHER = """\
    [ "$(labels)" = "$before" ] || code=75
"""

_AGAIN = """\

# 75: the job was over before the campaign was. The next one goes on where it stood.
if [ "$code" -eq 75 ]; then
    {again} && exit 0
fi
"""


def text(request: Request, system: System) -> str:
    """Return the script of a job.

    Raises:
        SettingsError: the system needs to know more.
    """
    directives = [*system.directives(request), *request.options]
    lines = [_directive(system.prefix, directive) for directive in directives]
    parts = [
        _HEAD.format(
            command=request.command,
            by_hand=system.by_hand(quote(str(request.script))),
            directives="\n".join(lines),
            folder=quote(str(request.settings.parent)),
        )
    ]
    if system.prefix == "#PBS":
        # Its own output comes at the end only, and each job would overwrite the one before.
        log = quote(str(request.script.with_suffix("")))
        parts.append(f'exec >>{log}-"${{PBS_JOBID%%.*}}".log 2>&1\n')
    parts += [f"{line}\n" for line in request.prologue]
    if request.python_path:
        parts.append(f"export PYTHONPATH={quote(request.python_path)}\n")
    parts.append(_END.format(seconds=request.seconds))
    status = f"{quote(request.python)} -m pal status --json {quote(str(_directory(request)))}"
    if request.nodes > 1 and request.requeue:
        parts.append(_COUNT.format(status=status))
    parts.append(_RUN.format(run=_run(request)))
    if request.nodes > 1:
        further = _FURTHER if request.requeue else ""
        parts.append(_CUT_OFF.format(status=status, further=further))
    if request.requeue:
        again = f"{quote(request.python)} -m pal submit --again {quote(str(request.script))}"
        parts.append(_AGAIN.format(again=f"{again} --system {system.name}"))
    return "".join(parts) + 'exit "$code"\n'


def _directory(request: Request) -> Path:
    """Return the run directory, in whose folder `jobs` the script lies."""
    return request.script.parent.parent


def _directive(prefix: str, option: str) -> str:
    """Write an option as a directive, unless the user has done so."""
    return option if option.startswith(prefix) else f"{prefix} {option}"


def _run(request: Request) -> str:
    """Return the command that runs the campaign: under MPI where there are several nodes."""
    words = [quote(request.python), "-m", "pal", "run", quote(request.settings.name)]
    if request.nodes > 1:
        words = [_launcher(request), "\\\n   ", *words, "--nodes", str(request.nodes)]
    for change in request.changes:
        words += ["--set", quote(change)]
    return " ".join(words)


def _launcher(request: Request) -> str:
    """Return what starts one agent on each node.

    Only `--with-ft ulfm` of Open MPI 5 lets the others go on when an agent dies. A launcher with
    words of its own is the user's, with {nodes} for their number.
    """
    if request.launcher == "mpirun":
        beside = Path(request.python).with_name("mpirun")
        command = quote(str(beside)) if beside.exists() else "mpirun"
        return f"{command} --with-ft ulfm --map-by ppr:1:node --bind-to none -n {request.nodes}"
    if request.launcher == "srun":
        cores = f" --cpus-per-task={request.cores}" if request.cores else ""
        return (
            f"srun --nodes={request.nodes} --ntasks-per-node=1{cores} --cpu-bind=none --no-kill "
            "--kill-on-bad-exit=0"
        )
    return request.launcher.replace("{nodes}", str(request.nodes))
