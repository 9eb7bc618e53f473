"""The fabric: the road between agents, one agent per node.

Agents send each other many small messages and a few large ones. A fabric never blocks, shares the
road fairly among streams, and tells when another agent is gone. `PacketFabric` does this over
anything that carries packets; over MPI it is `pal.transport.mpi`, and within one process, for
tests of what agents do together, `pal.transport.inproc`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn, Protocol

from pal.errors import TransportError
from pal.transport.frames import pack
from pal.transport.packets import Inbound, Outbound

SHORTEST_PAUSE = 2e-4
LONGEST_PAUSE = 1e-2
_LONGER = 1.1  # each silent look lengthens the pause so much: never above a tenth of the silence


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that has arrived."""

    source: int
    message: Any


@dataclass(frozen=True, slots=True)
class Lost:
    """A rank is gone; told once, after all that it had sent and that still arrived."""

    rank: int
    reason: str


class Fabric(Protocol):
    """The contract; `tests/transport` and `tests/mpi` run one suite over every implementation."""

    @property
    def rank(self) -> int:
        """This agent's number; 0 is the head."""
        ...

    @property
    def size(self) -> int:
        """How many agents there were at the start."""
        ...

    @property
    def survives(self) -> bool:
        """Whether the other ranks live on when one dies."""
        ...

    @property
    def description(self) -> str:
        """What carries the messages, for users."""
        ...

    def send(self, rank: int, message: Any, stream: Hashable = 0) -> None:
        """Queue a message; it goes out with the next `receive`. Never blocks.

        Messages of one stream arrive in the order sent. Arrays are not copied until they go out,
        so they must not be changed any more. What is sent to a lost rank is dropped; what is sent
        to oneself is the object itself.
        """
        ...

    def receive(self) -> list[Letter | Lost]:
        """Return all that has come, and pass on what waits. Never blocks."""
        ...

    def backlog(self, rank: int) -> int:
        """Bytes accepted for this rank and not yet handed to the transport."""
        ...

    @property
    def pause(self) -> float:
        """Seconds the caller may sleep before its next `receive`."""
        ...

    def expel(self, rank: int, message: Any) -> None:
        """Drop what waits for a rank, try to tell it this, and ignore it from now on.

        No `Lost` is told for it. The rank itself should then end: its `close` will see to it.
        """
        ...

    @property
    def undead(self) -> bool:
        """Whether a rank was expelled and is not known to have died: it may stand still."""
        ...

    def close(self, lost: bool = False, code: int = 0) -> None:
        """End this rank's part in order, together with the other ranks.

        `lost`: some rank was lost or expelled, so nothing may wait for it. Where one is undead
        call it last: if that rank does not end by itself, this ends the whole job with this exit
        code, and an expelled rank itself does not return from it.
        """
        ...

    def abort(self, code: int) -> NoReturn:
        """End all ranks of the job at once with this exit code."""
        ...


class Carrier(Protocol):
    """Carries packets; those from one rank to another stay in order."""

    rank: int
    size: int
    survives: bool
    description: str

    def window(self, rank: int) -> int:
        """How many packets may be posted for this rank now."""
        ...

    def post(self, rank: int, packet: bytes) -> None:
        """Send a packet without waiting for it, whatever the window is."""
        ...

    def poll(self) -> tuple[list[tuple[int, memoryview]], list[Lost]]:
        """Return the packets that have come with their sources, then the ranks that died."""
        ...

    def forget(self, rank: int) -> None:
        """Wait no longer for the packets posted for this rank."""
        ...

    @property
    def flying(self) -> set[int]:
        """Ranks for which posted packets may not have left yet."""
        ...


class Control(Enum):
    """What fabrics tell each other, beside the messages of their callers."""

    EXPELLED = "you are expelled"
    READY = "I am ready to end"
    END = "all end together"
    SCATTER = "each ends alone, as some rank is gone"


@dataclass(frozen=True, slots=True)
class Halt:
    """One fabric tells the others to end at once, with this exit code."""

    code: int


