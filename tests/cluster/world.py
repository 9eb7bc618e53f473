"""Campaigns on several nodes in one process: real workers, and roads that fail on command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rig import Run, campaign

from pal.errors import PalError
from pal.monitor.metrics import Snapshot
from pal.runtime import campaign as campaign_module
from pal.runtime import wire
from pal.runtime.campaign import Campaign
from pal.runtime.deputy import Deputy
from pal.runtime.happenings import Happening
from pal.runtime.machines import Machine
from pal.runtime.muster import hello
from pal.runtime.node import HEAD
from pal.transport.fabric import Letter, Lost
from pal.transport.inproc import InprocFabric
from pal.transport.parting import part


@dataclass
class Recruit:
    """An agent besides the head's: it says hello, is welcomed, serves, and ends."""

    fabric: InprocFabric
    own: wire.Hello
    deputy: Deputy | None = None
    reason: str | None = None
    """Why it ended; None while it has not."""
    frozen: bool = False

    def step(self) -> None:
        if self.reason is not None or self.frozen:
            return
        if self.deputy is None:
            self._await_welcome()
        elif not self.deputy.step(0.0):
            self.reason = self.deputy.finish()

    def _await_welcome(self) -> None:
        for letter in self.fabric.receive():
            if isinstance(letter, Lost):
                continue
            if isinstance(letter.message, wire.Goodbye):
                self.reason = "sent home"
            elif isinstance(letter.message, wire.Welcome):
                self.fabric.send(HEAD, wire.Sees())
                self.deputy = Deputy(self.fabric, letter.message)
                self.deputy.open()

    def die(self) -> None:
        """End as by kill -9 of the agent: all its workers go with it."""
        if self.deputy is not None:
            self.deputy._node.kill_all()
        self.reason = "killed"


@dataclass
class World:
    """The head's fabric, whose looking also lets all others go on."""

    fabrics: list[InprocFabric]
    recruits: list[Recruit] = field(default_factory=list)
    hooks: list[Callable[[], None]] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None
    """Asks the campaign to end."""

    @property
    def head(self) -> Any:
        return _Led(self.fabrics[HEAD], self)

    def step(self) -> None:
        for recruit in self.recruits:
            recruit.step()
        for hook in list(self.hooks):
            hook()

    def kill(self, rank: int) -> None:
        self.fabrics[HEAD].lose(rank, "killed")
        self.recruits[rank - 1].die()

    def freeze(self, rank: int) -> None:
        self.fabrics[HEAD].freeze(rank)
        self.recruits[rank - 1].frozen = True

    def thaw(self, rank: int) -> None:
        self.fabrics[HEAD].thaw(rank)
        self.recruits[rank - 1].frozen = False


class _Led:
    """A fabric that drives the other ranks whenever its own rank looks."""

    def __init__(self, fabric: InprocFabric, world: World) -> None:
        self._fabric, self._world = fabric, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fabric, name)

    @property
    def pause(self) -> float:
        return min(1e-3, self._fabric.pause)

    def receive(self) -> list[Letter | Lost]:
        self._world.step()
        return self._fabric.receive()


def until(reached: Callable[[], bool]) -> Callable[[World, Happening], None]:
    """End the campaign once something has been seen."""

    def watch(world: World, happening: Happening) -> None:
        if isinstance(happening, Snapshot) and reached():
            world.stop()

    return watch


def machine(rank: int, cores: int = 2, devices: tuple[str, ...] = ()) -> Machine:
    return Machine(rank, f"host{rank}", tuple(range(cores)), devices, cores)


def run_on(
    nodes: int,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[World, Campaign], None] | None = None,
    watch: Callable[[World, Happening], None] | None = None,
    cores: int = 2,
    **sections: Any,
) -> tuple[Run, World]:
    """Run a toy campaign on so many nodes, and keep the error it may have raised."""
    work = campaign(directory, **sections)
    world = World(InprocFabric.world(nodes), stop=work.stop)
    for rank in range(1, nodes):
        own = hello(rank, work.settings)
        own = wire.Hello(machine(rank, cores), own.version, own.digest)
        world.fabrics[rank].send(HEAD, own)
        world.recruits.append(Recruit(world.fabrics[rank], own))
    monkeypatch.setattr(campaign_module, "connect", lambda nodes: world.head)
    if prepare is not None:
        prepare(world, work)
    result = Run(directory)
    try:
        for happening in work:
            result.happenings.append(happening)
            if watch is not None:
                watch(world, happening)
    except PalError as error:
        result.error = error
    result.summary = work.summary
    for _ in range(1000):
        world.step()
        if all(recruit.reason is not None or recruit.frozen for recruit in world.recruits):
            break
    for recruit in world.recruits:
        if recruit.reason is None:
            recruit.die()
    part()  # as at the end of a process
    return result, world
