"""What is printed of a schedule that breaks an invariant: seed, rules, faults, and the story."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from pal.controller import events as ev
from pal.controller.rules import Rules
from pal.simulate.history import Line, told
from pal.simulate.schedule import Played
from pal.simulate.shrink import kinds_of

LAST = 12
"""Lines of the end of a history that are told."""

_DULL = (ev.Tick, ev.Explored, ev.EpochDone)
"""What comes all the time, and says little."""

LONGEST_STORY = 40
"""Lines told of a sample, at most; of a longer story, the first and the last ones."""


def report(found: Played, shrunk: Played) -> Iterator[str]:
    """Yield the lines that tell of a broken invariant: of the schedule as found and as shrunk."""
    broken = shrunk.broken
    assert broken is not None
    seed = found.schedule.seed
    yield f"BROKEN, seed {seed}: {broken}"
    yield (
        f"  {len(found.struck)} faults and {found.events} events, "
        f"shrunk to {len(shrunk.struck)} and {shrunk.events}"
    )
    yield f"  faults: {kinds_of(shrunk)}"
    yield f"  rules: {rules_said(shrunk.schedule.rules)}"
    yield f"  site: {shrunk.schedule.site}"
    for sample in broken.samples[:3]:
        yield f"  sample {sample}:"
        for line in _shortened(shrunk.history.of(sample)):
            yield f"    {line}"
    yield "  the last of it (session, seconds, < heard, > ordered):"
    telling = [line for line in shrunk.history.lines if not isinstance(line[2], _DULL)]
    yield from (f"    {told(line)}" for line in telling[-LAST:])
    yield f"  again, as found: pal bench simulate --seed {seed} --trace"


def _shortened(lines: list[Line]) -> Iterator[str]:
    half = LONGEST_STORY // 2
    if len(lines) > LONGEST_STORY:
        yield from map(told, lines[:half])
        yield f"... {len(lines) - 2 * half} more ..."
        lines = lines[-half:]
    yield from map(told, lines)


def rules_said(rules: Rules) -> str:
    """Return the rules that are not the usual ones."""
    usual = Rules()
    pairs = ((field.name, getattr(rules, field.name)) for field in fields(rules))
    said = [f"{name}={value}" for name, value in pairs if value != getattr(usual, name)]
    return ", ".join(said)