class PacketFabric(ABC):
    """A fabric over a carrier of packets; only how a rank ends is left to say."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self.rank = carrier.rank
        self.size = carrier.size
        self.survives = carrier.survives
        self.description = carrier.description
        self.lost: set[int] = set()
        self.expelled: set[int] = set()
        self.controls: set[tuple[int, Control]] = set()
        self._outbound: dict[int, Outbound] = {}  # only of ranks for which something waits
        self._inbound: defaultdict[int, Inbound] = defaultdict(Inbound)
        self._news: list[Letter | Lost] = []  # arrived, and not told yet
        self._unreadable: list[TransportError] = []
        self._silence = 0
        self._fresh = False  # something waits that the carrier has not been offered yet

    def send(self, rank: int, message: Any, stream: Hashable = 0) -> None:
        """Queue a message; see `Fabric`."""
        if not 0 <= rank < self.size:
            raise TransportError(f"there is no rank {rank} among the {self.size} of this job")
        if rank == self.rank:
            self._news.append(Letter(rank, message))
        elif self.living(rank):
            self._outbound.setdefault(rank, Outbound()).put(pack(message), stream)
        self._fresh = True

    def tell(self, rank: int, control: Control | Halt) -> None:
        """Send word to the fabric of another rank."""
        self.send(rank, control, stream=Control)

    def living(self, rank: int) -> bool:
        """Whether this rank still belongs to the job, as far as is known here."""
        return rank not in self.lost and rank not in self.expelled

    def receive(self) -> list[Letter | Lost]:
        """Return all that has come, and pass on what waits.

        Raises:
            TransportError: a message cannot be read here; the others come with the next call.
        """
        packets, died = self._carrier.poll()
        for source, packet in packets:
            if self.living(source):
                self._take(source, packet)
        for lost in died:
            self._lose(lost)
        moved = self._pass_on()
        self._fresh = False
        self._silence = 0 if moved or packets or died or self._news else self._silence + 1
        if self._unreadable:
            raise self._unreadable.pop(0)
        news, self._news = self._news, []
        return news

    def _take(self, source: int, packet: memoryview) -> None:
        for frame in self._inbound[source].feed(packet):
            try:
                message = frame.message()
            except Exception as error:
                text = f"a message of rank {source} cannot be read on rank {self.rank}: {error!r}"
                self._unreadable.append(TransportError(text))
                continue
            if isinstance(message, Halt):
                self._exit(message.code)
            elif isinstance(message, Control):
                self.controls.add((source, message))
            else:
                self._news.append(Letter(source, message))

    def _lose(self, lost: Lost) -> None:
        if self.living(lost.rank):
            self._news.append(lost)
        self.lost.add(lost.rank)
        self._forget(lost.rank)

    def _forget(self, rank: int) -> None:
        self._outbound.pop(rank, None)
        self._inbound.pop(rank, None)
        self._carrier.forget(rank)

    def _pass_on(self) -> bool:
        """Hand to the carrier what it takes; tell whether it took any."""
        moved = False
        for rank, outbound in list(self._outbound.items()):
            for _ in range(self._carrier.window(rank)):
                self._carrier.post(rank, outbound.fill())
                moved = True
                if not outbound.backlog:
                    del self._outbound[rank]
                    break
        return moved

    def backlog(self, rank: int) -> int:
        """Bytes accepted for this rank and not yet handed to the transport."""
        return self._outbound[rank].backlog if rank in self._outbound else 0

    @property
    def unfinished(self) -> set[int]:
        """Ranks for which not all that was sent has left."""
        return self._carrier.flying.union(self._outbound)

    @property
    def pause(self) -> float:
        """Seconds the caller may sleep: a tenth of the silence so far, within limits."""
        if self._fresh or not self._silence:
            return 0.0
        return min(LONGEST_PAUSE, SHORTEST_PAUSE * _LONGER ** min(self._silence - 1, 100))

    def expel(self, rank: int, message: Any) -> None:
        """Drop what waits for a rank, try to tell it this, and ignore it from now on."""
        if rank == self.rank:
            raise TransportError("a rank cannot expel itself")
        if self.living(rank):
            outbound = self._outbound.pop(rank, None) or Outbound()
            outbound.clear()
            for last in (message, Control.EXPELLED):
                outbound.put(pack(last), Control)
            while outbound.backlog:
                self._carrier.post(rank, outbound.fill())
        self.abandon(rank)

    def abandon(self, rank: int) -> None:
        """Ignore a rank from now on, without telling anyone."""
        self.expelled.add(rank)
        self._forget(rank)

    @property
    def undead(self) -> bool:
        """Whether a rank was expelled and is not known to have died."""
        return bool(self.expelled - self.lost)

    @abstractmethod
    def close(self, lost: bool = False, code: int = 0) -> None:
        """End this rank's part in order; see `Fabric`."""

    @abstractmethod
    def _exit(self, code: int) -> NoReturn:
        """End this rank at once."""

    @abstractmethod
    def abort(self, code: int) -> NoReturn:
        """End all ranks of the job at once with this exit code."""
