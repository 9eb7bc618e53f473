"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pal.errors import SettingsError

if TYPE_CHECKING:
    from pal.compat.settings import Published
    from pal.ledger.directory import RunDirectory
    from pal.settings import Settings

SETTINGS = Path("pal.toml")
"""The settings file that is meant where none is named."""

SettingsFile: TypeAlias = Annotated[
    Path, typer.Argument(metavar="SETTINGS", help="Settings file, TOML or JSON; or al_setting.py.")
]
Target: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="DIR|SETTINGS", help="Run directory, or the settings file that names it."
    ),
]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting, e.g. oracle.workers=2. The value is read as TOML, else as "
        "text. May be given several times.",
    ),
]


def overrides(assignments: Sequence[str] | None, command: str = "--set") -> dict[str, Any]:
    """Read `key=value` texts as dotted names and values; `command` is named in errors.

    Raises:
        SettingsError: one of them has no "=".
    """
    found: dict[str, Any] = {}
    for text in assignments or ():
        name, sign, value = text.partition("=")
        if not (sign and name.strip()):
            raise SettingsError(
                f"{command} {text}: expected KEY=VALUE, e.g. {command} oracle.workers=2"
            )
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


@dataclass(frozen=True, slots=True)
class Read:
    """A settings file: what it says, where its kernels are at home, and how it said so.

    `published`: the settings of the published interface, if it is one of those.
    """

    settings: Settings
    home: Path
    published: Published | None = None


def read(path: Path, changes: Mapping[str, Any] | None = None) -> Read:
    """Read a settings file of PAL, or of the published interface.

    Raises:
        SettingsError: naming the file, the key and the fix.
    """
    from pal.compat import settings as compat
    from pal.settings import load

    if not compat.is_published(path):
        return Read(load(path, changes), path.resolve().parent)
    settings, published = compat.read(path, changes)
    return Read(settings, compat.base_of(path, published.usr_pkg), published)


def run_directory(target: Path) -> RunDirectory:
    """Return the run directory that is meant: itself, or the one that settings name.

    A folder that holds a settings file and no campaign stands for its settings.

    Raises:
        SettingsError: there is no such directory or file, or the settings are wrong.
    """
    from pal.ledger.directory import RunDirectory

    if not target.exists() and target != SETTINGS:
        raise SettingsError(
            f"{target} does not exist; name a campaign's run directory, or its settings file"
        )
    if target.is_dir():
        directory = RunDirectory(target)
        if directory.ledger.exists() or not (target / SETTINGS).is_file():
            return directory
        target = target / SETTINGS
    return RunDirectory(read(target).settings.directory)
