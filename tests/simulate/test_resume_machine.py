"""Resume: whatever is on the disk when a session is cut off, the next one goes on from it."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pal.controller import events as ev
from pal.controller.commands import CommitLabel, Move, StartLabel, State
from pal.controller.invariants import validate
from pal.controller.manager import Manager
from pal.controller.rules import Rules
from pal.errors import Failure
from pal.ledger import entries
from pal.simulate.disk import ARRAY, Disk


class ResumeMachine(RuleBasedStateMachine):
    """A manager, a disk, and a kill between any two steps, with any part of the writes done."""

    @initialize(capacity=st.integers(1, 4), retries=st.integers(0, 2))
    def begin(self, capacity, retries):
        self.rules = Rules(
            n_oracles=2,
            queue_capacity=capacity,
            oracle_retries=retries,
            training=False,
            failures=None,
        )
        self.disk = Disk()
        self.told, self.ended, self.time = set(), {}, 0.0
        self.start()

    def start(self):
        past = self.disk.restore()
        assert sorted(past.labelled) == sorted(set(past.labelled))
        assert self.told <= set(past.labelled), "what was acted upon is there"
        queued = {candidate.sample for candidate, _ in past.queued}
        assert queued.isdisjoint(past.labelled)
        unended = {s for s, state in self.disk.states.items() if state is State.QUEUED}
        assert queued == unended, "what has not ended waits again"
        self.tries = {candidate.sample: tries for candidate, tries in past.queued}
        self.manager = Manager(self.rules, past)
        self.buffer, self.running = [], {}
        self.next = self.disk.next_sample
        for oracle in range(2):
            self.send(ev.OracleReady(self.time, oracle))

    def send(self, event):
        for order in self.manager.handle(event):
            if isinstance(order, Move) and order.state not in (State.RUNNING, State.LABELLED):
                self.put(entries.StateChange(self.time, order.sample, order.state))
            elif isinstance(order, StartLabel):
                assert order.attempt > self.tries.get(order.sample, 0), "tries are remembered"
                self.tries[order.sample] = order.attempt
                self.running[order.oracle] = order.sample
                change = entries.StateChange(
                    self.time, order.sample, State.RUNNING, "", order.attempt
                )
                self.put(change)
            elif isinstance(order, CommitLabel):
                self.put(entries.NewLabel(self.time, order.sample, ARRAY, 0))
        validate(self.manager)

    def put(self, entry):
        self.buffer.append(entry)

    @rule(count=st.integers(1, 3))
    def propose(self, count):
        offered = [ev.Candidate(self.next + k, k, 0, math.inf) for k in range(count)]
        self.next += count
        for candidate in offered:
            self.put(entries.NewSample(self.time, candidate, ARRAY))
        self.send(ev.CandidatesProposed(self.time, tuple(offered)))

    @rule(oracle=st.integers(0, 1), good=st.booleans())
    def answer(self, oracle, good):
        self.time += 1.0
        sample = self.running.pop(oracle, None)
        if sample is None:
            return
        if good:
            self.send(ev.LabelReturned(self.time, oracle, sample))
        else:
            failure = Failure("oracle", oracle, "RuntimeError", "no", sample=sample)
            self.send(ev.LabelFailed(self.time, oracle, sample, failure))

    @rule(data=st.data())
    def write(self, data):
        """The writer takes what it finds, and tells."""
        labels = self.commit(data)
        if labels:
            self.told.update(labels)
            self.send(ev.LabelsDurable(self.time, labels))

    def commit(self, data):
        size = data.draw(st.integers(0, len(self.buffer)))
        batch, self.buffer = self.buffer[:size], self.buffer[size:]
        return self.disk.commit(batch)

    @rule(data=st.data())
    def kill(self, data):
        """A part of the writes may be done, and nobody has been told."""
        self.commit(data)
        self.start()

    @invariant()
    def nothing_acted_upon_is_missing(self):
        if hasattr(self, "disk"):
            assert self.told <= self.disk.labels.keys()
            assert set(self.manager.training.dataset) <= self.disk.labels.keys()


TestResume = ResumeMachine.TestCase
# The same examples each time, and none has a deadline: others want the processor, too.
TestResume.settings = settings(
    max_examples=100, stateful_step_count=40, derandomize=True, deadline=None, database=None
)
