"""What has changed in the settings since the last session, and whether that may be mixed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pal.errors import LedgerForeignError
from pal.ledger.entries import Session
from pal.settings import Settings, dump, parse

_THEORY: Final = ("oracle.kernel", "oracle.options")
"""What decides by which theory labels are made."""

_NUMBERS: Final = frozenset(f"oracle.options.{name}" for name in ("rank", "count", "total"))
"""Of these, what only numbers processes, for oracles of the published interface."""

_LONGEST: Final = 60


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is another one now; None: not set."""

    key: str
    before: Any
    now: Any

    @property
    def theory(self) -> bool:
        """Whether labels from before and from now on would be of different kinds."""
        return self.key.startswith(_THEORY) and self.key not in _NUMBERS

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.before)} -> {_shown(self.now)}"


def differences(
    settings: Settings, before: Sequence[Session], labels: int, accepted: bool
) -> list[Difference]:
    """Compare settings with those of the last session of a campaign that has so many labels.

    Raises:
        LedgerForeignError: the labels are of another oracle, and nobody has accepted that.
    """
    if not before:
        return []
    now, defaults = _plain(settings), _plain(_bare(settings))
    found = [
        change
        for change in _compared("", json.loads(before[-1].settings), now)
        # Not set before: by an older version, perhaps, which did not know it.
        if change.before is not None or change.now != _at(defaults, change.key)
    ]
    mixed = [str(change) for change in found if change.theory]
    if mixed and labels and not accepted:
        raise LedgerForeignError(
            f"{settings.directory} has {labels:,} labels of another oracle: {'; '.join(mixed)}. "
            "Models would learn from both as if they were one: set it back, choose another "
            "directory, begin afresh with --fresh, or, if the labels do fit together, give "
            "--accept-changes"
        )
    return found


def _bare(settings: Settings) -> Settings:
    """Return settings of the same kernels, and all else by default."""
    roles = ("generator", "model", "oracle")
    return parse({role: {"kernel": getattr(settings, role).kernel} for role in roles})


def _at(data: Any, key: str) -> Any:
    for part in key.split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _plain(settings: Settings) -> Any:
    """Return settings as a ledger keeps them."""
    return json.loads(json.dumps(dump(settings)))


def _compared(name: str, before: Any, now: Any) -> Iterator[Difference]:
    """Go into sections, also into one that only one side has."""
    sides = [{} if side is None else side for side in (before, now)]
    if any(sides) and all(isinstance(side, Mapping) for side in sides):
        for key in dict.fromkeys([*sides[0], *sides[1]]):
            yield from _compared(
                f"{name}.{key}" if name else key, sides[0].get(key), sides[1].get(key)
            )
    elif before != now and sides != [{}, {}]:
        yield Difference(name, before, now)


def _shown(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
