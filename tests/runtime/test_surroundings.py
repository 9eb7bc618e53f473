"""Which variables reach an oracle that may be an MPI program, and what is found by its mark."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pal.runtime.nursery import MARK, end_marked, identity
from pal.runtime.surroundings import of_launcher, seed_of, without_launcher


@pytest.mark.parametrize(
    "name",
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_MCA_initial_wdir",
        "OMPI_MCA_orte_hnp_uri",
        "PMIX_NAMESPACE",
        "PMI_RANK",
        "PRTE_LAUNCHED",
        "OPAL_PREFIX",
        "HYDI_CONTROL_FD",
        "MPI_LOCALRANKID",
    ],
)
def test_what_a_launcher_writes_is_dropped(name: str) -> None:
    assert of_launcher(name)


@pytest.mark.parametrize(
    "name",
    [
        "OMPI_MCA_btl",
        "OMPI_ALLOW_RUN_AS_ROOT",
        "PRTE_MCA_rmaps_default_mapping_policy",
        "PMIX_MCA_gds",
        "MPIR_CVAR_CH4_NETMOD",
        "HYDRA_LAUNCHER",
        "MPI_HOME",
        "PATH",
        "SLURM_JOB_ID",
    ],
)
def test_what_users_set_stays(name: str) -> None:
    assert without_launcher({name: "1"}) == {name: "1"}


def test_seeds_differ_between_instances_and_generations() -> None:
    seeds = {seed_of(1, "oracle", index, more) for index in range(3) for more in range(3)}
    assert len(seeds) == 9
    assert seed_of(1, "oracle", 0, 2) == seed_of(1, "oracle", 0, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_marked_programs_are_ended_wherever_they_went() -> None:
    mark = f"{identity(os.getpid())}.7."
    code = "import os, time; print(flush=True); time.sleep(1000)"
    marked, other = (
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, MARK: which},
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        for which in (mark, mark.replace(".7.", ".77."))
    )
    try:
        for process in (marked, other):
            assert process.stdout is not None
            process.stdout.readline()
        end_marked([mark])
        assert marked.wait() < 0
        assert other.poll() is None
        end_marked([f"{identity(os.getpid())}."])
        assert other.wait() < 0
    finally:
        for process in (marked, other):
            assert process.stdout is not None
            process.stdout.close()
