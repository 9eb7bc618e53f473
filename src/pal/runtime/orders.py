"""What a worker process is told at birth: its role, its kernels, its fds and its surroundings."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pal.building import KernelSpec
from pal.exchange.batching import Batching

Role = Literal[
    "exchange",
    "predictor",
    "generator",
    "oracle",
    "broker",
    "trainer",
    "sampler",
    "evaluator",
    "outpost",  # no process: in a shard, the walkers that live on another node
    "relay",  # no process: among walkers without a committee, the exchange of another node
]
_ALONE = ("exchange", "sampler", "evaluator", "broker")

Key: TypeAlias = tuple[str, int]
"""Role and index: which worker of the campaign."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Shared memory and doorbells, as places in the list of inherited descriptors."""

    board: int
    board_rows: int
    row: int
    slots: int = -1
    slot_count: int = 0
    slot_size: int = 0
    first: int = 0
    """A host's first row in the slots."""
    bells: tuple[tuple[int, ...], ...] = ()
    """Own doorbell first; then, for an exchange, those of the hosts and predictors it wakes; for
    a host or predictor, the exchange's."""
    posts: tuple[int, ...] = ()
    """Segments of the mailboxes between exchange and predictors."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker is to do, without the places of its descriptors."""

    role: Role
    index: int
    """Of an exchange, the number of its shard; of the others, counted over all nodes."""
    kernels: Mapping[str, KernelSpec]
    directory: Path
    seed: int
    home: Path | None = None
    """Working directory: the settings file's folder, so that kernels find files beside it."""
    threads: int = 1
    node: int | None = None
    """The rank of its node, where there are several."""
    device: str = "cpu"
    wanted: str = "cpu"
    """The device the settings name; `device` is what the node has given for it."""
    cores: tuple[int, ...] = ()
    nice: int = 0
    """How far it stands back for others on the same cores."""
    save_interval: float = 60.0
    restarts: int = 10
    """How often, within an hour, a walker of this process may begin again."""
    budget: int | None = None
    """How often, within an hour, this process may be started again; None: as often as others."""
    deadlines: Mapping[str, float] = field(default_factory=dict)
    """Longest time in seconds of one call, by the kernel's method; see `pal.runtime.watch`."""
    shard: int = 0
    """For exchange, predictors and hosts: the shard they are part of."""
    walkers: tuple[int, ...] = ()
    """Walkers this host runs, or that live in this committee's process."""
    rows: tuple[int, ...] = ()
    """For the exchange: the number of the walker in each of its rows."""
    walker_count: int = 0
    shard_count: int = 1
    members: tuple[int, ...] = ()
    """Members this predictor or trainer holds."""
    member_count: int = 0
    weights_every: int = 10
    oracles: tuple[int, ...] = ()
    """Oracles this worker is; a broker is many, all of them beyond the job."""
    bootstrap: bool = False
    training: bool = True
    batching: Batching | None = None
    host_of: tuple[int, ...] = ()
    """For the exchange: the host of each row, counted within the shard."""
    seats: tuple[tuple[int, ...], ...] = ()
    """For the exchange: the members of each predictor process; empty when it holds them all."""
    serial: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The host it runs on, said by itself, and which of the campaign's nodes that is."""
        host = socket.gethostname()
        return host if self.node is None else f"{host} (node {self.node})"

    @property
    def process(self) -> bool:
        """Whether a process does it, and not the agent."""
        return self.role not in ("outpost", "relay")

    @property
    def load(self) -> int:
        """How many cores it keeps busy."""
        return self.threads if self.process and self.role != "broker" else 0

    @property
    def key(self) -> Key:
        """Which worker of the campaign."""
        return self.role, self.index

    @property
    def name(self) -> str:
        """Readable name, also of the log file; the first of what is mostly alone has no number."""
        alone = self.role in _ALONE and not self.index
        return self.role if alone else f"{self.role}-{self.index}"


@dataclass(frozen=True, slots=True)
class Order:
    """A job and the worker's descriptors: its channel, shared memory and doorbells."""

    job: Job
    shared: Shared
    channel: int
