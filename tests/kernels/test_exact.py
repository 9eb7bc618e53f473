"""An oracle in the committee's place: its labels, its refusals, and the end of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from psutil import Process, pid_exists, wait_procs

from pal.errors import ContractError, LabelFailure
from pal.kernels.models.exact import Exact
from pal.records import Batch
from pal.roles import Context

BOWL = """
import os
from pathlib import Path

import numpy as np

from pal.errors import LabelFailure


class Bowl:
    def __init__(self, context, depth=0.0):
        self.depth = depth

    def label(self, sample):
        if sample["x"][0] > 2:
            raise LabelFailure("too far")
        assert not list(Path().iterdir())
        Path("scratch").write_text("mine")
        return {
            "cost": np.array((sample["x"] ** 2).sum() - self.depth),
            "process": np.array(float(os.getpid())),
        }
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Exact]]:
    (tmp_path / "bowl_oracle.py").write_text(BOWL)
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def build(**options: Any) -> Exact:
        context = Context("model", 0, 1, 7, tmp_path)
        made.append(Exact(context, kernel="bowl_oracle:Bowl", **options))
        return made[-1]

    yield build
    for model in made:
        model.close()


def batch(*values: float) -> Batch:
    return Batch([{"x": np.array([value, 0.0])} for value in values])


def test_it_says_what_the_oracle_says_in_the_order_of_the_samples(
    make: Callable[..., Exact],
) -> None:
    found = make(workers=2, options={"depth": 1.0}).predict(batch(0, 1, -2, 0.5, 1.5))
    assert [float(label["cost"]) for label in found] == [-1, 0, 3, -0.75, 1.25]
    assert all(label["process"] != os.getpid() for label in found)


def test_a_refused_label_ends_it_unless_there_is_another_value(
    make: Callable[..., Exact],
) -> None:
    with pytest.raises(LabelFailure, match="too far; the option `instead`"):
        make().predict(batch(0, 3))
    found = make(instead={"cost": 9.0, "process": 0.0}).predict(batch(3, 1))
    assert [float(label["cost"]) for label in found] == [9.0, 1.0]
    half = make(instead={"cost": 9.0})
    with pytest.raises(ContractError, match=r"instead lacks \['process'\]"):
        half.predict(batch(1)), half.predict(batch(3))


def test_a_wrong_number_of_workers_is_told(make: Callable[..., Exact]) -> None:
    with pytest.raises(ContractError, match="workers = 0; expected 1 or more"):
        make(workers=0)


def test_its_processes_end_with_it_even_when_it_is_killed(
    make: Callable[..., Exact], tmp_path: Path
) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        from pal.kernels.models.exact import Exact
        from pal.records import Batch
        from pal.roles import Context

        if __name__ == "__main__":
            sys.path.insert(0, sys.argv[1])
            model = Exact(Context("model", 0, 1, 7, Path()), kernel="bowl_oracle:Bowl", workers=2)
            model.predict(Batch([{"x": np.zeros(2)}] * 8))
            print("ready", flush=True)
            sys.stdin.read()
    """)
    (tmp_path / "run_it.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run_it.py", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    children = Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = wait_procs(children, timeout=20)
    assert not [child for child in alive if pid_exists(child.pid) and child.is_running()]
