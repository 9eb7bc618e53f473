"""How the exchange reaches its walkers: over shared memory, or in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pal.records import Batch, Feedback, Feedbacks, Refusal, Sample
from pal.transport.doorbell import Doorbell
from pal.transport.slots import ExchangeSlots


class Walkers(Protocol):
    """The walkers of one exchange, wherever they live."""

    def ready(self) -> NDArray[np.intp]:
        """Indices of the walkers that wait for an answer, ascending."""
        ...

    def living(self) -> int:
        """How many walkers may still send samples."""
        ...

    def wake_for(self, quorum: int) -> bool:
        """Ask for the doorbell once so many walkers wait; tell whether they do already."""
        ...

    def gather(self, who: NDArray[np.intp]) -> Batch:
        """Copy out the samples of these walkers."""
        ...

    def reply(self, who: NDArray[np.intp], feedback: Feedbacks) -> None:
        """Answer these walkers, which lets them move on."""
        ...

    def reject(self, who: NDArray[np.intp], why: Refusal) -> None:
        """Send these walkers back to their last saved states, without feedback."""
        ...


class SharedWalkers:
    """Walkers in hosts of their own, reached through slots and doorbells."""

    def __init__(self, slots: ExchangeSlots, host_of: Sequence[int], bells: Sequence[Doorbell]):
        self._slots = slots
        self._host_of = np.asarray(host_of)
        self._bells = bells

    def ready(self) -> NDArray[np.intp]:
        """Indices of the walkers whose slots hold an unanswered sample."""
        return self._slots.ready()

    def living(self) -> int:
        """How many walkers have sent samples and have not ended or died since."""
        return self._slots.living()

    def wake_for(self, quorum: int) -> bool:
        """Write down for the hosts how many must wait before one of them rings."""
        return self._slots.wake_for(quorum)

    def gather(self, who: NDArray[np.intp]) -> Batch:
        """Copy the samples out of the slots."""
        return self._slots.gather(who)

    def reply(self, who: NDArray[np.intp], feedback: Feedbacks) -> None:
        """Write the feedback into the slots, then wake each host once."""
        self._slots.answer(who, feedback)
        self._ring(who)

    def reject(self, who: NDArray[np.intp], why: Refusal) -> None:
        """Write down that these samples get no feedback, then wake each host once."""
        self._slots.reject(who, why)
        self._ring(who)

    def _ring(self, who: NDArray[np.intp]) -> None:
        hosts = self._host_of[who]
        for host in hosts if len(self._bells) >= self._host_of.size else np.unique(hosts):
            self._bells[host].ring()


class Outbox(Protocol):
    """Where walkers put their samples; they are known by their rows within a pool."""

    def send(self, row: int, sample: Sample) -> None:
        """Take the sample of one walker."""
        ...

    def send_all(self, rows: NDArray[np.intp], samples: Batch) -> None:
        """Take the samples of several walkers."""
        ...

    def end(self, row: int) -> None:
        """This walker sends nothing more."""
        ...


class Steps(Protocol):
    """Moves walkers by their rows: what `LocalWalkers` needs of a pool of generators."""

    def step(self, rows: Sequence[int], feedback: Sequence[Feedback] | None, out: Outbox) -> None:
        """Move walkers, for the first time without feedback; each sends its sample or ends."""
        ...

    def recover(self, rows: Sequence[int], out: Outbox, why: Refusal) -> None:
        """Take walkers back to their last saved states and move them."""
        ...


class LocalWalkers:
    """Walkers in the exchange's own process: a step is a call, and no message is needed.

    Samples that came as one batch go to the committee as they are, without a copy, where it is
    asked for the same walkers.
    """

    def __init__(self, pool: Steps, count: int) -> None:
        self._pool = pool
        self._samples: list[Sample | None] = [None] * count
        self._ready: NDArray[np.intp] = np.arange(count)
        self._joined: tuple[NDArray[np.intp], Batch] | None = None
        pool.step(range(count), None, self)

    def send(self, row: int, sample: Sample) -> None:
        """Keep a sample until the committee is asked for it."""
        self._samples[row] = sample

    def send_all(self, rows: NDArray[np.intp], samples: Batch) -> None:
        """Keep a batch of samples in one piece."""
        self._take_apart()
        self._joined = (rows, samples)

    def end(self, row: int) -> None:
        """Wait for this walker no more."""
        self._ready = self._ready[self._ready != row]

    def ready(self) -> NDArray[np.intp]:
        """All that have not ended: they have moved while they were answered."""
        return self._ready

    def living(self) -> int:
        """How many have not ended."""
        return len(self._ready)

    def wake_for(self, quorum: int) -> bool:
        """Nobody would ring: walkers here wait already, or have ended."""
        return bool(len(self._ready))

    def gather(self, who: NDArray[np.intp]) -> Batch:
        """Batch the samples."""
        if self._joined is not None:
            rows, batch = self._joined
            if np.array_equal(rows, who):
                return batch
            self._take_apart()
        samples = [self._samples[index] for index in who]
        return Batch([sample for sample in samples if sample is not None])

    def _take_apart(self) -> None:
        """Keep the samples of a batch one by one."""
        if self._joined is not None:
            (rows, batch), self._joined = self._joined, None
            for row, sample in zip(rows.tolist(), batch, strict=True):
                self._samples[row] = sample

    def reply(self, who: NDArray[np.intp], feedback: Feedbacks) -> None:
        """Let each walker make its next move."""
        self._forget(who)
        self._pool.step(who.tolist(), feedback, self)

    def reject(self, who: NDArray[np.intp], why: Refusal) -> None:
        """Let each walker go back."""
        self._forget(who)
        self._pool.recover(who.tolist(), self, why)

    def _forget(self, who: NDArray[np.intp]) -> None:
        """Let go of samples that are answered."""
        if self._joined is not None and np.array_equal(self._joined[0], who):
            self._joined = None
        self._take_apart()
