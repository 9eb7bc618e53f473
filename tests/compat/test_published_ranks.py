"""Started with one MPI rank for each process, as the published program is: one of them acts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mpi_jobs import MPICH, OPEN_MPI, environment
from published import Folder

from pal.compat.ranks import superfluous
from pal.errors import WorldError


def open_mpi(rank: int, size: int, local: int) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(local),
        "HOME": "/home/anna",
    }


def hydra(rank: int, size: int, local: int) -> dict[str, str]:
    return {"PMI_RANK": str(rank), "PMI_SIZE": str(size), "MPI_LOCALNRANKS": str(local)}


def slurm(rank: int, size: int, local: int) -> dict[str, str]:
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_NUM_NODES": str(size // local),
        "SLURM_STEP_TASKS_PER_NODE": f"{local}(x{size // local})",
    }


Started = Callable[[int, int, int], dict[str, str]]
LAUNCHERS = pytest.mark.parametrize("started", [open_mpi, hydra, slurm])


@LAUNCHERS
def test_of_the_ranks_on_one_node_the_first_acts_and_thinks_it_is_alone(started: Started) -> None:
    environment = started(0, 12, 12)
    assert not superfluous(environment)
    assert not superfluous(environment)
    assert all(
        name in ("HOME", "SLURM_STEP_NUM_NODES") or "TASKS_PER" in name for name in environment
    )
    assert superfluous(started(1, 12, 12))
    assert superfluous(started(11, 12, 12))


@LAUNCHERS
def test_one_rank_on_each_of_several_nodes_is_an_agent(started: Started) -> None:
    environment = started(2, 3, 1)
    before = dict(environment)
    assert not superfluous(environment)
    assert environment == before


@LAUNCHERS
def test_several_ranks_on_each_of_several_nodes_are_refused_once(started: Started) -> None:
    with pytest.raises(WorldError, match="ppr:1:node"):
        superfluous(started(0, 24, 12))
    assert superfluous(started(5, 24, 12))


def test_a_plain_start_is_nobody_s_rank() -> None:
    assert not superfluous({"HOME": "/home/anna"})


@pytest.mark.parametrize("library", ["Open MPI", pytest.param("MPICH", marks=pytest.mark.slow)])
def test_it_runs_under_mpirun_with_as_many_ranks_as_published(
    watched: Folder, library: str
) -> None:
    mpi = {"Open MPI": OPEN_MPI, "MPICH": MPICH}[library]
    command = [*mpi.launcher("-n", "12"), str(mpi.python), "-c", watched.command("pal_engine")[2]]
    done = watched.start([*command, "-sf", "al_setting.py", "--quiet"], environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trainer" in done.stdout
    assert done.stdout.count("labels (") + done.stdout.count(" labels,") == 1, "one of them told"
    assert watched.methods("heard_7")[-1] == "stop_run"
