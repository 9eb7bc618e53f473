"""What of the settings may change while a campaign runs, and what was changed by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pal.catalogue import check_options
from pal.errors import SettingsError, nearest
from pal.ledger.changes import Change, Standing, standing
from pal.ledger.directory import LEDGER
from pal.ledger.ledger import Ledger
from pal.monitor.text import shown
from pal.settings import Settings, altered, dump

OPTIONS: Final = "selector.options"

LIVE: Final = (
    "generator.walkers",
    "model.reinitialise_every",
    "oracle.backoff",
    "oracle.deadline",
    "oracle.grace",
    "oracle.pause_after",
    "oracle.probe_after",
    "oracle.retries",
    "oracle.workers",
    "queue.capacity",
    "queue.when_full",
    "save_interval",
    "selector.rerank",
    "stop.after",
    "stop.epochs",
    "stop.failures",
    "stop.final_training",
    "stop.labels",
    "stop.quiet",
    "stop.samples",
    "training.retrain_size",
    "training.window",
)
"""Settings that may change while a campaign runs; besides, all `selector.options`."""

FILE: Final = "the settings file"
"""Who changed a setting back, in the history, when the file says something new."""


def check_key(key: str) -> None:
    """Find out whether a setting may change live.

    Raises:
        SettingsError: it may not, and why.
    """
    if key in LIVE or key.startswith(f"{OPTIONS}."):
        return
    if _exists(key):
        raise SettingsError(
            f"{key} cannot change while the campaign runs: {_reason(key)}; change it in the "
            "settings file, `pal stop` and `pal run`"
        )
    raise SettingsError(f"{key}: unknown setting; {nearest(key, (*LIVE, OPTIONS))}")


def _exists(key: str) -> bool:
    section: Any = Settings
    for part in key.split("."):
        fields = getattr(section, "model_fields", {})
        if part not in fields:
            # What lies inside of options is the kernel's own.
            return not fields and key.count(".") > 1
        section = fields[part].annotation
    return True


def _reason(key: str) -> str:
    section, _, name = key.partition(".")
    if name == "kernel" or name.startswith(("options", "executor")):
        return f"the processes of {section} have been built with it"
    if section in ("placement", "exchange", "mode") or name in ("hosts", "placement", "threads"):
        return "the processes are where they are"
    return "it holds from the start of a session"


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with other values of live ones.

    Raises:
        SettingsError: as for a settings file, or one of them may not change live.
    """
    for key in changes:
        check_key(key)
    fresh = altered(settings, _unplaced(settings, changes), "pal set")
    if any(key.startswith(OPTIONS) for key in changes):
        check_options("selector", fresh.selector.kernel, fresh.selector.options)
    return fresh


def _unplaced(settings: Settings, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Add that other numbers of workers are not placed by the settings' numbers for each node."""
    kernels = {"oracle.workers": "oracle", "generator.walkers": "generator"}
    by_hand = (kernel for key, kernel in kernels.items() if key in changes)
    places = (f"placement.{k}" for k in by_hand if getattr(settings.placement, k) is not None)
    return {**changes, **dict.fromkeys(places)}


def value(settings: Settings, key: str) -> Any:
    """Return the value of a setting as plain data; None where there is none."""
    found: Any = dump(settings)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


class Live:
    """The settings of a campaign as they hold: those of the file, and what was changed by hand.

    What an operator changes holds over restarts, until the settings file says something new
    about it. `remarks` tell what was taken up, `overruled` are changes that no longer hold.
    """

    def __init__(self, filed: Settings, folder: Path) -> None:
        self.filed = filed
        """As the settings file has them."""
        self.settings = filed
        self.standing = _standing(folder)
        self.remarks: list[tuple[str, str]] = []
        self.overruled: dict[str, tuple[Any, Any]] = {}
        for key, (was, new) in list(self.standing.settings.items()):
            self._take_up(key, was, new)
        for kernel in sorted(self.standing.paused):
            change = self.standing.by[kernel]
            text = f"{kernel} is paused, by {change.by}; `pal resume {kernel}` lets it go on"
            self.remarks.append((text, "warning"))

    def _take_up(self, key: str, was: Any, new: Any) -> None:
        change, now = self.standing.by[key], value(self.filed, key)
        if now == was:
            try:
                self.settings = changed(self.settings, {key: new})
            except SettingsError as error:
                reason = str(error)
            else:
                self.remarks.append((f"{key} = {shown(new)}, changed by {change.by}", "info"))
                return
        else:
            reason = f"the settings file has {key} = {shown(now)} now, and had {shown(was)}"
        self.remarks.append(
            (f"{key} = {shown(new)} of {change.by} holds no longer: {reason}", "warning")
        )
        self.overruled[key] = (now, now)

    def overruling(self, clock: float) -> Change | None:
        """Return the change that notes what the settings file has overruled, if anything."""
        if not self.overruled:
            return None
        told = (f"{key} = {shown(new)}" for key, (_, new) in self.overruled.items())
        text = f"{', '.join(told)}, which overrules a change by hand"
        return Change(clock, FILE, time.time(), "set", text, settings=self.overruled)

    def pairs(self, fresh: Settings, keys: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return what a change is written down as: (value in the file, value from now on)."""
        return {key: (value(self.filed, key), value(fresh, key)) for key in keys}


def _standing(folder: Path) -> Standing:
    if not (folder / LEDGER).exists():
        return Standing()
    with Ledger.open_readonly(folder) as ledger:
        return standing(ledger)
