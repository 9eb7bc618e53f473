"""The published program is started with one MPI rank for each of its processes; PAL is not.

PAL's agent starts the processes of its node by itself. So of the ranks on one node the first is
the agent, and the others have nothing to do.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from pal.errors import WorldError
from pal.runtime.surroundings import of_launcher
from pal.transport.launch import Launch, launched

_NEIGHBOURS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")
"""How many ranks are on this node, as Open MPI, the MPICH family and MVAPICH say it."""


def superfluous(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this rank has nothing to do. The first of a node's ranks is told it is alone.

    Raises:
        WorldError: there are several nodes with several ranks each.
    """
    launch = launched(environment)
    if launch is None or launch.size in (None, 1):
        return False
    neighbours = _neighbours(launch, environment)
    if neighbours == 1:
        return False  # one agent on each of several nodes, as PAL wants it
    if neighbours != launch.size:
        if launch.rank:
            return True
        raise WorldError(
            f"{launch.launcher} started {launch.size} processes on several nodes; PAL starts the "
            "processes of a node by itself and wants one agent on each: mpirun -n <nodes> "
            "--map-by ppr:1:node --bind-to none, or srun --ntasks-per-node=1, with the same "
            "arguments"
        )
    for name in [name for name in environment if of_launcher(name) or _tells_rank(name)]:
        del environment[name]
    return launch.rank > 0


def _neighbours(launch: Launch, environment: MutableMapping[str, str]) -> int | None:
    for name in _NEIGHBOURS:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    if environment.get("SLURM_STEP_NUM_NODES") == "1":
        return launch.size
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    return 1 if per_node.split("(")[0] == "1" else None


def _tells_rank(name: str) -> bool:
    return name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS") or name.startswith("MV2_COMM_WORLD_")
