"""The same campaign in several ways, each with several seeds, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pal.errors import SettingsError
from pal.ledger.directory import write_atomically
from pal.ledger.ledger import Ledger
from pal.monitor.comparison import CampaignData
from pal.monitor.comparison_report import compared, write_comparison
from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.summary import Summary
from pal.monitor.terminal import View
from pal.runtime.campaign import Campaign
from pal.settings import Settings, dump


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run the campaign: a name, its settings, the folder of its kernels."""

    name: str
    settings: Settings
    home: Path


class Comparison:
    """Runs campaigns one after the other, and writes what became of them into `folder`.

    Each contender runs with `seeds` seeds, beginning with that of its settings, in
    `folder`/NAME-SEED. What has ended with the same settings is not run again, and what has begun
    goes on, so that an interrupted comparison goes on where it stood.
    """

    def __init__(self, contenders: Sequence[Contender], seeds: int, folder: Path) -> None:
        names = [contender.name for contender in contenders]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SettingsError(
                f"two campaigns to compare are named {sorted(twice)[0]!r}; "
                "name them apart, as in active=pal.toml"
            )
        self._folder = folder.resolve()
        self._campaigns = [
            self._seeded(contender, number) for number in range(seeds) for contender in contenders
        ]

    def run(self, view: Callable[[Settings], View]) -> Iterator[tuple[str, Summary | None]]:
        """Run what has not ended yet; yield each campaign's name, its summary once it ended.

        Raises:
            PalError: a campaign could not start, or had to end by a failure.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for one in self._campaigns:
            if not self._ended(one.settings):
                yield one.settings.name, None
                if not self._run(one, view(one.settings)):
                    return
            yield one.settings.name, summary(one.settings.directory)

    def write(self, title: str, data: Sequence[CampaignData]) -> Path:
        """Write report.html, comparison.json and figures/ of such `results`."""
        path = write_comparison(
            self._folder / "report.html",
            data,
            title=title,
            quantity=next((c.summary.quantity for c in data if c.summary), ""),
        )
        _write(self._folder / "comparison.json", compared(data))
        return path

    def results(self) -> Iterator[CampaignData]:
        """Yield the campaigns that ended, in the order of the contenders."""
        for one in sorted(self._campaigns, key=self._order):
            directory = one.settings.directory
            if self._ended(one.settings):
                with Ledger.open_readonly(directory) as ledger:
                    snapshots = [Snapshot(**metric.values) for metric in ledger.metrics()]
                yield CampaignData(
                    one.name,
                    evaluations(directory),
                    one.settings.seed,
                    summary(directory),
                    snapshots,
                    one.settings.mode == "serial",
                )

    def _order(self, one: Contender) -> int:
        return [other.name for other in self._campaigns].index(one.name)

    def _seeded(self, contender: Contender, number: int) -> Contender:
        settings, seed = contender.settings, contender.settings.seed + number
        changes = {
            "seed": seed,
            "directory": self._folder / f"{contender.name}-{seed}",
            "name": f"{settings.name}, {contender.name}, seed {seed}",
        }
        changed = settings.model_copy(update=changes)
        return Contender(contender.name, changed, contender.home)

    def _run(self, one: Contender, view: View) -> bool:
        """Run one campaign, or go on with it; return whether it came to its end."""
        settings = _plain(one.settings)
        mark = _mark(one.settings)
        campaign = Campaign.from_settings(
            one.settings, home=one.home, fresh=_marked(mark).get("settings") != settings
        )
        _write(mark, {"settings": settings, "ended": False})
        campaign.run(view)
        _write(mark, {"settings": settings, "ended": not campaign.interrupted})
        return not campaign.interrupted

    def _ended(self, settings: Settings) -> bool:
        marked = _marked(_mark(settings))
        return bool(marked.get("ended")) and marked["settings"] == _plain(settings)


def _mark(settings: Settings) -> Path:
    """The file beside a run directory with its settings, and whether it came to its end."""
    return settings.directory.with_name(f"{settings.directory.name}.json")


def _marked(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _write(path: Path, data: Any) -> None:
    write_atomically(path, json.dumps(data, indent=1).encode())


def _plain(settings: Settings) -> Any:
    return json.loads(json.dumps(dump(settings)))


def _read(directory: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((directory / "summary.json").read_text())
    return found


def evaluations(directory: Path) -> list[Evaluation]:
    """Read a campaign's learning curve."""
    return [
        Evaluation(**{**e, "uncertainty": tuple(e["uncertainty"]), "errors": tuple(e["errors"])})
        for e in _read(directory)["evaluations"]
    ]


def summary(directory: Path) -> Summary:
    """Read a campaign's summary."""
    data = {name: value for name, value in _read(directory).items() if name != "evaluations"}
    return Summary(**{**data, "messages": tuple(data["messages"])})
