"""The kernels registered under short names, and what they lack here; nothing of them is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pal.building import METHODS


@dataclass(frozen=True, slots=True)
class Registered:
    """A kernel's role, short name and class; `fix` says what to install, empty if nothing."""

    role: str
    name: str
    target: str
    fix: str


def registered_kernels() -> list[Registered]:
    """Return all kernels that have short names, role by role."""
    return [
        Registered(role, entry.name, entry.value, _fix(entry.module))
        for role in METHODS
        for entry in sorted(metadata.entry_points(group=f"pal.{role}s"), key=lambda e: e.name)
    ]


def _fix(module: str) -> str:
    """Say what a module needs to be imported; empty when all is there."""
    lacking = sorted(set(_lacking(module, set())))
    if not lacking:
        return ""
    extras = {extra for name in lacking if (extra := _extra_with(name))}
    others = [name for name in lacking if not _extra_with(name)]
    wanted = [f'"pal[{",".join(sorted(extras))}]"'] if extras else []
    return f"pip install {' '.join(wanted + others)}"


def _lacking(module: str, seen: set[str]) -> Iterator[str]:
    """Yield the packages that a module, or one of its own package that it imports, lacks.

    Reading the source instead of importing takes milliseconds where PyTorch takes seconds.
    """
    seen.add(module)
    package = module.partition(".")[0]
    file = _source(module)
    if file is None:
        yield package
        return
    for name in _imports(file):
        if name.partition(".")[0] == package:
            if name not in seen:
                yield from _lacking(name, seen)
        elif _source(name.partition(".")[0]) is None:
            yield name.partition(".")[0]


def _source(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ImportError:
        return None
    return None if spec is None else Path(spec.origin or "")


def _imports(file: Path) -> Iterator[str]:
    """Yield the modules that a Python file imports when it is itself imported."""
    if file.suffix != ".py":
        return
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _extra_with(package: str) -> str:
    """Return the extra of PAL that brings a package, or an empty text."""
    pattern = rf"{re.escape(package)}\b.*extra\s*==\s*['\"](\w+)['\"]"
    for requirement in metadata.requires("pal") or ():
        if (match := re.match(pattern, requirement, re.IGNORECASE)) is not None:
            return match[1]
    return ""
