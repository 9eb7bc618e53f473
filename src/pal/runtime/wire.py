"""What agents say to each other. The head is rank 0; each rank is the agent of one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pal.records import Array, Batch, Feedbacks, Refusal
from pal.runtime.agent import News
from pal.runtime.machines import Machine
from pal.runtime.orders import Job, Key

# Before the campaign ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent is there. `digest` is of the settings it has read.

    `problem`: why it cannot take part, but for which there would be a digest.
    """

    machine: Machine
    version: str
    digest: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The campaign begins; how its agents treat their workers."""

    budget: int
    delay: float
    slot_size: int
    silence: float
    token: Path
    """A file of the head's in the run directory, for the agent to find there."""


@dataclass(frozen=True, slots=True)
class Sees:
    """Whether the agent sees the run directory; `problem` says why not."""

    problem: str = ""


# From the head to an agent --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start workers that share roads."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Pass a message on to a worker."""

    key: Key
    message: Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Pass one message on to workers on several nodes: halves of them go to agents that do so."""

    targets: tuple[tuple[int, Key], ...]
    message: Any


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill a worker's process group; its death is told as this failure."""

    key: Key
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Forgive:
    """Do not hold its deaths so far against a worker."""

    key: Key


@dataclass(frozen=True, slots=True)
class Route:
    """Where the committee of a shard is from now on."""

    shard: int
    rank: int


@dataclass(frozen=True, slots=True)
class Lose:
    """Go on without a rank that is lost, and hear no more of it."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """End all workers; kill those that take longer than so many seconds."""

    patience: float


@dataclass(frozen=True, slots=True)
class Goodbye:
    """All is over; end. `reason`: why it is so for this agent alone."""

    reason: str = ""


# From an agent to the head --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """News of a worker."""

    news: News


@dataclass(frozen=True, slots=True)
class Pulse:
    """A sign of life, once a second; to the head with what the workers' boards say."""

    readings: Mapping[Key, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signalled:
    """The agent got a signal that asks for the end."""

    name: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The agent itself fails, and ends."""

    reason: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Closed:
    """All workers of a node have ended."""

    readings: Mapping[Key, Mapping[str, float]]


# Between the agents of a committee and of walkers elsewhere ------------------------------------


@dataclass(frozen=True, slots=True)
class Moves:
    """Samples of walkers without a committee on their node: one message for all that wait.

    `rows` count the walkers of the relay; `stamps` number what each of them has sent.
    """

    outpost: int
    rows: Array
    stamps: Array
    samples: Batch


@dataclass(frozen=True, slots=True)
class Answers:
    """The committee's answers to `Moves`."""

    outpost: int
    rows: Array
    stamps: Array
    feedback: Feedbacks | Refusal


@dataclass(frozen=True, slots=True)
class Gone:
    """These walkers send nothing more: they have ended, or their host is gone for now."""

    outpost: int
    rows: Array
    ended: bool
