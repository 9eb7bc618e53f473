"""Grants: how many candidates each shard may still propose, of what the manager allows in all."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Grants:
    """Divides the places of the label queue among shards. Pure.

    All numbers are running totals of this session. A shard that has used up its part gets from
    those that have not, at the next `divide`. A shard that has just proposed what is taken from
    it proposes too much then; the queue has its policy for that.
    """

    total: int = 0
    _received: dict[int, int] = field(default_factory=dict)
    _before: dict[int, int] = field(default_factory=dict)
    """What a shard had proposed before its exchange started again and counts from 0."""
    _given: dict[int, int] = field(default_factory=dict)

    def received(self, shard: int, count: int) -> None:
        """Count proposals of a shard."""
        self._received[shard] = self._received.get(shard, 0) + count

    def welcome(self, shard: int) -> None:
        """Note that an exchange has started, and has been granted nothing yet."""
        self._before[shard] = self._given[shard] = self._received.setdefault(shard, 0)

    def lost(self, shard: int) -> None:
        """Note that an exchange is gone; what it was granted is for the others."""
        self._given.pop(shard, None)

    @property
    def uneven(self) -> bool:
        """Whether a shard has nothing left to propose while others have."""
        left = [given - self._received[shard] for shard, given in self._given.items()]
        return bool(left) and min(left) <= 0 < max(left)

    def divide(self) -> dict[int, int]:
        """Divide what is free; return the new total of each shard, as its exchange counts."""
        free = max(0, self.total - sum(self._received.values()))
        left = {shard: given - self._received[shard] for shard, given in self._given.items()}
        news: dict[int, int] = {}
        for place, shard in enumerate(sorted(left, key=lambda shard: (left[shard], shard))):
            part = free // len(left) + (place < free % len(left))
            given = self._received[shard] + part
            if given != self._given[shard]:
                self._given[shard] = given
                news[shard] = given - self._before[shard]
        return news
