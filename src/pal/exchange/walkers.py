"""How the exchange reaches its walkers: over shared memory, or in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pal.records import Array, Batch, Feedback, Sample
from pal.transport.doorbell import Doorbell
from pal.transport.slots import ExchangeSlots


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to a batch of n walkers. `rejected` ones get no feedback: bool (n,)."""

    mean: Batch
    deviation: Batch
    uncertainty: Array
    trusted: Array
    version: int
    rejected: NDArray[np.bool_] | None = None


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

    def reply(self, who: NDArray[np.intp], answer: Answer) -> None:
        """Answer these walkers, which lets them move on."""
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

    def reply(self, who: NDArray[np.intp], answer: Answer) -> None:
        """Write the feedback into the slots, then wake each host once."""
        kept = who
        mean, deviation = answer.mean, answer.deviation
        if answer.rejected is not None:
            keep = np.flatnonzero(~answer.rejected)
            kept, mean, deviation = who[keep], mean.take(keep), deviation.take(keep)
        if len(kept):
            self._slots.write(kept, mean, deviation)
        self._slots.answer(
            who, answer.uncertainty, answer.trusted, answer.version, answer.rejected
        )
        hosts = self._host_of[who]
        for host in hosts if len(self._bells) >= self._host_of.size else np.unique(hosts):
            self._bells[host].ring()


class Steps(Protocol):
    """Moves walkers by their numbers: what `LocalWalkers` needs of a pool of generators."""

    def step(self, walker: int, feedback: Feedback | None) -> Sample | None:
        """Move one walker; None when it has ended."""
        ...

    def recover(self, walker: int) -> Sample | None:
        """Take a walker back to its last saved state and move it; None when it has ended."""
        ...


class LocalWalkers:
    """Walkers in the exchange's own process: a step is a call, and no message is needed."""

    def __init__(self, pool: Steps, count: int) -> None:
        self._pool = pool
        self._samples: list[Sample | None] = [pool.step(index, None) for index in range(count)]
        self._note()

    def _note(self) -> None:
        self._ready = np.array([i for i, s in enumerate(self._samples) if s is not None], np.intp)

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
        samples = [self._samples[index] for index in who]
        return Batch([sample for sample in samples if sample is not None])

    def reply(self, who: NDArray[np.intp], answer: Answer) -> None:
        """Let each walker make its next move."""
        step, samples = self._pool.step, self._samples
        version = answer.version
        rejected = [False] * len(who) if answer.rejected is None else answer.rejected.tolist()
        for walker, mean, deviation, uncertainty, trusted, bad in zip(
            who.tolist(),
            answer.mean,
            answer.deviation,
            answer.uncertainty.tolist(),
            answer.trusted.tolist(),
            rejected,
            strict=True,
        ):
            if bad:
                samples[walker] = self._pool.recover(walker)
            else:
                samples[walker] = step(
                    walker, Feedback(mean, deviation, uncertainty, trusted, version)
                )
        if any(samples[walker] is None for walker in who):
            self._note()
