"""Oracles and executors for tests beyond the job. Imported by name, on the other side, too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from toys import first_time, truth

from pal import Context, LabelFailure
from pal.records import Array


class Telling:
    """Tells where it is and what it sees; `text` are variables of the environment."""

    def __init__(self, context: Context, variables: str = "") -> None:
        self.context, self.variables = context, variables.split()
        self.built_in = os.getcwd()

    def label(self, sample: Array) -> dict[str, Array]:
        found = {name: np.array(os.environ.get(name, "-")) for name in self.variables}
        return {
            "pid": np.array(os.getpid()),
            "caller": np.array(os.getppid()),
            "folder": np.array(os.getcwd()),
            "built_in": np.array(self.built_in),
            "seed": np.array(self.context.seed),
            "directory": np.array(str(self.context.directory)),
            **found,
        }


class Waiting:
    """Notes its process in `folder`, and waits until there is a file `go` in it."""

    def __init__(self, folder: str, helper: bool = False) -> None:
        self.folder, self.helper = Path(folder), helper

    def label(self, sample: Array) -> Array:
        if not (self.folder / "go").exists():
            (self.folder / f"pid-{os.getpid()}").touch()
            if self.helper:
                code = (
                    f"import os, time; open('{self.folder}/program', 'w').write(str(os.getpid()))"
                )
                subprocess.run([sys.executable, "-c", f"{code}; time.sleep(1000)"], check=True)
        while not (self.folder / "go").exists():
            time.sleep(0.01)
        return truth(sample)


class Moody:
    """Raises, dies, hangs or says no, by the first coordinate of the sample; once with a flag."""

    def __init__(self, deed: str, flag: str = "", above: float = 1.5) -> None:
        self.deed, self.flag, self.above = deed, flag, above

    def label(self, sample: Array) -> Array:
        if sample[0] > self.above and (not self.flag or first_time(self.flag)):
            print("dark clouds", flush=True)
            if self.deed == "die":
                os.abort()
            if self.deed == "hang":
                time.sleep(1000)
            if self.deed == "refuse":
                raise LabelFailure("the cycles do not converge")
            raise ZeroDivisionError("a bug of the oracle")
        return truth(sample)


class Mpi:
    """Labels with an MPI program of two processes that add up a coordinate each."""

    CODE = (
        "import sys; from mpi4py import MPI; c = MPI.COMM_WORLD; "
        "p = c.allreduce(float(sys.argv[1 + c.rank]), MPI.PROD); assert c.size == 2; "
        "c.rank or print(1 + p)"
    )

    def label(self, sample: Array) -> Array:
        assert dict(os.environ)["OMPI_MCA_btl"] == "self,tcp"
        numbers = [repr(float(number)) for number in sample]
        command = ["mpiexec", "-n", "2", sys.executable, "-c", self.CODE, *numbers]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabelFailure(f"{done.stdout} {done.stderr}")
        return np.array([float(done.stdout)])


class Counted(ProcessPoolExecutor):
    """A pool that writes down that it was made."""

    def __init__(self, log: str, max_workers: int = 2) -> None:
        super().__init__(max_workers)
        with Path(log).open("a") as file:
            file.write("made\n")


class Flaky(ThreadPoolExecutor):
    """Breaks as a whole at its fifth label; the one made after it holds out."""

    breakages = (IndexError,)

    def __init__(self, flag: str) -> None:
        super().__init__(2)
        self.left = 4 if first_time(flag) else 10**6

    def submit(self, function: Any, /, *arguments: Any) -> Future[Any]:  # type: ignore[override]
        self.left -= 1
        if self.left < 0:
            raise IndexError("the batch system is away")
        return super().submit(function, *arguments)


class Faulty:
    """An executor all of whose futures fail."""

    breakages = (IndexError,)

    def __init__(self, how: str) -> None:
        self.error = {
            "module": ModuleNotFoundError("No module named 'pal'"),
            "lost": BrokenExecutor("gone"),
            "broken": IndexError("no such partition"),
        }[how]

    def submit(self, function: Any, /, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(self.error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to give back."""


def quick_parsl(context: Context) -> Any:
    """Parsl with blocks that notice soon that another end is gone."""
    from pal.runtime.outside import blocks

    blocks.PERIOD, blocks.THRESHOLD = 1, 3
    return blocks.blocks(context, provider="local", workers_per_node=2, max_blocks=1)
