"""How ranks end together without waiting for one that is gone.

Ending an MPI program is a collective act in which every rank spins until the last one comes, and
hangs if one never does. So the ranks agree first, asleep between two looks: each tells the leader,
the lowest living rank, that it is ready, and the leader tells all how to end.
"""

from __future__ import annotations

from pal.transport.fabric import Control, Lost, PacketFabric

PATIENCE = 30.0
"""Seconds without any news after which a rank that has not come is taken for gone."""

GRACE = 1.0
"""Seconds that expelled ranks have to die once all others are ready to end."""


class Farewell:
    """One rank's part. Call `step` until it says how to end."""

    def __init__(
        self, fabric: PacketFabric, now: float, lost: bool = False, patience: float = PATIENCE
    ) -> None:
        self._fabric = fabric
        self._lost = lost
        self._patience = patience
        self._deadline = now + patience
        self._leader = 0
        self._told: int | None = None
        self._ready_at: float | None = None
        self._decision: Control | None = None
        self.gave_up: set[int] = set()  # who has never come, though nobody had expelled it

    def step(self, now: float) -> Control | None:
        """Go on; return `END` or `SCATTER` once that is settled. What still arrives is dropped."""
        fabric = self._fabric
        lost = any(isinstance(item, Lost) for item in fabric.receive())
        if lost or fabric.pause == 0.0:
            self._deadline = now + self._patience
        while not fabric.living(self._leader):
            self._leader += 1
        leads = self._leader == fabric.rank
        if now > self._deadline:
            self._give_up(leads)
            self._deadline = now + self._patience
            return None
        return self._lead(now) if leads else self._follow()

    def _give_up(self, leads: bool) -> None:
        """Take for gone who has kept this rank waiting."""
        unfinished = self._fabric.unfinished
        late = unfinished | self._missing() if leads else unfinished or {self._leader}
        self.gave_up |= late
        for rank in late:
            self._fabric.abandon(rank)

    def _missing(self) -> set[int]:
        """Living ranks that have not said that they are ready."""
        fabric = self._fabric
        ready = {source for source, control in fabric.controls if control is Control.READY}
        return {rank for rank in range(fabric.size) if fabric.living(rank)} - ready - {fabric.rank}

    def _follow(self) -> Control | None:
        fabric = self._fabric
        # After a loss some rank may never take what is under way to it: only the leader counts.
        unfinished = fabric.unfinished & {self._leader} if self._lost else fabric.unfinished
        if self._told != self._leader and not unfinished:
            fabric.tell(self._leader, Control.READY)
            self._told = self._leader
        for control in (Control.END, Control.SCATTER):
            if (self._leader, control) in fabric.controls:
                return control
        return None

    def _lead(self, now: float) -> Control | None:
        fabric = self._fabric
        if self._decision is None:
            if fabric.unfinished or self._missing():
                return None
            self._ready_at = now if self._ready_at is None else self._ready_at
            undead = bool(fabric.expelled - fabric.lost)
            if undead and now < self._ready_at + GRACE:
                return None
            alone = self._lost or fabric.lost or fabric.expelled
            self._decision = Control.SCATTER if alone else Control.END
            for rank in range(fabric.size):
                if rank != fabric.rank and fabric.living(rank):
                    fabric.tell(rank, self._decision)
        return None if fabric.unfinished else self._decision
