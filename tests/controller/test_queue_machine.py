"""The label queue against a naive model of it: plain lists, sorted and searched each time."""

from __future__ import annotations

import math

from controller_play import candidate
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pal.controller.queue import Entry, LabelQueue
from pal.controller.rules import INITIAL

KINDS = st.sampled_from(["drop_new", "drop_certain", "drop_old"])
ORACLES = st.frozensets(st.integers(0, 3), max_size=2)


class Naive:
    """The same queue, without any thought of speed."""

    def __init__(self, capacity, when_full):
        self.capacity, self.when_full = capacity, when_full
        self.again, self.initial, self.fresh, self.deferred = [], [], [], []

    def everything(self):
        return [*self.again, *self.initial, *self.fresh, *(e for _, e in self.deferred)]

    @property
    def counted(self):
        return sum(not entry.initial for entry in self.everything())

    def add(self, entry):
        if entry.initial or self.counted < self.capacity:
            self.restore(entry)
            return None
        victim = self.victim(entry)
        if victim is not entry:
            self.fresh.remove(victim)
            self.fresh.append(entry)
        return victim

    def victim(self, entry):
        if self.when_full == "drop_new" or not self.fresh:
            return entry
        if self.when_full == "drop_old":
            return self.fresh[0]
        least = min(e.candidate.uncertainty for e in self.fresh)
        if least >= entry.candidate.uncertainty:
            return entry
        equals = [e for e in self.fresh if e.candidate.uncertainty == least]
        return equals[-1]

    def restore(self, entry):
        if entry.attempts:
            self.again.append(entry)
        else:
            (self.initial if entry.initial else self.fresh).append(entry)

    def mature(self, now):
        # Of several, the one that was due first.
        for item in sorted(self.deferred, key=lambda item: item[0]):
            if item[0] <= now:
                self.deferred.remove(item)
                self.again.append(item[1])

    def remove(self, sample):
        for place in (self.again, self.initial, self.fresh):
            place[:] = [entry for entry in place if entry.sample != sample]
        self.deferred = [item for item in self.deferred if item[1].sample != sample]


class QueueMachine(RuleBasedStateMachine):
    """Whatever is done to both, both hold the same and hand out the same."""

    @initialize(capacity=st.integers(1, 4), when_full=KINDS)
    def begin(self, capacity, when_full):
        self.queue, self.naive = LabelQueue(capacity, when_full), Naive(capacity, when_full)
        self.given, self.out, self.now, self.asked = 0, [], 0.0, ()

    @rule(uncertainty=st.sampled_from([0.1, 0.2, 0.3]), initial=st.booleans())
    def add(self, uncertainty, initial):
        walker = INITIAL if initial and self.given < 3 else 0
        entry = Entry(candidate(self.given, uncertainty, walker))
        self.given += 1
        assert self.queue.add(entry) is self.naive.add(entry)

    @rule(free=st.frozensets(st.integers(0, 3)))
    def take(self, free):
        def choose(avoid):
            return min(free - avoid, default=None)

        taken = self.queue.take(choose)
        # Any entry that has been tried and may be given away goes before those that have not.
        tried = [entry for entry in self.naive.again if choose(entry.avoid) is not None]
        rest = self.naive.initial or self.naive.fresh
        if taken is None:
            assert not tried
            assert not (rest and free)
            return
        entry, oracle = taken
        assert oracle == choose(entry.avoid)
        if tried:
            assert entry in tried
            alike = [other for other in tried if other.avoid == entry.avoid]
            assert entry is alike[0], "of those with the same history, the first"
        else:
            assert entry is rest[0]
        self.naive.remove(entry.sample)
        self.out.append(entry)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), avoid=ORACLES, wait=st.sampled_from([None, -math.inf, 0.5, 1.0]))
    def bring_back(self, data, avoid, wait):
        entry = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        entry.attempts += 1
        entry.avoid |= avoid
        if wait is None:
            self.queue.restore(entry)
            self.naive.restore(entry)
        else:
            self.queue.defer(entry, self.now + wait)
            self.naive.deferred.append((self.now + wait, entry))

    @rule(seconds=st.sampled_from([0.0, 0.5]))
    def wait(self, seconds):
        self.now += seconds
        self.queue.mature(self.now)
        self.naive.mature(self.now)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def remove(self, data):
        sample = data.draw(st.integers(0, self.given - 1))
        held = [entry for entry in self.naive.everything() if entry.sample == sample]
        assert self.queue.remove(sample) is (held[0] if held else None)
        self.naive.remove(sample)

    @rule()
    def ask_for_a_ranking(self):
        self.asked = self.queue.rankable

    @rule(data=st.data())
    def rank(self, data):
        """The answer may come late: some have left the queue since, and others have come."""
        ranked = self.asked
        order = [
            sample for sample in data.draw(st.permutations(ranked)) if data.draw(st.booleans())
        ]
        doubts = {sample: data.draw(st.sampled_from([0.1, 0.4])) for sample in order}
        held = {entry.sample: entry for entry in self.naive.fresh}
        left_out = self.queue.rank(ranked, order, doubts)
        assert {e.sample for e in left_out} == (set(ranked) - set(order)) & held.keys()
        later = [entry for sample, entry in held.items() if sample not in ranked]
        self.naive.fresh = [held[sample] for sample in order if sample in held] + later

    @rule(capacity=st.integers(1, 5), when_full=KINDS)
    def govern(self, capacity, when_full):
        self.queue.govern(capacity, when_full)
        self.naive.capacity, self.naive.when_full = capacity, when_full

    @invariant()
    def both_hold_the_same(self):
        if not hasattr(self, "queue"):
            return
        held = [entry.sample for entry in self.queue]
        assert len(held) == len(set(held)) == len(self.queue)
        assert sorted(held) == sorted(entry.sample for entry in self.naive.everything())
        assert list(self.queue.rankable) == [entry.sample for entry in self.naive.fresh]
        later = sorted(entry.sample for entry in self.queue.deferred)
        assert later == sorted(entry.sample for _, entry in self.naive.deferred)
        assert self.queue.counted == self.naive.counted
        assert self.queue.room == max(0, self.naive.capacity - self.naive.counted)


TestQueue = QueueMachine.TestCase
# The same examples each time, and none has a deadline: others want the processor, too.
TestQueue.settings = settings(
    max_examples=150, stateful_step_count=40, derandomize=True, deadline=None, database=None
)
