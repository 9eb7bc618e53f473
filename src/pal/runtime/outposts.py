"""Walkers on one node and their committee on another, with their agents in between.

On the walkers' node a `Relay` stands for the exchange: what waits in the slots goes out as one
message. On the committee's node an `Outpost` stands for the hosts: it writes the samples into
its slots, where the exchange finds them among all others, and sends the answers back. Neither
hosts nor exchange know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pal.exchange.walkers import SharedWalkers
from pal.records import Feedbacks, Refusal
from pal.runtime.orders import Job
from pal.runtime.roads import Roads
from pal.runtime.wire import Answers, Gone, Moves
from pal.transport.slots import ABSENT, ALIVE, ENDED, ExchangeSlots, HostSlots

Send = Callable[[int, Any], None]
"""Sends a message to a rank."""


class Outpost:
    """The walkers of another node, in the slots of their committee's shard."""

    def __init__(self, job: Job, roads: Roads, send: Send) -> None:
        assert roads.slots is not None
        self._index = job.index
        self._roads = roads
        self._rows = roads.places(job)
        self._slots = HostSlots(roads.slots, self._rows.start, len(job.walkers))
        self._send = send
        self._bell = roads.bells[job.key]
        self._waiting: dict[int, int] = {}
        self._relay = -1
        self.fd = self._bell.fds[0]

    def hear(self, source: int, message: Moves | Gone) -> None:
        """Write samples where the exchange finds them, or let it go on without walkers."""
        self._relay = source
        if isinstance(message, Moves):
            self._slots.send_all(message.rows, message.samples)
            self._waiting.update(zip(message.rows.tolist(), message.stamps.tolist(), strict=True))
            if self._slots.due:
                self._roads.wake_centre()
        else:
            self._forget(message.rows, ENDED if message.ended else ABSENT)

    def lose(self, rank: int) -> None:
        """Let the exchange go on without the walkers of a node that is lost."""
        if rank == self._relay:
            self._forget(np.arange(self._rows.stop - self._rows.start), ABSENT)

    def _forget(self, rows: NDArray[np.intp], state: int) -> None:
        assert self._roads.slots is not None
        for row in rows.tolist():
            self._waiting.pop(row, None)
        self._roads.slots.forget(self._rows.start + rows, state)
        self._roads.wake_centre()

    def answer(self) -> None:
        """Send back what the exchange has answered since the bell rang last."""
        self._bell.wait()
        for rows, feedback in self._slots.receive(list(self._waiting)):
            which = np.array(rows, np.intp)
            stamps = np.array([self._waiting.pop(row) for row in rows], np.int64)
            joined = feedback if isinstance(feedback, Refusal) else Feedbacks.of(feedback)
            self._send(self._relay, Answers(self._index, which, stamps, joined))


class Relay:
    """The committee of another node, for the hosts of this one."""

    def __init__(self, job: Job, roads: Roads, send: Send) -> None:
        assert roads.slots is not None
        self._index = job.index
        self._send = send
        self._bell = roads.bells[job.key]
        self._shared = roads.slots
        self._slots = ExchangeSlots(roads.slots)
        bells = [roads.bells[host.key] for host in roads.hosts]
        self._walkers = SharedWalkers(self._slots, job.host_of, bells)
        self._batching = job.batching
        self._asked: NDArray[np.int64] = np.zeros(roads.walkers, np.int64)
        self._states: NDArray[np.int64] = np.full(roads.walkers, ALIVE, np.int64)
        self._rank = -1
        self.shard = job.shard
        self.fd = self._bell.fds[0]

    def route(self, rank: int) -> None:
        """Speak to the committee on this node from now on; ask anew what it has not answered."""
        if rank == self._rank:
            return
        self._rank = rank
        self._asked[:] = 0
        self._states[:] = ALIVE
        self._bell.ring()

    def pass_on(self) -> None:
        """Send all samples that wait, and that were not sent before."""
        self._bell.wait()
        if self._rank < 0:
            return
        self._tell_who_left()
        header = self._shared.header
        sent = header["sent"].copy()
        due = (sent != header["answered"]) & (sent != self._asked)
        rows = np.flatnonzero(due)
        if rows.size and not self._wait_for_more():
            samples = self._slots.gather(rows)
            self._asked[rows] = sent[rows]
            self._send(self._rank, Moves(self._index, rows, sent[rows], samples))

    def _wait_for_more(self) -> bool:
        """Whether the batching policy wants more walkers than wait now; they ring then."""
        quorum = 1 if self._batching is None else self._batching.quorum(self._walkers.living())
        return not self._walkers.wake_for(quorum)

    def _tell_who_left(self) -> None:
        states = self._shared.header["state"]
        changed = states != self._states
        for state in (ENDED, ABSENT):
            rows = np.flatnonzero(changed & (states == state))
            if rows.size:
                self._send(self._rank, Gone(self._index, rows, state == ENDED))
        self._states[:] = states

    def hear(self, answers: Answers) -> None:
        """Hand the committee's answers to the walkers that still wait for them."""
        header = self._shared.header
        rows = answers.rows
        wanted = (header["sent"][rows] == answers.stamps) & (
            header["answered"][rows] != answers.stamps
        )
        which = np.flatnonzero(wanted)
        if not which.size:
            return
        self._slots.recall(rows[which], answers.stamps[which])
        if isinstance(answers.feedback, Refusal):
            self._walkers.reject(rows[which], answers.feedback)
        else:
            self._walkers.reply(rows[which], answers.feedback.take(which))
