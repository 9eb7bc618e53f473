"""What every agent of `scale.py` runs: one campaign; the head notes what it sees of it.

    mpiexec -n 4 python scale_agent.py FOLDER

FOLDER/plan.json holds the settings. The campaign goes on until there is a file FOLDER/enough.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pal.monitor.metrics import Snapshot
from pal.runtime.campaign import Campaign
from pal.runtime.carrier import Carrier
from pal.runtime.happenings import Note
from pal.runtime.releases import Releases
from pal.transport import mpi

REPEATS = 5


def bare(size: int) -> dict[str, float]:
    """Seconds in which MPI alone brings so many bytes to one rank, and to all."""
    comm = mpi.start().COMM_WORLD
    buffer = np.ones(size, np.uint8)

    def one() -> None:
        if comm.rank == 0:
            comm.Send(buffer, 1)
        elif comm.rank == 1:
            comm.Recv(buffer, 0)

    found = {}
    for name, move in (("send", one), ("broadcast", lambda: comm.Bcast(buffer, 0))):
        times = []
        for _ in range(REPEATS):
            comm.Barrier()
            start = time.monotonic()
            move()
            comm.Barrier()
            times.append(time.monotonic() - start)
        found[name] = statistics.median(times)
    return found


class Witness:
    """Notes at the head what only it knows: when labels were asked for, and weights released."""

    def __init__(self) -> None:
        self.asked: dict[int, float] = {}
        self.labels: list[tuple[float, float]] = []
        """When a label was asked for, and how many seconds later it was there."""
        self.released: list[float] = []
        self._before(Carrier, "_start_label", lambda o: self.asked.update({o.sample: _now()}))
        self._before(Carrier, "answered", lambda _, answer: self._answered(answer.identity))
        self._before(Releases, "release", lambda *_: self.released.append(_now()))

    def _before(self, owner: type, name: str, note: Callable[..., None]) -> None:
        method = getattr(owner, name)

        def noted(self: Any, *arguments: Any) -> Any:
            note(*arguments)
            return method(self, *arguments)

        setattr(owner, name, noted)

    def _answered(self, sample: int) -> None:
        start = self.asked.pop(sample, None)
        if start is not None:
            self.labels.append((start, _now() - start))


def _now() -> float:
    return time.monotonic()


def lead(campaign: Campaign, folder: Path) -> None:
    """Run to the end; write a line for every snapshot and for whatever goes wrong."""
    enough, told = folder / "enough", False
    with (folder / "news.jsonl").open("a", buffering=1) as news:
        for happening in campaign:
            line: dict[str, Any] = {"now": _now(), "problem": str(happening).partition("\n")[0]}
            if isinstance(happening, Note) and happening.level == "info":
                continue
            if isinstance(happening, Snapshot):
                assert campaign._session is not None
                stations = campaign._session.cluster.stations.values()
                line = {"now": _now(), "workers": len(stations)} | happening.as_dict()
                line["ready"] = sum(station.ready for station in stations)
            news.write(json.dumps(line) + "\n")
            if not told and enough.exists():
                told = True
                news.write(json.dumps({"now": _now(), "stopped": True}) + "\n")
                campaign.stop("enough seen")


def main(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    (folder / f"agent-{rank}").write_text(str(os.getpid()))
    seen = {"floor": bare(plan["floor"])} if plan["floor"] else {}
    witness = Witness()
    lead(Campaign(**plan["settings"]), folder)
    if rank == 0:
        seen |= {"labels": witness.labels, "released": witness.released}
        (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
