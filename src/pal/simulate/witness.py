"""The witness: sees all events and orders of a session, and holds them to the invariants.

It keeps books of its own, from what is said and from what is on the disk, and asks the controller
for little more than the stage the campaign is at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.invariants import InvariantError, validate
from pal.controller.manager import Manager
from pal.controller.rules import Restored, Rules
from pal.simulate.account import Account
from pal.simulate.broken import Broken
from pal.simulate.course import Course
from pal.simulate.disk import Disk
from pal.simulate.lessons import Lessons
from pal.simulate.samples import Samples


class Witness:
    """Lets three judges hear and see everything: of samples, of training, of the course."""

    def __init__(
        self, rules: Rules, disk: Disk, past: Restored, sessions: int, initial: int
    ) -> None:
        self._account = account = Account(rules, disk, past.elapsed, dict(disk.states))
        self.samples = Samples(account, past, sessions)
        self._lessons = Lessons(account)
        self._course = Course(account, past, initial)
        self._finished = False
        judges = (self.samples, self._lessons, self._course)
        self._hears: dict[type, list[Callable[[Any], None]]] = {}
        self._sees: dict[type, list[Callable[[Any], None]]] = {}
        for judge in judges:
            for kind, hear in judge.hears.items():
                self._hears.setdefault(kind, []).append(hear)
            for kind, see in judge.sees.items():
                self._sees.setdefault(kind, []).append(see)

    @property
    def states(self) -> dict[int, State]:
        """Where each sample is said to be."""
        return self._account.states

    def hear(self, event: ev.Event) -> None:
        """Take down an event, before the manager hears it."""
        account = self._account
        account.time = max(account.time, event.time)
        account.event = event
        for hear in self._hears.get(type(event), ()):
            hear(event)
        if type(event) is ev.RulesChanged:
            account.rules = event.rules
        elif type(event) is ev.KernelPaused:
            change = account.paused.add if event.on else account.paused.discard
            change(event.kernel)
        elif type(event) is ev.StopRequested:
            account.hurried |= account.ending

    def see(self, order: co.Command) -> None:
        """Judge an order of the manager."""
        if self._finished:
            raise Broken("orderly end", f"{order} after the end")
        for see in self._sees.get(type(order), ()):
            see(order)
        self._finished = type(order) is co.Finish

    def settle(self, manager: Manager, orders: Sequence[co.Command]) -> None:
        """Judge where the campaign stands once all orders of an event are carried out."""
        try:
            validate(manager)
        except InvariantError as error:
            raise Broken("controller", str(error)) from error
        self._account.ending = manager.ending is not None
        self.samples.settle(manager, orders)
        self._course.settle()
        if not self._account.ending:
            self._lessons.settle(manager)

    def close(self, manager: Manager) -> None:
        """Judge a session that has ended in good order, with all of it on the disk."""
        self.samples.close(manager)
        self._course.close()
