"""What settings files say, with the files that they extend."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Final

from pal.errors import SettingsError

EXTENDS: Final = "extends"


def read_data(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON file, laid over the file that its `extends` names, if it names one.

    Tables are joined, and what both files say is taken from the first one. The options of a
    kernel go when another kernel takes its place. A file that names no `directory` runs in
    `run-` and its own name, so that two files never share a campaign by mistake.

    Raises:
        SettingsError: a file cannot be read or parsed, extends a file of another folder, or
            itself.
    """
    return _joined(path, ())


def _joined(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    data = _parsed(path)
    name = data.pop(EXTENDS, None)
    if name is None:
        return data
    if not isinstance(name, str) or Path(name).name != name:
        raise SettingsError(
            f"{path}: extends = {name!r}: expected the name of a settings file in the same "
            "folder, from which all relative paths are taken"
        )
    base = path.parent / name
    if base in (path, *seen):
        chain = " extends ".join(file.name for file in (*seen, path, base))
        raise SettingsError(f"{path}: {chain}; expected a file that does not come back to it")
    return _over(_joined(base, (*seen, path)), {"directory": f"run-{path.stem}", **data})


def _over(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Lay one table over another."""
    if "kernel" in data and data["kernel"] != base.get("kernel"):
        base = {key: value for key, value in base.items() if key != "options"}
    both = {
        key: _over(base[key], value)
        for key, value in data.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **data, **both}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SettingsError(
            f"cannot read settings file {path}: {error.strerror}; "
            "name an existing one, or make one with `pal init`"
        ) from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be parsed: {error}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: expected a table of settings, got {type(data).__name__}")
    return data
