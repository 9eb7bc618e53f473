"""One label beyond the job: made in a process of its own, and whatever happens is told."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rig import TOYS, eventually, kill

from pal.building import KernelSpec
from pal.runtime.outside import remote
from pal.runtime.outside.errands import Answer, Errand, Terms

pytestmark = pytest.mark.usefixtures("ended", "left_clean")
PATHS = (TOYS,)


@pytest.fixture
def ended(left_clean: None) -> Iterator[None]:
    """End what waits for more work, before anyone looks for what is left."""
    yield
    remote.end_helpers()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run directory."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    return tmp_path / "run"


def errand(folder: Path, kernel: str, number: int = 7, **more: Any) -> Errand:
    terms: dict[str, Any] = {
        "key": "campaign",
        "home": None,
        "seed": 3,
        "count": 4,
        "threads": 1,
        "deadline": None,
    }
    options, oracle = more.pop("options", {}), more.pop("oracle", 2)
    spec = KernelSpec("oracle", f"outside_toys:{kernel}", b"", options, PATHS)
    sample = np.array([1.9, 3.0])
    described = Terms(kernel=spec, directory=folder, **terms | more)
    return Errand(described, oracle, number, sample, attempt=1)


def ask(folder: Path, kernel: str, **more: Any) -> Answer:
    return remote.label(errand(folder, kernel, **more))


def told(answer: Answer) -> dict[str, Any]:
    assert answer.failure is None, answer.failure
    assert isinstance(answer.label, dict)
    return {name: array.item() for name, array in answer.label.items()}


def test_a_helper_labels_in_a_fresh_folder_and_is_kept(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    first = told(ask(folder, "Telling", number=1, home=home))
    second = told(ask(folder, "Telling", number=2, home=home))
    assert first["pid"] == second["pid"] != os.getpid()
    assert first["caller"] == os.getpid()
    assert (first["folder"], second["folder"]) == (
        str(folder / "scratch" / "1-1"),
        str(folder / "scratch" / "2-1"),
    )
    assert first["built_in"] == str(home)
    assert not list((folder / "scratch").iterdir())
    assert (folder / "logs" / "oracle-2.log").exists()


def test_two_at_once_have_helpers_folders_and_seeds_of_their_own(folder: Path) -> None:
    go = folder / "pids"
    go.mkdir()
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(ask, folder, "Waiting", number=n, options={"folder": str(go)})
            for n in (1, 2)
        ]
        eventually(lambda: len(list(go.glob("pid-*"))) == 2, "two helpers")
        (go / "go").touch()
        assert [future.result().verdict for future in futures] == ["labelled"] * 2
        answers = [told(ask(folder, "Telling", number=n, key=f"k{n}")) for n in (1, 2)]
    assert len({answer["seed"] for answer in answers}) == 2
    assert len({answer["directory"] for answer in answers}) == 2


def test_where_the_run_directory_is_not_seen_a_temporary_one_does(tmp_path: Path) -> None:
    found = told(ask(tmp_path / "elsewhere", "Telling", home=tmp_path / "neither"))
    base = Path(found["folder"]).parents[1]
    assert base.is_dir()
    assert Path(found["directory"]).is_relative_to(base)
    remote.end_helpers()
    assert not base.exists()
    assert not (tmp_path / "elsewhere").exists()


def test_helpers_of_another_campaign_are_ended(folder: Path) -> None:
    first = told(ask(folder, "Telling", key="one"))["pid"]
    assert psutil.pid_exists(first)
    told(ask(folder, "Telling", key="two"))
    assert not psutil.pid_exists(first)


def test_an_exception_is_told_with_its_traceback(folder: Path) -> None:
    answer = ask(folder, "Moody", options={"deed": "raise"})
    assert answer.verdict == "refused"
    assert answer.failure is not None
    assert (answer.failure.kind, answer.failure.sample) == ("ZeroDivisionError", 7)
    assert "outside_toys.py" in answer.failure.traceback
    assert answer.failure.host == answer.host


def test_a_crash_costs_the_helper_and_is_told_with_its_last_words(folder: Path) -> None:
    answer = ask(folder, "Moody", options={"deed": "die"})
    assert answer.verdict == "down"
    assert answer.failure is not None
    assert (answer.failure.kind, answer.failure.index) == ("crash", 2)
    assert "SIGABRT" in answer.failure.message
    assert "dark clouds" in answer.failure.traceback
    assert not list((folder / "scratch").iterdir())
    assert ask(folder, "Telling", key="next").verdict == "labelled"


def test_a_deadline_kills_the_helper_and_its_programs(folder: Path, tmp_path: Path) -> None:
    options = {"folder": str(tmp_path), "helper": True}
    answer = ask(folder, "Waiting", options=options, deadline=2.0)
    assert answer.verdict == "down"
    assert answer.failure is not None
    assert answer.failure.kind == "deadline"
    program = int((tmp_path / "program").read_text())
    eventually(lambda: not alive(program), "the program is gone")


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("kernel", ["Absent", "Waiting"])
def test_an_oracle_that_cannot_be_built_is_told(folder: Path, kernel: str) -> None:
    answer = ask(folder, kernel)
    assert answer.verdict == "unbuilt"
    assert answer.failure is not None
    assert answer.failure.kind == "KernelImportError"


def test_a_helper_dies_with_whoever_called_it(folder: Path, tmp_path: Path) -> None:
    code = (
        "import pickle, sys; from pal.runtime.outside import remote; "
        "remote.label(pickle.load(open(sys.argv[1], 'rb')))"
    )
    import pickle

    wanted = errand(folder, "Waiting", options={"folder": str(tmp_path), "helper": True})
    (tmp_path / "errand").write_bytes(pickle.dumps(wanted))
    caller = subprocess.Popen([sys.executable, "-c", code, tmp_path / "errand"])
    eventually((tmp_path / "program").exists, "the program runs")
    (helper,) = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    program = int(eventually((tmp_path / "program").read_text, "its number"))
    kill(caller.pid)
    caller.wait()
    eventually(lambda: not alive(helper) and not alive(program), "both are gone")


def test_the_environment_keeps_what_users_set_for_mpi(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_MCA_btl", "self")
    names = "OMPI_COMM_WORLD_RANK OMPI_MCA_btl OMP_NUM_THREADS"
    key = uuid.uuid4().hex
    found = told(ask(folder, "Telling", options={"variables": names}, key=key, threads=2))
    assert [found[name] for name in names.split()] == ["-", "self", "2"]
