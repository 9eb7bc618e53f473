"""The MPI program of these tests: `mpiexec -n 4 python program.py ACT FOLDER`.

Each rank writes what it has seen to FOLDER/RANK.json before it ends, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "transport"))

from fabric_checks import CHECKS, Mail, run

from pal.errors import WorldError
from pal.transport import mpi
from pal.transport.fabric import Fabric, Letter, Lost
from pal.transport.launch import connect, launched

FOLDER = Path(sys.argv[2])


def segments() -> list[str]:
    """Shared memory of MPI that this process holds, and that still has a name."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in paths if path.startswith("/dev/shm/"))


class Seen:
    """The news of one rank, and when they came."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.letters: list[Any] = []
        self.lost: list[tuple[int, float]] = []

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Run the loop of an agent until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came"
            self.look()
            time.sleep(self.fabric.pause)

    def look(self) -> None:
        for item in self.fabric.receive():
            if isinstance(item, Lost):
                self.lost.append((item.rank, time.time()))
            elif isinstance(item, Letter):
                self.letters.append(item.message)

    def words(self) -> list[str]:
        return [item for item in self.letters if isinstance(item, str)]

    def gather(self, word: str, ranks: list[int]) -> None:
        """Send a word to these ranks, and wait for theirs."""
        for rank in ranks:
            self.fabric.send(rank, word)
        self.until(lambda: self.words().count(word) == len(ranks))

    def write(self, **more: Any) -> None:
        note = {
            "pid": os.getpid(),
            "segments": segments(),
            "survives": self.fabric.survives,
            "description": self.fabric.description,
            "letters": self.words(),
            "lost": self.lost,
            **more,
        }
        path = FOLDER / f"{self.fabric.rank}.json"
        path.with_suffix(".part").write_text(json.dumps(note))
        path.with_suffix(".part").rename(path)


def conformance(fabric: Fabric) -> None:
    mail = Mail(fabric)
    results: dict[str, str] = {}
    for check in CHECKS:
        try:
            for _ in run(check, mail):
                time.sleep(fabric.pause)
            results[check.__name__] = "passed"
        except Exception:
            results[check.__name__] = traceback.format_exc()
            break
    Seen(fabric).write(results=results, errors=mail.errors)
    fabric.close()


def die(seen: Seen, number: int) -> NoReturn:
    seen.write(died=time.time())
    os.kill(os.getpid(), number)
    raise AssertionError("still alive")


def death(fabric: Fabric, victim: int, number: int, busy: bool = False, code: int = 0) -> None:
    """One rank dies by a signal; the others notice, talk to each other, and end."""
    seen = Seen(fabric)
    others = [rank for rank in range(fabric.size) if rank != victim]
    seen.gather("hello", list(range(fabric.size)))
    if busy:
        for rank in range(fabric.size):
            fabric.send(rank, np.zeros(8 << 20, np.uint8), "weights")
        seen.look()
    if fabric.rank == victim:
        die(seen, number)
    seen.until(lambda: bool(seen.lost))
    fabric.send(victim, "nobody")
    seen.gather("after it", others)
    for rank in others:
        fabric.send(rank, np.zeros(8 << 20, np.uint8))
    arrays = len(others) * (2 if busy else 1)
    seen.until(lambda: sum(isinstance(item, np.ndarray) for item in seen.letters) >= arrays)
    seen.write(backlog=fabric.backlog(victim))
    if code:
        fabric.send(others[-1], "written")  # the abort spares nobody who is still at it
        if fabric.rank == others[-1]:
            seen.until(lambda: seen.words().count("written") == len(others))
            fabric.abort(code)
    fabric.close(lost=True)


def two_deaths(fabric: Fabric) -> None:
    """Ranks 0 and 2 die at the same time."""
    seen = Seen(fabric)
    seen.gather("hello", list(range(fabric.size)))
    if fabric.rank in (0, 2):
        die(seen, signal.SIGKILL)
    seen.until(lambda: len(seen.lost) == 2)
    seen.gather("after it", [1, 3])
    seen.write()
    fabric.close(lost=True)


def ends_with_codes(fabric: Fabric) -> None:
    """After a death, each survivor ends in order, and with a code of its own."""
    death(fabric, 3, signal.SIGKILL)
    sys.exit(5 if fabric.rank == 2 else 0)


def frozen(fabric: Fabric) -> None:
    """Rank 3 stands still while much is under way from and to it; the head expels it."""
    seen = Seen(fabric)
    seen.gather("hello", list(range(fabric.size)))
    for rank in range(fabric.size):
        fabric.send(rank, np.zeros(8 << 20, np.uint8), "weights")
    seen.look()
    if fabric.rank == 3:
        seen.write()
        os.kill(os.getpid(), signal.SIGSTOP)
        while True:  # thawed by the end of the job: what an agent would do
            fabric.receive()
            time.sleep(fabric.pause)
    seen.until(lambda: sum(isinstance(item, np.ndarray) for item in seen.letters) >= 3)
    if fabric.rank == 0:
        fabric.expel(3, "you are too late")
    seen.gather("after it", [0, 1, 2])
    seen.write(backlog=fabric.backlog(3))
    fabric.close(lost=True)


def expelled(fabric: Fabric) -> None:
    """Rank 3 is alive and hears that it is expelled."""
    seen = Seen(fabric)
    seen.gather("hello", list(range(fabric.size)))
    if fabric.rank == 0:
        fabric.expel(3, "you are expelled")
    if fabric.rank == 3:
        seen.until(lambda: "you are expelled" in seen.words())
        fabric.send(0, "why?")
        seen.write()
    fabric.close(lost=True)
    seen.write()


def outlived(fabric: Fabric) -> None:
    """Rank 3 hears that it is expelled, and the others go on for longer than it has patience."""
    mpi._PATIENCE_WITH_MPI = 1
    seen = Seen(fabric)
    seen.gather("hello", list(range(fabric.size)))
    if fabric.rank == 0:
        fabric.expel(3, "you are expelled")
    if fabric.rank == 3:
        seen.until(lambda: "you are expelled" in seen.words())
        seen.write()
        fabric.close(lost=True)
    end = time.monotonic() + 3.0
    seen.until(lambda: time.monotonic() > end)
    seen.gather("after it", [0, 1, 2])
    seen.write()
    fabric.close(lost=True)


def unclosed(fabric: Fabric) -> None:
    """Rank 1 fails without a farewell."""
    seen = Seen(fabric)
    seen.gather("hello", list(range(fabric.size)))
    seen.write()
    if fabric.rank == 1:
        raise RuntimeError("a mistake in the agent")
    seen.until(lambda: bool(seen.lost), seconds=5.0)
    seen.write()
    fabric.close(lost=True)


def abort(fabric: Fabric) -> None:
    """The last rank ends all, also those that never look."""
    seen = Seen(fabric)
    seen.gather("hello", list(range(fabric.size)))
    seen.write()
    if fabric.rank == fabric.size - 1:
        fabric.abort(7)
    if fabric.rank == 0:
        time.sleep(30)
    seen.until(lambda: False, seconds=30)


def late(fabric: Fabric) -> None:
    """Rank 0 comes to the end later than the others; waiting for it must cost nothing."""
    seen = Seen(fabric)
    seen.gather("hello", list(range(fabric.size)))
    if fabric.rank == 0:
        time.sleep(1.0)
    before = time.process_time()
    fabric.close()
    seen.write(busy=time.process_time() - before)


ACTS: dict[str, Callable[[Fabric], None]] = {
    "conformance": conformance,
    "kill-last": lambda fabric: death(fabric, fabric.size - 1, signal.SIGKILL),
    "kill-head": lambda fabric: death(fabric, 0, signal.SIGKILL),
    "segfault": lambda fabric: death(fabric, 1, signal.SIGSEGV),
    "kill-busy": lambda fabric: death(fabric, 1, signal.SIGKILL, busy=True),
    "kill-and-abort": lambda fabric: death(fabric, 3, signal.SIGKILL, code=9),
    "two-deaths": two_deaths,
    "codes": ends_with_codes,
    "frozen": frozen,
    "expelled": expelled,
    "outlived": outlived,
    "unclosed": unclosed,
    "abort": abort,
    "late": late,
}


def main() -> None:
    launch = launched()
    assert launch is not None
    try:
        fabric = connect(launch)
    except WorldError as error:
        (FOLDER / f"error-{os.getpid()}.txt").write_text(str(error))
        sys.exit(error.exit_code)
    ACTS[sys.argv[1]](fabric)


if __name__ == "__main__":
    main()
