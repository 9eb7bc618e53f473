"""Numbers and names as people read them, the same in terminal, summary and report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

KERNELS: Final = {
    "generator": "Generators",
    "prediction": "Predictors",
    "oracle": "Oracles",
    "training": "Trainers",
}
"""Who works in each kernel of `Snapshot.utilisation`, in the order in which it is shown."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=+*%#"


def kernels(*mappings: Mapping[str, Any]) -> list[str]:
    """Return the kernels that occur in the mappings: the known ones first, in their order."""
    seen = {name for mapping in mappings for name in mapping}
    return [name for name in KERNELS if name in seen] + sorted(seen - set(KERNELS))


def heading(kernel: str) -> str:
    """Return the name of a kernel as people read it."""
    return KERNELS.get(kernel, kernel.capitalize())


def figure(value: float | None) -> str:
    """Write a number with three significant digits: 0.0123, 121, 12,300; a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e9:
        return f"{value:.2e}"
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(fraction: float) -> str:
    """Write a fraction as a percentage; small ones keep a digit, so that rare is not never."""
    if not math.isfinite(fraction):
        return "-"
    value = 100 * fraction
    return f"{value:.1f} %" if 0 < value < 0.95 else f"{value:.0f} %"


def duration(seconds: float) -> str:
    """Write a time span with the two largest units that matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def ago(seconds: float) -> str:
    """Write a time span in its largest unit, for a narrow column: 45 s, 12 min, 5 h, 3 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def plural(number: int, noun: str) -> str:
    """Write a count with its noun: 1 restart, 1,200 restarts."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def sparkline(values: Sequence[float], *, ascii_only: bool = False) -> str:
    """Draw fractions (or other values from zero up) as one line of blocks, tallest = maximum."""
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    finite = [value if math.isfinite(value) else 0.0 for value in values]
    top = max(finite, default=0.0) or 1.0
    return "".join(blocks[min(7, max(0, int(8 * value / top)))] for value in finite)


def bar(fraction: float, width: int, *, ascii_only: bool = False) -> tuple[str, str]:
    """Return the full and the empty part of a bar of `width` characters."""
    full, empty = ("#", "-") if ascii_only else ("━", "─")
    share = min(1.0, max(0.0, fraction)) if math.isfinite(fraction) else 0.0
    size = round(share * width)
    return full * size, empty * (width - size)


def error_name(field: str) -> str:
    """Name the error of a label's field: forces -> Force error."""
    word = field.replace("_", " ").strip()
    if word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return f"{word[:1].upper()}{word[1:]} error" if word else "Error"


def with_unit(name: str, unit: str) -> str:
    """Name an axis or a column with its unit."""
    return f"{name} ({unit})" if unit else name


def improvement(before: float, after: float) -> str:
    """Say how an error changed: 6.7 times smaller."""
    if not (math.isfinite(before) and math.isfinite(after)) or before <= 0 or after <= 0:
        return ""
    ratio = before / after
    if 0.995 < ratio < 1.005:
        return "unchanged"
    return f"{times(ratio)} smaller" if ratio > 1 else f"{times(1 / ratio)} larger"


def times(ratio: float) -> str:
    """Write a ratio: 6.7 times, 120 times."""
    return f"{ratio:.2g} times" if ratio < 99.5 else f"{ratio:,.0f} times"


def shown(value: Any) -> str:
    """Write a value as people write it in settings."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def finite(data: Any) -> Any:
    """Return plain data with NaN and infinity as None, for JSON knows neither."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return [finite(value) for value in data]
    return data
