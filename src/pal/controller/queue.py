"""The candidates that wait for an oracle."""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pal.controller.events import Candidate
from pal.controller.rules import INITIAL, WhenFull


@dataclass(slots=True)
class Entry:
    """A candidate on its way to a label, and what has happened to it.

    `avoid` are the oracles that failed it. `survived` turns true once an oracle lived through
    an attempt: what then fails in the end is no poison. `excused` attempts are not held against
    it: what it ran on was lost.
    """

    candidate: Candidate
    attempts: int = 0
    avoid: frozenset[int] = frozenset()
    survived: bool = False
    excused: int = 0

    @property
    def sample(self) -> int:
        """The sample's number."""
        return self.candidate.sample

    @property
    def initial(self) -> bool:
        """Whether the sample was there before exploration began."""
        return self.candidate.walker == INITIAL


class LabelQueue:
    """A bounded queue: samples to be tried again first, then initial ones, then the rest.

    The rest is in order of arrival until it is ranked. Initial samples do not count against
    the capacity, and neither they nor samples to be tried again ever give way; so the queue may
    exceed its capacity by as many samples as oracles gave back, never by more.
    """

    def __init__(self, capacity: int, when_full: WhenFull) -> None:
        self.capacity = capacity
        self._when_full = when_full
        # Grouped by the oracles to avoid: one broken oracle that fails sample after sample
        # makes one long group, passed over in one look, not a long walk at every event.
        self._again: dict[frozenset[int], deque[Entry]] = {}
        self._initial: deque[Entry] = deque()
        self._fresh: OrderedDict[int, Entry] = OrderedDict()
        # (uncertainty, -arrival, sample): the least uncertain on top, of equals the newest.
        # Entries that left the queue stay until they surface or the heap is built anew.
        self._certain: list[tuple[float, int, int]] = []
        self._arrivals = 0
        # (when it may be tried again, order of arrival, candidate)
        self._deferred: list[tuple[float, int, Entry]] = []
        self._size = 0
        self._counted = 0
        self.widest = capacity
        """The largest capacity it has had: it shrinks only as candidates leave."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Entry]:
        for group in self._again.values():
            yield from group
        yield from self._initial
        yield from self._fresh.values()
        yield from self.deferred

    @property
    def deferred(self) -> Iterator[Entry]:
        """Those that are not to be tried again yet."""
        return (entry for _, _, entry in self._deferred)

    @property
    def counted(self) -> int:
        """How many waiting samples count against the capacity."""
        return self._counted

    @property
    def room(self) -> int:
        """Free places."""
        return max(0, self.capacity - self._counted)

    def add(self, entry: Entry) -> Entry | None:
        """Queue a new candidate; return the one that had to give way, perhaps the new one."""
        if entry.initial or self.room:
            self.restore(entry)
            return None
        victim = self._victim(entry)
        if victim is not entry:
            del self._fresh[victim.sample]
            self._count(victim, -1)
            self.restore(entry)
        return victim

    def restore(self, entry: Entry) -> None:
        """Queue a candidate in its place, whatever the capacity."""
        if entry.attempts:
            self._again.setdefault(entry.avoid, deque()).append(entry)
        elif entry.initial:
            self._initial.append(entry)
        else:
            self._fresh[entry.sample] = entry
            self._weigh(entry)
        self._count(entry, +1)

    def defer(self, entry: Entry, until: float) -> None:
        """Queue a candidate to be tried again, but not before this time in seconds."""
        self._arrivals += 1
        heapq.heappush(self._deferred, (until, self._arrivals, entry))
        self._count(entry, +1)

    def mature(self, now: float) -> None:
        """Let those be tried again whose time has come."""
        while self._deferred and self._deferred[0][0] <= now:
            entry = heapq.heappop(self._deferred)[2]
            self._again.setdefault(entry.avoid, deque()).append(entry)

    def remove(self, sample: int) -> Entry | None:
        """Take a candidate out, wherever it waits; None if it does not."""
        entry = next((entry for entry in self if entry.sample == sample), None)
        if entry is None:
            return None
        if self._fresh.pop(sample, None) is None:
            self._take_out(entry)
        self._count(entry, -1)
        return entry

    def _take_out(self, entry: Entry) -> None:
        group = self._again.get(entry.avoid, deque())
        if entry in self._initial:
            self._initial.remove(entry)
        elif entry in group:
            group.remove(entry)
            if not group:
                del self._again[entry.avoid]
        else:
            self._deferred = [item for item in self._deferred if item[2] is not entry]
            heapq.heapify(self._deferred)

    def govern(self, capacity: int, when_full: WhenFull) -> None:
        """Go by other limits from now on; candidates beyond them stay until they are labelled."""
        self.capacity, self._when_full = capacity, when_full
        self.widest = max(self.widest, capacity)
        self._weigh_all()

    def take(self, choose: Callable[[frozenset[int]], int | None]) -> tuple[Entry, int] | None:
        """Take out the first candidate for which `choose(avoid)` names an oracle."""
        for avoid, group in self._again.items():
            oracle = choose(avoid)
            if oracle is not None:
                entry = group.popleft()
                if not group:
                    del self._again[avoid]
                self._count(entry, -1)
                return entry, oracle
        if not (self._initial or self._fresh):
            return None
        oracle = choose(frozenset())
        if oracle is None:
            return None
        entry = self._initial.popleft() if self._initial else self._fresh.popitem(last=False)[1]
        self._count(entry, -1)
        return entry, oracle

    @property
    def rankable(self) -> tuple[int, ...]:
        """Numbers of the samples a selector may order anew."""
        return tuple(self._fresh)

    def rank(
        self, ranked: Sequence[int], order: Sequence[int], uncertainty: Mapping[int, float]
    ) -> list[Entry]:
        """Bring the `ranked` samples still waiting into `order`; return those left out of it.

        Samples that came after the ranking was asked for keep their order, behind the ranked.
        """
        judged = {sample: self._fresh.pop(sample) for sample in ranked if sample in self._fresh}
        later = self._fresh
        self._fresh = OrderedDict()
        for sample in order:
            entry = judged.pop(sample, None)
            if entry is not None:
                doubt = uncertainty.get(sample, entry.candidate.uncertainty)
                entry.candidate = replace(entry.candidate, uncertainty=doubt)
                self._fresh[sample] = entry
        self._fresh.update(later)
        for entry in judged.values():
            self._count(entry, -1)
        self._weigh_all()
        return list(judged.values())

    def _victim(self, entry: Entry) -> Entry:
        if self._when_full == "drop_new" or not self._fresh:
            return entry
        if self._when_full == "drop_old":
            return next(iter(self._fresh.values()))
        while True:
            doubt, _, sample = self._certain[0]
            waiting = self._fresh.get(sample)
            if waiting is not None:
                return waiting if doubt < entry.candidate.uncertainty else entry
            heapq.heappop(self._certain)

    def _weigh(self, entry: Entry) -> None:
        if self._when_full != "drop_certain":
            return
        self._arrivals += 1
        item = (entry.candidate.uncertainty, -self._arrivals, entry.sample)
        heapq.heappush(self._certain, item)
        if len(self._certain) > 2 * len(self._fresh) + 16:
            self._weigh_all()

    def _weigh_all(self) -> None:
        if self._when_full == "drop_certain":
            self._certain = [
                (entry.candidate.uncertainty, -place, entry.sample)
                for place, entry in enumerate(self._fresh.values())
            ]
            self._arrivals = max(self._arrivals, len(self._certain))
            heapq.heapify(self._certain)

    def _count(self, entry: Entry, by: int) -> None:
        self._size += by
        if not entry.initial:
            self._counted += by
