"""Whether a launcher started this process, as its environment tells."""

from __future__ import annotations

import pytest

from pal.transport.launch import Launch, launched

BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
STEP = BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
PMI = "a launcher with PMI (mpiexec of MPICH or Intel MPI, srun)"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (BATCH, None),
        (STEP, Launch("Slurm's srun", 3, 4)),
        (STEP | {"PMIX_RANK": "3"}, Launch("Slurm's srun", 3, 4)),
        (STEP | {"PMI_RANK": "3", "PMI_SIZE": "4"}, Launch(PMI, 3, 4)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"}, None),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        (
            STEP
            | {"SLURM_STEP_NUM_TASKS": "1"}
            | {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "8"},
            Launch("Open MPI's mpirun", 2, 8),
        ),
        (
            STEP | {"SLURM_STEP_NUM_TASKS": "2", "PMI_RANK": "5", "PMI_SIZE": "8"},
            Launch(PMI, 5, 8),
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"},
            Launch("Open MPI's mpirun", 0, 1),
        ),
        (BATCH | {"PMI_RANK": "0", "PMI_SIZE": "1"}, Launch(PMI, 0, 1)),
        (
            {"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"},
            Launch("MVAPICH's mpirun", 1, 2),
        ),
        ({"PMIX_RANK": "1"}, Launch("a launcher with PMIx", 1, None)),
    ],
)
def test_launched(environment: dict[str, str], expected: Launch | None) -> None:
    assert launched(environment) == expected
