"""The faults, one function each: done to a real `pal run`, and what came of it.

A scenario takes a fresh folder and its share of chance, and yields an `Outcome` for each fault.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fault_kernels import pids_of
from fault_world import World, eventually, small_disk

from pal.testing import faults

SPREAD: dict[str, Any] = {"model": {"predictors": 2, "trainers": 2}}
KINDS = ("generator-0", "exchange", "predictor-0", "oracle-0", "trainer-0")
SIGNS = {
    "generator-0": ("step-0",),
    "exchange": ("predict-0",),
    "predictor-0": ("predict-0",),
    "oracle-0": ("label-0",),
    "trainer-0": ("train-0",),
    "nursery": ("step-0", "predict-0", "label-0", "train-0"),
}
"""By what it is seen that a worker works again."""


class NotHereError(Exception):
    """This machine does not let the fault be made."""


@dataclass(frozen=True)
class Outcome:
    """`seen`: a line of what the user saw. `lost`: acknowledged labels that are gone.

    `back`: seconds from the fault, or from the next start after it, until the campaign went on.
    `remark`: what else there is to tell.
    """

    fault: str
    seen: str
    lost: int
    back: float
    remark: str = ""
    leaks: tuple[str, ...] = ()


Scenario: TypeAlias = Callable[[Path, random.Random], Iterator[Outcome]]


@contextmanager
def world(folder: Path, **sections: Any) -> Iterator[World]:
    made = World(folder, **sections)
    try:
        yield made
    finally:
        made.close()


def concluded(here: World, outcomes: list[Outcome]) -> Iterator[Outcome]:
    """End the campaign in good order, and add to each outcome what was found then."""
    assert here.end() == 0, here.said()
    lost, leaks = here.lost(), tuple(here.leaks())
    for number, item in enumerate(outcomes):
        first = not number
        yield Outcome(item.fault, item.seen, lost if first else 0, item.back, item.remark, leaks)


def await_again(here: World, name: str, old: set[int], at: float) -> float:
    """Wait until others than these processes do this worker's work, and labels are made."""
    signs = SIGNS[name]
    count = here.labels()

    def again() -> bool:
        beats = [here.beat(sign) for sign in signs]
        return all(pid not in old and when > at for pid, when in beats)

    eventually(again, f"{name} works again")
    eventually(lambda: here.labels() > count, "a label after the fault")
    return time.monotonic() - at


# Killed --------------------------------------------------------------------------------------


