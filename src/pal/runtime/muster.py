"""Before a campaign its agents gather: who is there, of which version, with which settings."""

from __future__ import annotations

import hashlib
import json
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pal import __version__
from pal.errors import PalError, WorldError
from pal.ledger.directory import MUSTER
from pal.runtime import wire
from pal.runtime.agent import Agent
from pal.runtime.cluster import Cluster, farewell
from pal.runtime.machines import HEAD, Machine, bound_tightly, shared, this_machine
from pal.settings import Settings, dump
from pal.transport import launch
from pal.transport.alone import Alone
from pal.transport.fabric import Fabric, Letter, Lost

PATIENCE = 120.0
"""Seconds for all agents to appear, from the first on."""


def hello(rank: int, settings: Settings) -> wire.Hello:
    """Return what an agent says first."""
    text = json.dumps(dump(settings), sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return wire.Hello(this_machine(rank), _version(), digest)


def _version() -> str:
    return f"PAL {__version__}, Python {platform.python_version()}"


def connect(nodes: int | None = None) -> Fabric:
    """Return the road to the other agents of this job; without any, one to this agent itself.

    Raises:
        WorldError: MPI does not connect what the launcher has started, or there is another
            number of agents than `nodes`; says what to do.
    """
    started = launch.launched()
    alone = started is None or started.size == 1
    fabric: Fabric = Alone() if started is None or alone else launch.connect(started)
    if nodes is not None and nodes != fabric.size:
        size, rank = fabric.size, fabric.rank
        fabric.close()
        if rank != HEAD:
            raise SystemExit(WorldError.exit_code)  # the head says why
        raise WorldError(
            f"{nodes} nodes were asked for, and {size} agent{'s are' if size > 1 else ' is'} "
            f"there ({fabric.description}); start one on each node: mpirun -n {nodes} --map-by "
            f"ppr:1:node --bind-to none pal run --nodes {nodes} ..., or srun -N {nodes}"
        )
    return fabric


def decline(error: PalError) -> bool:
    """Tell the other agents of this job, who may wait for this one, that it cannot begin.

    Return whether the user hears of it by the head, and need not by this one.
    """
    try:
        fabric = connect()
        if fabric.size == 1:
            return False
        own = wire.Hello(this_machine(fabric.rank), _version(), "", str(error))
        if fabric.rank != HEAD:
            join(fabric, own)
        else:
            with suppress(WorldError):
                gather(fabric, own)
            farewell(fabric, range(1, fabric.size))
        fabric.close()
    except WorldError:
        return False
    return fabric.rank != HEAD


@contextmanager
def leading(fabric: Fabric, settings: Settings, own: wire.Hello) -> Iterator[Cluster]:
    """Gather all agents as the head; send them home in the end.

    Raises:
        WorldError: they do not fit together.
    """
    try:
        found = gather(fabric, own)
    except BaseException:
        farewell(fabric, range(1, fabric.size))
        fabric.close()
        raise
    restart = settings.restart
    agent = Agent(restart.budget, restart.delay, settings.exchange.slot_size)
    cluster = Cluster(fabric, agent, shared(found), restart.silence)
    cluster.remarks = remarks(fabric, found)
    try:
        yield cluster
    finally:
        cluster.end()


def gather(fabric: Fabric, own: wire.Hello) -> tuple[Machine, ...]:
    """Hear from every agent, as the head; return what each may use, for itself.

    Raises:
        WorldError: one does not answer, is of another version, or has read other settings.
    """
    found = {HEAD: own}
    for letter in _letters(fabric, PATIENCE, lambda: len(found) == fabric.size):
        if isinstance(letter.message, wire.Hello):
            found[letter.source] = letter.message
    missing = [rank for rank in range(fabric.size) if rank not in found]
    if missing:
        raise WorldError(
            f"{len(found)} of {fabric.size} agents are there; no word from rank "
            f"{', '.join(map(str, missing))} within {PATIENCE:.0f} s: look at what they print"
        )
    for rank, other in sorted(found.items()):
        _compare(rank, own, other)
    return tuple(found[rank].machine for rank in sorted(found))


def remarks(fabric: Fabric, machines: Sequence[Machine]) -> list[str]:
    """Say what the operator should know of the agents before the campaign begins."""
    if fabric.size == 1:
        return []
    told = [bound_tightly(m, sum(m.host == other.host for other in machines)) for m in machines]
    if not fabric.survives:
        told.append(
            f"{fabric.description}: an agent that dies ends the job, and `pal run` goes on with "
            "it; with Open MPI 5, `mpirun --with-ft ulfm` lets the other agents go on at once"
        )
    return [text for text in told if text]


def _compare(rank: int, own: wire.Hello, other: wire.Hello) -> None:
    who = f"the agent of rank {rank} on {other.machine.host}"
    if other.problem != own.problem:
        raise WorldError(f"{who} cannot begin: {other.problem}")
    if other.version != own.version:
        raise WorldError(
            f"{who} runs {other.version}, the head on {own.machine.host} {own.version}; install "
            "the same on all nodes, or activate the same environment"
        )
    if other.digest != own.digest:
        raise WorldError(
            f"{who} has read other settings than the head on {own.machine.host}; start all of "
            "them with the same settings file and options"
        )


@contextmanager
def welcomed(fabric: Fabric, settings: Settings, directory: Path) -> Iterator[None]:
    """Begin the campaign on all nodes, once each of them sees the run directory.

    Raises:
        WorldError: a node does not see it.
    """
    if fabric.size == 1:
        yield
        return
    for left in directory.glob(f"{MUSTER}*"):  # by a job that was killed as it began
        left.unlink()
    token = directory / f"{MUSTER}{uuid.uuid4().hex}"
    token.touch()
    restart = settings.restart
    try:
        for rank in range(1, fabric.size):
            fabric.send(
                rank,
                wire.Welcome(
                    restart.budget,
                    restart.delay,
                    settings.exchange.slot_size,
                    restart.silence,
                    token,
                ),
            )
        _await_sight(fabric)
    finally:
        with suppress(OSError):
            token.unlink()
    yield


def _await_sight(fabric: Fabric) -> None:
    seen: dict[int, str] = {}
    for letter in _letters(fabric, PATIENCE, lambda: len(seen) == fabric.size - 1):
        if isinstance(letter.message, wire.Sees):
            seen[letter.source] = letter.message.problem
    problems = [text for text in seen.values() if text]
    if problems or len(seen) < fabric.size - 1:
        raise WorldError("; ".join(problems) or "an agent fell silent before the campaign began")


def _letters(fabric: Fabric, seconds: float, done: Callable[[], bool]) -> Iterator[Letter]:
    """Yield what comes until `done`, or until the time is up.

    Raises:
        WorldError: a rank is gone.
    """
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        for letter in fabric.receive():
            if isinstance(letter, Lost):
                raise WorldError(
                    f"rank {letter.rank} ended before the campaign began: {letter.reason}"
                )
            yield letter
        if not done():
            time.sleep(min(fabric.pause, 0.01))


def join(fabric: Fabric, own: wire.Hello) -> wire.Welcome | None:
    """Present an agent to the head; return how the campaign begins, None: not at all.

    Raises:
        WorldError: the head does not answer.
    """
    fabric.send(HEAD, own)
    for letter in _letters(fabric, 2 * PATIENCE, lambda: False):
        if isinstance(letter.message, wire.Goodbye):
            return None
        if isinstance(letter.message, wire.Welcome):
            problem = _problem(letter.message.token, own.machine.host)
            fabric.send(HEAD, wire.Sees(problem))
            return letter.message
    raise WorldError(f"the head did not answer within {2 * PATIENCE:.0f} s")


def _problem(token: Path, host: str, seconds: float = 10.0) -> str:
    """Say what is wrong where a node does not see the run directory as the head does."""
    deadline = time.monotonic() + seconds
    while not token.exists():
        if time.monotonic() > deadline:
            return (
                f"{host} does not see the run directory {token.parent} as the head does; put it "
                "on a file system that all nodes share"
            )
        time.sleep(0.05)
    return ""
