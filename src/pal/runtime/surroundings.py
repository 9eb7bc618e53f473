"""The surroundings of a kernel: its environment variables, its seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy

_LAUNCHERS = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "OPAL_", "MPIR_", "MPI_LOCAL", "HYDI_")
"""Where names begin that mpirun, mpiexec and srun write for the processes they start: Open MPI 4
and 5, PRRTE, PMIx, MPICH's Hydra."""

_USERS = ("OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_", "MPIR_CVAR_", "OMPI_ALLOW_RUN_AS_ROOT")
"""Among these, what users set; the launchers pass it on."""

_NOT_USERS = (
    *("OMPI_MCA_PREFIXES", "OMPI_MCA_cpu_type", "OMPI_MCA_initial_wdir", "OMPI_MCA_num_procs"),
    *("OMPI_MCA_ess", "OMPI_MCA_orte_", "OMPI_MCA_pmix", "OMPI_MCA_shmem_RUNTIME_QUERY_hint"),
    *("PRTE_MCA_ess", "PRTE_MCA_prte_"),
)
"""And among those, what launchers write themselves: seen as `mpiexec -n 1 env` against `env`."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def of_launcher(name: str) -> bool:
    """Whether an MPI launcher made this variable, so that it would mislead another MPI program.

    A program that finds itself in somebody else's MPI job hangs or fails. What the user has set
    for all MPI programs must reach it.
    """
    if name.startswith(_NOT_USERS):
        return True
    return name.startswith(_LAUNCHERS) and not name.startswith(_USERS)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what an MPI launcher put there."""
    return {name: value for name, value in environment.items() if not of_launcher(name)}


def seed_of(seed: int, role: str, index: int, *generation: int) -> int:
    """Derive the seed of one instance of a role; each generation has another."""
    sequence = numpy.random.SeedSequence([seed, *role.encode(), index], spawn_key=generation)
    return int(sequence.generate_state(1)[0])
