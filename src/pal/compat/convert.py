"""Plain settings as the text of a `pal.toml`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_HEAD = """\
# The same run as {source}, as settings of PAL. The kernels are still the published ones, driven by
# pal.compat.kernels; replace them one by one, as the guide "Coming from PAL" shows.
"""


def toml(data: Mapping[str, Any], source: Path) -> str:
    """Return settings as TOML, sections one after the other; None is left out, as it is there."""
    return _HEAD.format(source=source.name) + "\n".join(_lines(data, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield f"\n[{'.'.join(path)}]"
    for name, value in table.items():
        if value is not None and not isinstance(value, Mapping):
            # What JSON writes for texts, numbers, truth values and lists is TOML, too.
            yield f"{name} = {json.dumps(value)}"
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*path, name))
