"""The shared memory and doorbells of one node's campaign, and which worker inherits which."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from pal.runtime.orders import Job, Order, Shared
from pal.transport.board import Board
from pal.transport.doorbell import Doorbell, create_doorbell
from pal.transport.segment import Segment
from pal.transport.slots import ALIVE, Slots

_POST_LIMIT = 4 << 30


class Roads:
    """All roads between the workers of `jobs`."""

    def __init__(self, jobs: Sequence[Job], slot_size: int) -> None:
        self.board = Board.create(len(jobs) + 2)
        self._rows = {(job.role, job.index): row for row, job in enumerate(jobs)}
        hosts = [job for job in jobs if job.role == "generator"]
        predictors = [job for job in jobs if job.role == "predictor"]
        self.bells: dict[tuple[str, int], Doorbell] = {
            (job.role, job.index): create_doorbell()
            for job in jobs
            if job.role in ("exchange", "generator", "predictor")
        }
        self.slot_size = slot_size
        self.walkers = sum(len(job.walkers) for job in hosts)
        self.slots: Slots | None = None
        if hosts:
            self.slots = Slots.create(self.walkers, slot_size)
            self.slots.header["state"][:] = ALIVE
        size = min(_POST_LIMIT, 2 * slot_size * max(16, self.walkers) + (1 << 20))
        self.posts = {job.index: Segment.create(size) for job in predictors}

    def row(self, job: Job) -> int:
        """Return the job's row on the board; jobs outside the plan share the last one."""
        return self._rows.get((job.role, job.index), len(self._rows))

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
            board_rows=len(self._rows) + 2,
            row=self.row(job),
            slots=slots,
            slot_count=self.walkers,
            slot_size=self.slot_size,
            bells=bells,
            posts=place(*self._posts_of(job)),
        )
        return Order(job, shared, 0), fds

    def _bells_of(self, job: Job) -> list[Doorbell]:
        """A worker's own doorbell, then those that it rings."""
        own = self.bells.get((job.role, job.index))
        if own is None:
            return []
        if job.role != "exchange":
            return [own, self.bells["exchange", 0]]
        return [own, *self._sorted("generator"), *self._sorted("predictor")]

    def _sorted(self, role: str) -> list[Doorbell]:
        return [self.bells[key] for key in sorted(self.bells) if key[0] == role]

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
