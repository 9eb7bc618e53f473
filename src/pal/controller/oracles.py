"""The oracle pool: who is free, who works on what, and for how long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pal.controller.queue import Entry


@dataclass(frozen=True, slots=True)
class Running:
    """A label being made since `started`, in seconds on the campaign's clock."""

    entry: Entry
    started: float


class OraclePool:
    """Every living oracle is free or has one label running; a killed one awaits its end.

    Any index may report ready, so that oracles may join at any time. The deadline is not for
    those in `outside`: they watch over it themselves, as a label that waits for a batch system is
    not being made yet. `nodes` tells for each oracle where it is; those beyond its end are each
    on a node of their own.
    """

    def __init__(
        self, deadline: float | None, outside: Iterable[int] = (), nodes: Sequence[int] = ()
    ) -> None:
        self.deadline = deadline
        self._nodes = nodes
        self._outside = frozenset(outside)
        # Ordered dictionaries, because a plain one gets slow when emptied from its front.
        self.free: OrderedDict[int, None] = OrderedDict()
        self.running: OrderedDict[int, Running] = OrderedDict()
        """By oracle, in the order of their start."""
        self._watched: OrderedDict[int, None] = OrderedDict()
        """Those that are running and have a deadline, in the same order."""
        self.killed: dict[int, Running] = {}
        """Told to die for their deadline; their sample is still with them."""
        self._retiring: set[int] = set()

    def __len__(self) -> int:
        """Count the labels being made."""
        return len(self.running) + len(self.killed)

    def __iter__(self) -> Iterator[tuple[int, Entry]]:
        for oracle, running in (self.running | self.killed).items():
            yield oracle, running.entry

    def ready(self, oracle: int) -> Entry | None:
        """Note that an oracle starts; return what it was thought to be working on."""
        orphan = self.lost(oracle)
        self.free[oracle] = None
        return orphan

    def lost(self, oracle: int) -> Entry | None:
        """Note that an oracle died; return what it was working on."""
        self.free.pop(oracle, None)
        running = self._stop(oracle) or self.killed.pop(oracle, None)
        return running.entry if running else None

    def choose(self, avoid: frozenset[int]) -> int | None:
        """Name the oracle that has been free for longest, outside `avoid` if others live.

        If some live on other nodes than those of `avoid`, one of them.
        """
        if not avoid:
            return next(iter(self.free), None)
        nodes = {self._node(oracle) for oracle in avoid}
        away = any(self._node(oracle) not in nodes for oracle in (*self.free, *self.running))
        for oracle in self.free:
            if self._node(oracle) not in nodes or not (away or oracle in avoid):
                return oracle
        if away:
            return None
        living = len(self.free) + len(self.running)
        known = sum(oracle in self.free or oracle in self.running for oracle in avoid)
        return next(iter(self.free), None) if living == known else None

    def _node(self, oracle: int) -> int:
        return self._nodes[oracle] if oracle < len(self._nodes) else -1 - oracle

    def start(self, oracle: int, entry: Entry, now: float) -> None:
        """Give a free oracle a sample."""
        del self.free[oracle]
        self.running[oracle] = Running(entry, now)
        if oracle not in self._outside:
            self._watched[oracle] = None

    def _stop(self, oracle: int) -> Running | None:
        self._watched.pop(oracle, None)
        return self.running.pop(oracle, None)

    def answered(self, oracle: int, sample: int) -> Entry | None:
        """Take an oracle's answer; None if the sample is not, or no longer, running there."""
        running = self.running.get(oracle) or self.killed.get(oracle)
        if running is None or running.entry.sample != sample:
            return None
        if self.killed.pop(oracle, None) is None:
            self._stop(oracle)
            self.free[oracle] = None
        return running.entry

    def overdue(self, now: float) -> list[int]:
        """Name, once, each oracle whose label takes longer than the deadline."""
        late: list[int] = []
        while self.deadline is not None and self._watched:
            oracle = next(iter(self._watched))
            running = self.running[oracle]
            if now - running.started < self.deadline:
                break
            self._stop(oracle)
            self.killed[oracle] = running
            late.append(oracle)
        return late

    def retire(self, oracle: int) -> None:
        """Let an oracle go as soon as it is free; `leave` tells when."""
        self._retiring.add(oracle)

    def leave(self, oracle: int) -> bool:
        """Take a free oracle out if it is to go, and tell whether it was."""
        if oracle not in self._retiring or oracle not in self.free:
            return False
        self._retiring.remove(oracle)
        del self.free[oracle]
        return True

    def withdraw(self, sample: int) -> tuple[int, Entry, bool] | None:
        """Take one running label back, as `recall` does with all; None if it is not running."""
        for oracle, running in (self.running | self.killed).items():
            if running.entry.sample == sample:
                alive = self.killed.pop(oracle, None) is None
                if alive:
                    self._stop(oracle)
                return oracle, running.entry, alive
        return None

    def recall(self) -> list[tuple[int, Entry, bool]]:
        """Take every running label back: (oracle, entry, whether the oracle must be killed)."""
        taken = [(oracle, r.entry, True) for oracle, r in self.running.items()]
        taken += [(oracle, r.entry, False) for oracle, r in self.killed.items()]
        self.running.clear()
        self._watched.clear()
        self.killed.clear()
        return taken
