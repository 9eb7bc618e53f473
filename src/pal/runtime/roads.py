"""The shared memory and doorbells of one group of workers, and which of them inherits which."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from pal.runtime.orders import Job, Key, Order, Shared
from pal.transport.board import Board, Meter
from pal.transport.doorbell import Doorbell, create_doorbell
from pal.transport.mailbox import Post
from pal.transport.segment import Segment
from pal.transport.slots import ALIVE, Slots

_POST_LIMIT = 4 << 30
_SLEEP_ON_BELLS = ("exchange", "relay", "generator", "outpost", "predictor")
"""All others sleep at their channels."""


class Roads:
    """All roads between workers on one node that need each other: a shard, or one alone.

    Walkers on another node have a place here, too (`outpost`), and so has an exchange that is
    elsewhere (`relay`); the agent answers at their doorbells.
    """

    def __init__(self, jobs: Sequence[Job], slot_size: int) -> None:
        self.board = Board.create(len(jobs))
        self._rows = {job.key: row for row, job in enumerate(jobs)}
        self.bells: dict[Key, Doorbell] = {
            job.key: create_doorbell() for job in jobs if job.role in _SLEEP_ON_BELLS
        }
        self.centre = next((job for job in jobs if job.role in ("exchange", "relay")), None)
        """The exchange, or what stands for it."""
        self.hosts = [job for job in jobs if job.role in ("generator", "outpost")]
        predictors = [job for job in jobs if job.role == "predictor"]
        self.slot_size = slot_size
        self._first: dict[Key, int] = {}
        self.walkers = 0
        for host in self.hosts:
            self._first[host.key] = self.walkers
            self.walkers += len(host.walkers)
        self.slots: Slots | None = None
        if self.hosts:
            self.slots = Slots.create(self.walkers, slot_size)
            self.slots.header["state"][:] = ALIVE
        size = min(_POST_LIMIT, 2 * slot_size * max(16, self.walkers) + (1 << 20))
        self.posts = {job.index: Segment.create(size) for job in predictors}

    def places(self, host: Job) -> slice:
        """Return the rows of a host's walkers in the slots."""
        first = self._first[host.key]
        return slice(first, first + len(host.walkers))

    def meter(self, job: Job) -> Meter:
        """Return a worker's row on the board."""
        return self.board.meter(self._rows[job.key])

    def waits_for(self, job: Job) -> bool:
        """Whether others wait for this worker: an exchange for its samples or its prediction.

        An exchange is rung once a second, and always has that to answer.
        """
        if job.role == "generator" and self.slots is not None:
            rows, header = self.places(job), self.slots.header
            moving = header["sent"][rows] == header["answered"][rows]
            return bool((moving & (header["state"][rows] == ALIVE)).any())
        if job.role == "predictor":
            return Post(self.posts[job.index]).requests.full
        return job.role == "exchange"

    def wake_centre(self) -> None:
        """Make the exchange, or what stands for it, look at its walkers."""
        if self.centre is not None:
            self.bells[self.centre.key].ring()

    def order(self, job: Job, channel: socket.socket) -> tuple[Order, list[int]]:
        """Return a worker's order, and the descriptors it inherits in their order."""
        fds = [channel.fileno(), self.board.segment.fd]

        def place(*more: int) -> tuple[int, ...]:
            start = len(fds)
            fds.extend(more)
            return tuple(range(start, len(fds)))

        bells = tuple(place(*bell.fds) for bell in self._bells_of(job))
        slots = -1
        if self.slots is not None and job.role in ("exchange", "generator"):
            (slots,) = place(self.slots.segment.fd)
        shared = Shared(
            board=1,
            board_rows=len(self._rows),
            row=self._rows[job.key],
            slots=slots,
            slot_count=self.walkers,
            slot_size=self.slot_size,
            first=self._first.get(job.key, 0),
            bells=bells,
            posts=place(*self._posts_of(job)),
        )
        return Order(job, shared, 0), fds

    def _bells_of(self, job: Job) -> list[Doorbell]:
        """A worker's own doorbell, then those that it rings."""
        if self.centre is None or job.key not in self.bells:
            return []
        own = self.bells[job.key]
        if job.role != "exchange":
            return [own, self.bells[self.centre.key]]
        hosts = [self.bells[host.key] for host in self.hosts]
        return [own, *hosts, *(self.bells["predictor", index] for index in sorted(self.posts))]

    def _posts_of(self, job: Job) -> list[int]:
        if job.role == "exchange":
            return [self.posts[index].fd for index in sorted(self.posts)]
        if job.role == "predictor":
            return [self.posts[job.index].fd]
        return []

    def close(self) -> None:
        """Give all descriptors back."""
        for bell in self.bells.values():
            bell.close()
        self.board.segment.close()
        if self.slots is not None:
            self.slots.segment.close()
        for segment in self.posts.values():
            segment.close()
