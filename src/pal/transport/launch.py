"""Whether an MPI launcher started this process, and the way into its world.

A plain `pal run` needs no MPI and must not import it, so the environment is asked first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pal.errors import WorldError
from pal.transport.fabric import Fabric


@dataclass(frozen=True, slots=True)
class Launch:
    """What a launcher says of a process that it started. `size` is None where it is silent."""

    launcher: str
    rank: int
    size: int | None


_OPEN_MPI = "Open MPI's mpirun"
_MPICH_S_FAMILY = ("MPICH", "Intel MPI", "MVAPICH")

_SIGNS = (
    # launcher, variables of rank and size; those that start their ranks by `srun` come first
    (_OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MVAPICH's mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("a launcher with PMI (mpiexec of MPICH or Intel MPI, srun)", "PMI_RANK", "PMI_SIZE"),
    ("Slurm's srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("a launcher with PMIx", "PMIX_RANK", ""),
)


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return how this process was launched, or None for a plain start.

    A script under `sbatch` has a job but no step of several tasks: that is a plain start, and so
    is a step of one task, as in an interactive `srun --pty bash`.
    """
    found = os.environ if environment is None else environment
    alone = found.get("SLURM_STEP_NUM_TASKS") == "1"
    for launcher, rank, size in _SIGNS:
        if rank not in found or (size and size not in found):
            continue
        count = int(found[size]) if size else None
        if alone and (count or 1) == 1 and not rank.startswith("OMPI"):
            return None
        return Launch(launcher, int(found[rank]), count)
    return None


def has_feigned_terminal() -> bool:
    """Whether what looks like a terminal is one that a launcher gives to its ranks.

    Open MPI's does so wherever its own output goes.
    """
    if launched() is None or not sys.stdout.isatty():
        return False
    with suppress(OSError):
        output = os.readlink(f"/proc/{os.getppid()}/fd/1")
        return not output.startswith(("/dev/pts/", "/dev/tty"))
    return False


def connect(launch: Launch) -> Fabric:
    """Join the other agents of the launch.

    Raises:
        WorldError: that is not possible; it says why, and what to do.
    """
    from pal.transport import mpi

    try:
        library = mpi.library(mpi.load())
    except ModuleNotFoundError as error:
        raise WorldError(
            f"{launch.launcher} started this process, but mpi4py is not installed for it: "
            'pip install "pal[mpi]" (or mpi4py alone, where the system has an MPI library)'
        ) from error
    except (ImportError, RuntimeError) as error:
        raise WorldError(
            f"{launch.launcher} started this process, but mpi4py finds no MPI library: {error}. "
            'Load the system\'s MPI module, or install one: pip install "pal[mpi]"'
        ) from error
    if launch.launcher == _OPEN_MPI and library.startswith(_MPICH_S_FAMILY):
        raise WorldError(mismatch(launch, 1, library))  # which would not even start
    fabric = mpi.MpiFabric.connect()
    if launch.size is not None and (fabric.size, fabric.rank) != (launch.size, launch.rank):
        fabric.close()
        raise WorldError(mismatch(launch, fabric.size, library))
    return fabric


def mismatch(launch: Launch, size: int, library: str) -> str:
    """Tell that launcher and library do not belong together, and what to do."""
    return (
        f"{launch.launcher} started {launch.size} processes, but for the MPI library of mpi4py "
        f"({library}) this is a world of {size}: launcher and library do not belong together. "
        "Use the mpiexec of that library (with pip's wheels, the one beside python), or install "
        "mpi4py for the MPI of the launcher: pip install --no-binary mpi4py mpi4py. Under srun, "
        "choose the library's plugin: srun --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH"
    )
