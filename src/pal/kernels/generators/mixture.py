"""Several generators in one campaign, each with its share of the walkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pal.building import nested
from pal.errors import ContractError
from pal.roles import Context, Generator


def mixture(context: Context, *, entries: Sequence[str | Mapping[str, Any]]) -> Generator:
    """Different generators in one campaign, each with its share of the walkers.

    Of every s walkers, s being the sum of all shares, the first entry has its share, then the
    second, and so on; then it begins again. A walker is the generator of its entry and nothing
    else: its states, files and end are that generator's own, and where all walkers of a process
    are of one class that moves many as one, they do so. Each entry counts its own walkers from
    zero, so that they begin at the start geometries in turn as if they were alone.

    Options:
        entries: the generators, each a short name or a table of `kernel`, `options` and `share`
            (a whole number; 1 where it is not said).

    Example:
        [generator]
        kernel = "mixture"
        walkers = 8                         # six of dynamics, two saddle searches

        [[generator.options.entries]]
        kernel = "dynamics"
        share = 3
        options = { start = "start.xyz", temperatures_K = [300, 600] }

        [[generator.options.entries]]
        kernel = "saddle_search"
        options = { start = "guesses.xyz" }
    """
    if isinstance(entries, str) or not entries:
        raise ContractError(f"mixture: expected a list of entries, not empty; got {entries!r}")
    pattern = [place for place, entry in enumerate(entries) for _ in range(_share(place, entry))]
    places = [pattern[walker % len(pattern)] for walker in range(context.count)]
    mine = places[context.index]
    own = replace(context, index=places[: context.index].count(mine), count=places.count(mine))
    generator: Generator = nested(
        "generator", _bare(entries[mine]), own, f"mixture: entries[{mine}]"
    )
    return generator


def _share(place: int, entry: Any) -> int:
    """Return the share of an entry.

    Raises:
        ContractError: it is no whole number above zero.
    """
    share = entry.get("share", 1) if isinstance(entry, Mapping) else 1
    if isinstance(share, bool) or not isinstance(share, int) or share < 1:
        raise ContractError(
            f"mixture: entries[{place}]: expected share to be a whole number >= 1; got {share!r}"
        )
    return share


def _bare(entry: Any) -> Any:
    """Return an entry without what only the mixture understands."""
    if not isinstance(entry, Mapping):
        return entry
    return {name: value for name, value in entry.items() if name != "share"}
