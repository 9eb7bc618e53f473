from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from rig import eventually
from slurm import Slurm, missing
from slurm_project import Project


@pytest.fixture(scope="session")
def slurm_daemons() -> Iterator[Slurm]:
    """One Slurm for all tests of a session, which starts within a second or two."""
    if reason := missing():
        pytest.skip(reason)
    # Not pytest's folder: the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="pal-slurm-"))
    found = Slurm(folder)
    try:
        found.start()
    except (AssertionError, OSError) as error:
        found.stop()
        pytest.skip(f"Slurm does not start here: {error}; {found.log()}")
    yield found
    found.stop()
    left = found.processes()
    shutil.rmtree(folder)
    assert not left, f"left behind: {left}"


@pytest.fixture
def slurm(slurm_daemons: Slurm) -> Iterator[Slurm]:
    """A Slurm with an empty queue and all nodes up, and left so."""
    yield slurm_daemons
    slurm_daemons.clean()


@pytest.fixture
def project(tmp_path: Path, slurm: Slurm) -> Iterator[Project]:
    """A folder for a campaign; no process of its jobs may be left."""
    yield Project(tmp_path, slurm)
    slurm.clean()
    eventually(lambda: not slurm.processes(), "no process of a job")
