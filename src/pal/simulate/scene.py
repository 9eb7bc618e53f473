"""What all parts of a simulated session share."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pal.controller.rules import Rules
from pal.simulate.agenda import Agenda
from pal.simulate.faults import Fault, Faults
from pal.simulate.nodes import Nodes


@dataclass(frozen=True, slots=True)
class Site:
    """Where a campaign runs: nodes, shards on them, initial samples, seconds between ticks."""

    nodes: int = 1
    shards: int = 1
    initial: int = 0
    tick: float = 1.0


@dataclass(slots=True)
class Scene:
    """Time, chance, faults, places and rules."""

    rules: Rules
    agenda: Agenda
    rng: random.Random
    faults: Faults
    nodes: Nodes

    def now(self) -> float:
        """Return the time for the stamp of an event."""
        time = self.agenda.time
        return time - self.rng.random() if self.faults.strikes(Fault.CLOCK) else time