def killed_workers(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Kill -9 of one worker of each kind, one after the other, and of the nursery."""
    with world(folder, **SPREAD) as here:
        here.start()
        here.await_labels(3)
        outcomes = []
        before = 0
        names = [*KINDS]
        chance.shuffle(names)
        for name in (*names, "nursery"):
            eventually(lambda n=name: all(here.beat(s)[0] for s in SIGNS[n]), f"{name} works")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.2))
            before = before or here.descriptors()
            here.acknowledge()
            place = here.place()
            old = set(faults.workers(here.run).values())
            victim = nursery_of(here) if name == "nursery" else faults.workers(here.run)[name]
            at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            back = await_again(here, name, old if name == "nursery" else {victim}, at)
            kind = name.removesuffix("-0")
            seen = here.seen(place, "crash")
            outcomes.append(Outcome(f"kill -9 of {_article(kind)}", seen, 0, back))
        after = here.descriptors()
        if after > before + 1:  # one that SQLite keeps to open it again
            yield Outcome("descriptors of the agent", f"{before} -> {after}", 0, 0.0, "", ("fds",))
        yield from concluded(here, outcomes)


def _article(kind: str) -> str:
    one = {"generator": "a generator host", "predictor": "a predictor", "trainer": "a trainer"}
    return one.get(kind, {"oracle": "an oracle"}.get(kind, f"the {kind}"))


def nursery_of(here: World) -> int:
    """The process that bears the workers."""
    leader = faults.agent(here.run)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(words[1]) == leader and b"pal.runtime.nursery" in line:
            return int(folder.name)
    raise AssertionError("no nursery")


def killed_exchange_with_members(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Kill -9 of an exchange that holds the committee, and of one that holds the walkers, too."""
    for place in ("hosts", "committee"):
        with world(folder / place, generator={"placement": place}) as here:
            here.start()
            here.await_labels(3)
            eventually(lambda: here.beat("predict-0")[0], "predictions")
            time.sleep(chance.uniform(0, 0.3))
            here.acknowledge()
            output, at = here.place(), time.monotonic()
            victim = faults.kill(here.run, "exchange")
            back = await_again(here, "exchange", {victim}, at)
            what = "committee" + (" and the walkers" if place == "committee" else "")
            name = f"kill -9 of the exchange with the {what}"
            yield from concluded(here, [Outcome(name, here.seen(output, "crash"), 0, back)])


def killed_agent(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Kill -9 of `pal run` alone: all workers die with it, and the next one goes on."""
    yield from _cut_off(folder, chance, "kill -9 of the agent (`pal run`)", whole=False)


def killed_group(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Kill -9 of the whole process group, as a closed terminal or a scheduler does."""
    yield from _cut_off(folder, chance, "kill -9 of the whole group", whole=True)


def _cut_off(folder: Path, chance: random.Random, fault: str, whole: bool) -> Iterator[Outcome]:
    with world(folder) as here:
        began = here.start()
        if not whole:
            eventually(lambda: here.labels(), "a label")
            yield Outcome("none: a first start", "nothing", 0, time.monotonic() - began)
        for _ in range(5):
            # Also in the midst of starting: from before the first label on.
            time.sleep(max(0.0, began + chance.uniform(0.4, 2.0) - time.monotonic()))
            count = here.acknowledge() if here.labels() else 0
            assert here.process is not None
            at = time.monotonic()
            (os.killpg if whole else os.kill)(here.process.pid, signal.SIGKILL)
            here.process.wait()
            eventually(lambda: not here.processes(), "all workers gone")
            gone = time.monotonic() - at
            told = here.pal("status", here.run).stdout if count else ""
            state = next(
                (line.strip() for line in told.splitlines() if "State" in line), "nothing"
            )
            began = here.start()
            count = here.labels()
            eventually(lambda n=count: here.labels() > n, "a new label")  # type: ignore[misc]
            back = time.monotonic() - began
            remark = f"all processes gone after {gone:.2f} s"
            yield Outcome(
                fault, f"`pal status`: {' '.join(state.split())}", here.lost(), back, remark
            )
        yield from concluded(here, [])


# Stopped -------------------------------------------------------------------------------------


def stopped_workers(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """SIGSTOP of one worker of each kind for two seconds, then SIGCONT."""
    with world(folder, **SPREAD) as here:
        here.start()
        here.await_labels(3)
        outcomes = []
        for name in KINDS:
            eventually(lambda n=name: all(here.beat(s)[0] for s in SIGNS[n]), f"{name} works")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.2))
            count, place = here.labels(), here.place()
            here.acknowledge()
            with faults.frozen(here.run, name):
                time.sleep(2.0)
                made = here.labels() - count
            back = await_again(here, name, set(), time.monotonic())
            kind = _article(name.removesuffix("-0"))
            remark = f"{made} labels were made meanwhile"
            outcomes.append(
                Outcome(f"SIGSTOP of {kind}, SIGCONT", here.seen(place, "crash"), 0, back, remark)
            )
        yield from concluded(here, outcomes)


def stopped_for_ever(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """SIGSTOP of an oracle that has a deadline: it is killed, and its sample tried elsewhere."""
    with world(folder, oracle={"deadline": 1.0}) as here:
        here.start()
        here.await_labels(5)
        here.acknowledge()
        time.sleep(chance.uniform(0, 0.2))
        place, at = here.place(), time.monotonic()
        victim = faults.kill(here.run, "oracle-0", signal.SIGSTOP)
        back = await_again(here, "oracle-0", {victim}, at)
        yield from concluded(
            here,
            [Outcome("SIGSTOP of an oracle, for ever", here.seen(place, "deadline"), 0, back)],
        )


def stopped_agent(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """SIGSTOP of `pal run` for two seconds, as Ctrl-Z does."""
    with world(folder) as here:
        here.start()
        here.await_labels(5)
        leader = faults.agent(here.run)
        os.kill(leader, signal.SIGSTOP)
        time.sleep(2.0)
        here.acknowledge()
        place, at, count = here.place(), time.monotonic(), here.labels()
        os.kill(leader, signal.SIGCONT)
        eventually(lambda: here.labels() > count, "a new label")
        outcome = Outcome(
            "SIGSTOP of the agent, SIGCONT", here.seen(place, "crash"), 0, time.monotonic() - at
        )
        yield from concluded(here, [outcome])


# Oracles that misbehave ----------------------------------------------------------------------


def _misbehaving(
    folder: Path, fault: str, deed: str, pattern: str, **oracle: Any
) -> Iterator[Outcome]:
    flag = folder / "flag"
    folder.mkdir(exist_ok=True)
    with world(folder, oracle={"options": {"deed": deed, "flag": str(flag)}, **oracle}) as here:
        here.start()
        eventually(flag.exists, "the deed")
        at, count = time.monotonic(), here.labels()
        eventually(lambda: here.seen(0, pattern) != "nothing", "a failure is told")
        told = time.monotonic() - at
        eventually(lambda: here.labels() > count, "another label")
        both = [here.beat(f"label-{index}") for index in (0, 1)]
        eventually(
            lambda: all(
                here.beat(f"label-{index}")[1] > max(at, when)
                for index, (_, when) in enumerate(both)
            ),
            "both oracles work",
        )
        back = time.monotonic() - at
        here.acknowledge()
        left = [pid for n in (1000, 1001, 1002) for pid in pids_of(f"sleep {n}")]
        remark = f"told after {told:.2f} s" + (f"; LEFT: {left}" if left else "")
        outcome = Outcome(fault, here.seen(0, pattern), 0, back, remark)
        yield from concluded(here, [outcome])


def segfault(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """An oracle's C code reads address 0."""
    yield from _misbehaving(folder, "segfault in an oracle's C code", "segfault", "SIGSEGV")


def memory(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """An oracle takes memory until it meets its limit."""
    yield from _misbehaving(
        folder,
        'an oracle that eats memory, `oracle.memory = "1 GiB"`',
        "hog",
        "MemoryError",
        memory="1 GiB",
    )


def endless(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """An oracle that never returns, ignores SIGTERM, and has children that left its group."""
    yield from _misbehaving(
        folder,
        "an oracle that never returns, ignores SIGTERM and leaves grandchildren, "
        "`oracle.deadline = 1`",
        "never_return",
        "deadline",
        deadline=1.0,
    )


# Disks ---------------------------------------------------------------------------------------


@contextmanager
def mounted(place: Path) -> Iterator[Path]:
    if not small_disk(place):
        raise NotHereError("mounting a small disk needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def full_disk(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """The disk is full for three seconds; then there is room again."""
    folder.mkdir(exist_ok=True)
    with mounted(folder / "disk") as disk, world(folder, disk=disk) as here:
        here.start()
        here.await_labels(5)
        place = here.place()
        ballast = _fill(disk)
        eventually(lambda: here.seen(place, "waits in memory") != "nothing", "it is told")
        count = here.acknowledge()
        time.sleep(3.0)
        assert here.process is not None
        assert here.process.poll() is None, here.said()
        at = time.monotonic()
        ballast.unlink()
        eventually(lambda: here.labels() > count, "a label")
        back = time.monotonic() - at
        eventually(lambda: here.seen(place, "taken all") != "nothing", "it is told to be over")
        outcome = Outcome("full disk, for 3 s", here.seen(place, "waits in memory"), 0, back)
        yield from concluded(here, [outcome])


def full_disk_for_long(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """The disk stays full: the campaign ends; when there is room, the next run goes on."""
    folder.mkdir(exist_ok=True)
    stop = {"stop": {"disk": 1.0}}
    with mounted(folder / "disk") as disk, world(folder, disk=disk, **stop) as here:
        here.start()
        here.await_labels(5)
        place = here.place()
        ballast = _fill(disk)
        assert here.process is not None
        code = here.process.wait(30)
        count = here.acknowledge()
        seen = here.seen(place, "^error: the")
        ballast.unlink()
        at = here.start()
        eventually(lambda: here.labels() > count, "a label")
        back = time.monotonic() - at
        fault = "full disk, longer than `stop.disk`; then room, and `pal run`"
        yield from concluded(here, [Outcome(fault, seen, 0, back, f"exit code {code}")])


def _fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def readonly_disk(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """The disk is read-only when `pal run` is to go on."""
    folder.mkdir(exist_ok=True)
    with mounted(folder / "disk") as disk, world(folder, disk=disk) as here:
        here.start()
        here.await_labels(5)
        assert here.end() == 0
        count = here.acknowledge()
        remount = ["mount", "-o", "remount,ro", str(disk)]
        if subprocess.run(remount, capture_output=True, check=False).returncode:
            raise NotHereError("this machine does not remount")
        here.start()
        assert here.process is not None
        code = here.process.wait(30)
        seen = here.seen(pattern="^error")
        status = here.pal("status", here.run)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        at = here.start()
        eventually(lambda: here.labels() > count, "a label")
        back = time.monotonic() - at
        remark = f"exit code {code}; `pal status` works: {not status.returncode}"
        outcome = Outcome("read-only disk; then not, and `pal run`", seen, 0, back, remark)
        yield from concluded(here, [outcome])


# Damaged files -------------------------------------------------------------------------------


def _ended(here: World, labels: int = 30) -> int:
    """Run until there are labels and weights, and kill it."""
    here.start()
    here.await_labels(labels)
    eventually(lambda: len(list((here.run / "models").glob("v??????"))) > 1, "weights on the disk")
    eventually(lambda: here.copied() > labels, "a copy of the ledger that is not the first")
    assert here.process is not None
    os.killpg(here.process.pid, signal.SIGKILL)
    here.process.wait()
    eventually(lambda: not here.processes(), "all workers gone")
    return here.acknowledge()


def _damaged_ledger(folder: Path, fault: str, harm: Callable[[Path], None]) -> Iterator[Outcome]:
    with world(folder) as here:
        _ended(here)
        # As after the end of a session: all labels are in the one file.
        assert here.pal("export", here.run).returncode == 0
        harm(here.run / "ledger.sqlite")
        here.start()
        assert here.process is not None
        assert here.process.wait(30) == 4, here.said()
        seen = here.seen(pattern="^error")
        assert here.pal("status", here.run).returncode == 4
        found = here.pal("recover", here.run)
        assert found.returncode == 0, found.stderr
        account = found.stdout.splitlines()[0]
        count = here.labels()
        at = here.start()
        eventually(lambda: here.labels() > count, "a label")
        back = time.monotonic() - at
        assert here.end() == 0
        with_account = f"`pal recover`: {account}"
        yield Outcome(fault, seen, here.lost(), back, with_account, tuple(here.leaks()))


def ledger_cut(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """The ledger is cut short; `pal recover`, then `pal run`."""
    share = chance.uniform(0.0, 0.95)
    yield from _damaged_ledger(folder, "ledger cut short", lambda file: faults.cut(file, share))


def ledger_overwritten(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Some pages of the ledger are overwritten, at times the first one, too."""

    def harm(file: Path) -> None:
        data = bytearray(file.read_bytes())
        pages = chance.sample(range(len(data) // 4096), 4)
        for page in pages:
            data[4096 * page : 4096 * (page + 1)] = chance.randbytes(4096)
        file.write_bytes(data)

    yield from _damaged_ledger(folder, "ledger overwritten in 4 places", harm)


def weights_cut(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """A file of the newest weights is cut short."""
    with world(folder) as here:
        count = _ended(here)
        newest = max((here.run / "models").glob("v??????"))
        faults.cut(newest / "member-1.npz", chance.random())
        yield from _goes_on(here, count, "weights file cut short", "damaged or cut short")


def states_cut(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """All newest saved states are cut short."""
    with world(folder) as here:
        count = _ended(here)
        for path in (here.run / "states").glob("*.state"):
            faults.cut(path, chance.random())
        yield from _goes_on(here, count, "saved states cut short", "cut short or damaged")


def _goes_on(
    here: World, count: int, fault: str, pattern: str, remark: str = "", **changes: Any
) -> Iterator[Outcome]:
    at = here.start(**changes)
    eventually(lambda: here.labels() > count, "a label")
    back = time.monotonic() - at
    eventually(lambda: here.seen(pattern=pattern) != "nothing", "it is told")
    outcome = Outcome(fault, here.seen(pattern=pattern), 0, back, remark)
    yield from concluded(here, [outcome])


# Clock and settings --------------------------------------------------------------------------

_CLOCK = """
import os, time
_real = time.time
def _set_back():
    return _real() - (3600.0 if os.path.exists({flag!r}) else 0.0)
time.time = _set_back
"""


def clock_back(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """The clock of the machine is set back by an hour, while it runs and before it goes on."""
    with world(folder) as here:
        flag = here.folder / "an-hour-back"
        (here.extra / "sitecustomize.py").write_text(_CLOCK.format(flag=str(flag)))
        here.start()
        here.await_labels(5)
        here.acknowledge()
        at = time.monotonic()
        flag.touch()
        count = here.labels()
        eventually(lambda: here.labels() > count, "a label")
        back = time.monotonic() - at
        steps = here.beat("step-0")
        eventually(lambda: here.beat("step-0")[1] > steps[1], "walkers go on")
        status = here.pal("status", here.run)
        assert "running for 0.0 s" in status.stdout, status.stdout
        assert here.end() == 0
        count = here.acknowledge()
        here.start()
        eventually(lambda: here.labels() > count, "a label in the next session")
        outcome = Outcome("clock set back by an hour", here.seen(0, "went back"), 0, back)
        yield from concluded(here, [outcome])


def settings_changed(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """The settings file is another one when `pal run` goes on: harmless, then another oracle."""
    with world(folder) as here:
        count = _ended(here)
        fault = "settings changed between runs"
        yield from _goes_on(here, count, fault, "settings changed", oracle={"workers": 3})
        theory = {"oracle": {"options": {"seconds": 0.02}}}
        here.start(**theory)
        assert here.process is not None
        assert here.process.wait(30) == 4
        seen, count = here.seen(pattern="^error"), here.labels()
        at = here.start("--accept-changes", **theory)
        eventually(lambda: here.labels() > count, "a label")
        back = time.monotonic() - at
        fault = "another oracle between runs; then `--accept-changes`"
        yield from concluded(here, [Outcome(fault, seen, 0, back, "exit code 4 at first")])


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__.replace("_", "-"): scenario
    for scenario in (
        killed_workers,
        killed_exchange_with_members,
        killed_agent,
        killed_group,
        stopped_workers,
        stopped_for_ever,
        stopped_agent,
        segfault,
        memory,
        endless,
        full_disk,
        full_disk_for_long,
        readonly_disk,
        ledger_cut,
        ledger_overwritten,
        weights_cut,
        states_cut,
        clock_back,
        settings_changed,
    )
}
