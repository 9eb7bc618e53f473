"""A fabric whose ranks live in one process and one thread: for tests of what agents do together.

Faults come on command: a rank can be lost, frozen, or parted from another one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NoReturn

from pal.transport.fabric import Lost, PacketFabric

WINDOW = 3


class Network:
    """The roads between the ranks of one process, and what is wrong with them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.roads: defaultdict[tuple[int, int], deque[bytes]] = defaultdict(deque)
        self.arriving: defaultdict[int, dict[int, None]] = defaultdict(dict)  # sources, in order
        self.dead: dict[int, str] = {}
        self.frozen: set[int] = set()
        self.parted: set[frozenset[int]] = set()
        self.code: int | None = None  # the exit code of an abort

    def take(self, rank: int) -> list[tuple[int, memoryview]]:
        """Remove the packets that have come for a rank."""
        found: list[tuple[int, memoryview]] = []
        for source in list(self.arriving[rank]):
            if frozenset((source, rank)) not in self.parted:
                road = self.roads.pop((source, rank))
                del self.arriving[rank][source]
                found += ((source, memoryview(packet)) for packet in road)
        return found


class _Carrier:
    """The packets of one rank."""

    description = "within one process"

    def __init__(self, network: Network, rank: int, survives: bool) -> None:
        self._network = network
        self.rank = rank
        self.size = network.size
        self.survives = survives
        self._told: set[int] = set()
        self._forgotten: set[int] = set()

    def window(self, rank: int) -> int:
        """How many packets may be posted for this rank now."""
        if self.rank in self._network.frozen:
            return 0
        return max(0, WINDOW - len(self._network.roads.get((self.rank, rank), ())))

    def post(self, rank: int, packet: bytes) -> None:
        """Lay a packet on the road."""
        if self.rank not in self._network.dead and rank not in self._network.dead:
            self._network.roads[self.rank, rank].append(packet)
            self._network.arriving[rank][self.rank] = None

    def poll(self) -> tuple[list[tuple[int, memoryview]], list[Lost]]:
        """Return the packets that have come, then the ranks that died."""
        network = self._network
        if network.code is not None:
            raise SystemExit(network.code)
        if self.rank in network.frozen or self.rank in network.dead:
            return [], []
        packets = network.take(self.rank)
        died = [Lost(*item) for item in network.dead.items() if item[0] not in self._told]
        self._told.update(lost.rank for lost in died)
        return packets, died

    def forget(self, rank: int) -> None:
        """Packets on the road arrive or do not; nobody waits for them."""
        self._forgotten.add(rank)

    @property
    def flying(self) -> set[int]:
        """Ranks that have not taken all that was posted."""
        arriving = self._network.arriving.items()
        return {rank for rank, found in arriving if self.rank in found} - self._forgotten


class InprocFabric(PacketFabric):
    """One of several ranks in this process.

    A lost or frozen rank may still be driven: it hears nothing, and nobody hears it.
    """

    def __init__(self, network: Network, rank: int, survives: bool = True) -> None:
        super().__init__(_Carrier(network, rank, survives))
        self._network = network

    @classmethod
    def world(cls, size: int, survives: bool = True) -> list[InprocFabric]:
        """Make the fabrics of all ranks."""
        network = Network(size)
        return [cls(network, rank, survives) for rank in range(size)]

    def lose(self, rank: int, reason: str = "killed") -> None:
        """Let a rank die. What it has handed over still arrives."""
        if rank not in self._network.dead:
            self._network.dead[rank] = reason

    def freeze(self, rank: int) -> None:
        """Let a rank stand still; nobody is told."""
        self._network.frozen.add(rank)

    def thaw(self, rank: int) -> None:
        """Let a frozen rank go on where it stood."""
        self._network.frozen.discard(rank)

    def partition(self, one: int, other: int) -> None:
        """Let nothing pass between two ranks; it waits until they are joined again."""
        self._network.parted.add(frozenset((one, other)))

    def join(self, one: int, other: int) -> None:
        """Let everything pass between two ranks again."""
        self._network.parted.discard(frozenset((one, other)))

    def close(self, lost: bool = False, code: int = 0) -> None:
        """Nothing to end: a rank in this process holds nothing. What it handed over arrives."""
        self._pass_on()

    def _exit(self, code: int) -> NoReturn:
        raise SystemExit(code)

    def abort(self, code: int) -> NoReturn:
        """Let every rank's next `receive` raise `SystemExit` with this code."""
        self._network.code = code
        raise SystemExit(code)
