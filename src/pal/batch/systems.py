"""The batch systems PAL knows: how each is told what a job needs, and how one is recognised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pal.batch.request import Request, clock
from pal.errors import SettingsError, nearest


@dataclass(frozen=True, slots=True)
class System:
    """One batch system.

    `prefix` begins its directives in a script; `submit` is its command, and `redirect` whether
    that reads the script from standard input. `number` is the variable of the job's number.
    """

    name: str
    title: str
    prefix: str
    submit: str
    number: str
    directives: Callable[[Request], list[str]]
    redirect: bool = False

    def by_hand(self, script: object) -> str:
        """What a user types to submit a script without PAL."""
        return f"{self.submit} {'< ' if self.redirect else ''}{script}"


def _given(pairs: Mapping[str, object]) -> list[str]:
    """Return the options that have a value; an empty name stands for an option as it is."""
    return [f"{option}{value}" for option, value in pairs.items() if value not in (None, "")]


def _cores_of(request: Request, system: str) -> int:
    if request.cores is None:
        raise SettingsError(
            f"{system} gives a job one core unless it asks for more: say how many with "
            "--cores-per-node"
        )
    return request.cores


def _slurm(request: Request) -> list[str]:
    # Slurm may signal up to a minute early; a job of minutes should not end as it begins.
    margin = min(request.margin, request.seconds // 2)
    lines = [
        f"--job-name={request.name}",
        f"--nodes={request.nodes}",
        "--ntasks-per-node=1",
        f"--time={clock(request.seconds, days=True)}",
        *_given({"--partition=": request.queue, "--account=": request.account}),
        *_given({"--cpus-per-task=": request.cores, "--gpus-per-node=": request.gpus}),
        f'--output="{request.log("%j")}"',
        "--open-mode=append",
        f"--signal=B:USR1@{margin}",
        "--requeue" if request.requeue else "--no-requeue",
    ]
    if request.cores is None:
        lines.append("--exclusive")
    if request.nodes > 1:
        lines.append("--no-kill")
    return lines


def _pbs(request: Request) -> list[str]:
    cores = _cores_of(request, "PBS")
    gpus = f":ngpus={request.gpus}" if request.gpus else ""
    lines = [
        f"-N {request.name}",
        f"-l select={request.nodes}:ncpus={cores}:mpiprocs=1{gpus}",
        f"-l walltime={clock(request.seconds)}",
    ]
    if request.nodes > 1:
        lines.append("-l place=scatter")
    return lines + _pbs_common(request)


def _torque(request: Request) -> list[str]:
    cores = _cores_of(request, "Torque")
    gpus = f":gpus={request.gpus}" if request.gpus else ""
    return [
        f"-N {request.name}",
        f"-l nodes={request.nodes}:ppn={cores}{gpus}",
        f"-l walltime={clock(request.seconds)}",
        *_pbs_common(request),
    ]


def _pbs_common(request: Request) -> list[str]:
    return [
        *_given({"-q ": request.queue, "-A ": request.account}),
        "-j oe",
        f"-o {request.log('pbs')}",
        "-r y" if request.requeue else "-r n",
    ]


def _lsf(request: Request) -> list[str]:
    per_node = request.cores or 1
    minutes = math.ceil(request.seconds / 60)
    lines = [
        f"-J {request.name}",
        f"-n {request.nodes * per_node}",
        f'-R "span[ptile={per_node}]"',
        f"-W {minutes // 60}:{minutes % 60:02d}",
        *_given({"-q ": request.queue, "-P ": request.account}),
    ]
    if request.gpus:
        lines.append(f'-gpu "num={request.gpus}"')
    lines += [f"-o {request.log('%J')}", "-r" if request.requeue else "-rn"]
    return lines if request.cores else [*lines, "-x"]


def _sge(request: Request) -> list[str]:
    cores = _cores_of(request, "SGE")
    lines = [f"-N {request.name}", "-S /bin/bash", f"-l h_rt={clock(request.seconds)}"]
    if request.nodes > 1 and not request.asks("-pe"):
        raise SettingsError(
            "SGE places a job on several nodes by a parallel environment, whose name is the "
            "site's: give it with all its slots, e.g. --option '-pe mpi 64' (see qconf -spl)"
        )
    if not request.asks("-pe"):
        lines.append(f"-pe smp {cores}")
    lines += _given({"-q ": request.queue, "-P ": request.account, "-l gpu=": request.gpus})
    restart = "-r y" if request.requeue else "-r n"
    return [*lines, "-j y", f"-o {request.log('$JOB_ID')}", restart]


SYSTEMS: Final[Mapping[str, System]] = {
    system.name: system
    for system in (
        System("slurm", "Slurm", "#SBATCH", "sbatch", "SLURM_JOB_ID", _slurm),
        System("pbs", "PBS", "#PBS", "qsub", "PBS_JOBID", _pbs),
        System("torque", "Torque", "#PBS", "qsub", "PBS_JOBID", _torque),
        System("lsf", "LSF", "#BSUB", "bsub", "LSB_JOBID", _lsf, redirect=True),
        System("sge", "SGE", "#$", "qsub", "JOB_ID", _sge),
    )
}


def named(name: str) -> System:
    """Return the system of this name.

    Raises:
        SettingsError: PAL knows none that is called so.
    """
    if name not in SYSTEMS:
        raise SettingsError(
            f"--system {name}: no batch system PAL knows; {nearest(name, list(SYSTEMS))}"
        )
    return SYSTEMS[name]


def guess(installed: Callable[[str], object], environment: Mapping[str, str]) -> System:
    """Return the system of this machine, by the command that submits.

    PBS, Torque and SGE all call it `qsub`: SGE is known by its root, and Torque must be named.

    Raises:
        SettingsError: none of these commands is installed.
    """
    if installed("sbatch"):
        return SYSTEMS["slurm"]
    if installed("bsub"):
        return SYSTEMS["lsf"]
    if installed("qsub"):
        return SYSTEMS["sge" if "SGE_ROOT" in environment or installed("qconf") else "pbs"]
    raise SettingsError(
        "no batch system found: looked for sbatch (Slurm), bsub (LSF) and qsub (PBS, SGE) on the "
        "PATH; run this on a login node of the cluster, or name a system with --system to see "
        "its script with --dry-run"
    )
