"""The judge of a campaign's course: walkers, grants, the length of the queue, and the end."""

from __future__ import annotations

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.rules import INITIAL, Restored
from pal.simulate.account import Account, Ears
from pal.simulate.broken import Broken


class Course:
    """Follows what is proposed and granted, whether walkers move, and whether it ends."""

    def __init__(self, account: Account, past: Restored, initial: int) -> None:
        self._account = account
        candidates = account.disk.candidates.values()
        self._initial = {c.sample for c in candidates if c.walker == INITIAL}
        self._proposed = self._granted = past.proposed
        rules, queued = account.rules, len(past.queued)
        self._waiting: set[int] = {candidate.sample for candidate, _ in past.queued}
        self._room = rules.queue_capacity + rules.n_oracles + queued + initial
        """How many samples may wait in all: the widest the queue was, and what may come back."""
        self._exploring = self._explored = False
        self.hears: Ears = {
            ev.CandidatesProposed: self._hear_candidates,
            ev.SampleRequeued: self._hear_requeued,
            ev.RulesChanged: self._hear_rules,
        }
        self.sees: Ears = {
            co.Move: self._see_move,
            co.Explore: self._see_explore,
            co.GrantCandidates: self._see_grant,
        }

    def _hear_candidates(self, event: ev.CandidatesProposed) -> None:
        for candidate in event.candidates:
            if candidate.walker == INITIAL:
                self._initial.add(candidate.sample)
            elif candidate.sample not in self._account.states:
                self._proposed += 1

    def _hear_requeued(self, event: ev.SampleRequeued) -> None:
        self._room += 1

    def _hear_rules(self, event: ev.RulesChanged) -> None:
        old, new = self._account.rules, event.rules
        self._room += max(0, new.queue_capacity - old.queue_capacity)
        self._room += max(0, new.n_oracles - old.n_oracles)

    def _see_move(self, order: co.Move) -> None:
        if order.state is State.QUEUED:
            self._waiting.add(order.sample)
        else:
            self._waiting.discard(order.sample)

    def _see_explore(self, order: co.Explore) -> None:
        if order.on == self._exploring:
            raise Broken("walkers", f"walkers are told again what they do: {order}")
        if order.on and "generator" in self._account.paused:
            raise Broken("pauses", "walkers are let go while they are paused")
        self._exploring = order.on
        self._explored |= order.on

    def _see_grant(self, order: co.GrantCandidates) -> None:
        if order.total <= self._granted:
            raise Broken("bounded", f"{order} after {self._granted}")
        self._granted = order.total
        rules = self._account.rules
        # The serial loop queues first and labels then: it grants a round of them.
        taken = 0 if rules.serial else len(self._waiting - self._initial)
        room = max(0, rules.queue_capacity - taken)
        if order.total - self._proposed > room:
            found = f"{order}, when {self._proposed} are proposed and there is room for {room}"
            raise Broken("bounded", found)

    def settle(self) -> None:
        """Judge what an event has led to."""
        if len(self._waiting) > self._room:
            found = f"{len(self._waiting)} samples wait, where there is room for {self._room}"
            raise Broken("bounded", found)
        if self._account.ending:
            return
        if type(self._account.event) is ev.StopRequested:
            raise Broken("orderly end", "a stop was asked for, and none begins")
        held = "generator" in self._account.paused or self._account.rules.serial
        if self._explored and not self._exploring and not held:
            raise Broken("walkers", "walkers are held, and nobody says so")

    def close(self) -> None:
        """Judge a session that has ended in good order."""
        if self._exploring:
            raise Broken("walkers", "walkers explore after the end")
