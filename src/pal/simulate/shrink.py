"""Shrinking: of a schedule that breaks an invariant, the part that is needed to break it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pal.controller.rules import Rules
from pal.simulate.faults import Fault, Strike
from pal.simulate.scene import Site
from pal.simulate.schedule import Played, Schedule, play
from pal.simulate.world import Plant

REPLAYS: Final = 400
"""How often a broken schedule is played again, at most."""

_SIMPLER: Final = Rules(after=None, queue_capacity=10, failures=None, final_training=0.0)
"""Rules without anything special; a rule that matters stays as it is."""

_KEPT: Final = ("after", "labels", "initial_labels", "training", "labelling")
"""Rules that say what campaign it is."""


@dataclass(slots=True)
class _Shrinking:
    """The smallest schedule found so far that breaks the same invariant."""

    best: Played
    plant: Plant | None
    left: int = REPLAYS

    def tries(self, schedule: Schedule, only: Iterable[Strike]) -> None:
        """Play a smaller schedule; keep it if it breaks the same invariant."""
        if self.left <= 0:
            return
        self.left -= 1
        played = play(schedule, self.plant, frozenset(only))
        assert self.best.broken is not None
        if played.broken is None or played.broken.invariant != self.best.broken.invariant:
            return
        if (len(played.struck), played.events) <= (len(self.best.struck), self.best.events):
            self.best = played


def shrink(broken: Played, plant: Plant | None = None) -> Played:
    """Return a smaller schedule that breaks the same invariant: fewer faults, plainer rules."""
    found = _Shrinking(broken, plant)
    before = None
    while before != (before := (found.best.struck, found.best.schedule)) and found.left > 0:
        _fewer_kinds(found)
        _fewer_faults(found)
        for simpler in _simpler(found.best.schedule):
            found.tries(simpler(found.best.schedule), found.best.struck)
    return found.best


def _fewer_kinds(found: _Shrinking) -> None:
    """Leave out all faults of a kind, for each kind."""
    for kind in dict.fromkeys(kind for kind, _ in found.best.struck):
        kept = [strike for strike in found.best.struck if strike[0] is not kind]
        found.tries(found.best.schedule, kept)


def _fewer_faults(found: _Shrinking) -> None:
    """Leave out parts of the faults, halves first and single ones last."""
    size = max(1, len(found.best.struck) // 2)
    while size:
        for part in _parts(found.best.struck, size):
            kept = [strike for strike in found.best.struck if strike not in part]
            if len(kept) < len(found.best.struck):
                found.tries(found.best.schedule, kept)
        size //= 2


def _parts(struck: Sequence[Strike], size: int) -> Iterator[Sequence[Strike]]:
    # From the end: what came last is most often in vain.
    for start in range(len(struck), 0, -size):
        yield struck[max(0, start - size) : start]


def _simpler(schedule: Schedule) -> Iterator[Callable[[Schedule], Schedule]]:
    """Yield ways of making a schedule plainer."""
    yield lambda s: replace(s, site=Site(initial=s.site.initial, tick=s.site.tick))
    yield lambda s: replace(s, rules=replace(s.rules, trainers=((0,),)))
    yield lambda s: replace(s, rules=replace(s.rules, n_oracles=1))
    for name in Rules.__dataclass_fields__:
        value = getattr(_SIMPLER, name)
        if name not in _KEPT and getattr(schedule.rules, name) != value:
            yield lambda s, name=name, value=value: replace(  # type: ignore[misc]
                s, rules=replace(s.rules, **{name: value})
            )


def kinds_of(played: Played) -> str:
    """Return the faults that struck, for people."""
    kinds = [kind for kind, _ in played.struck]
    counts = {kind: kinds.count(kind) for kind in Fault if kind in kinds}
    said = [f"{kind}{f' x {count}' if count > 1 else ''}" for kind, count in counts.items()]
    return ", ".join(said) or "none"
