"""A campaign as Python users see it: settings and kernels in, events and a summary out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from pal.errors import KernelError, PalError
from pal.ledger.directory import RunDirectory
from pal.monitor.metrics import Snapshot
from pal.monitor.summary import Summary, render
from pal.monitor.terminal import TerminalView, View
from pal.runtime.aftermath import conclude
from pal.runtime.cluster import Cluster
from pal.runtime.deputy import serve
from pal.runtime.happenings import Happening, Note
from pal.runtime.machines import HEAD
from pal.runtime.muster import connect, hello, leading, welcomed
from pal.runtime.session import Session
from pal.settings import Settings, load, parse


class Campaign:
    """One active-learning campaign.

    Kernels are classes, objects or names; everything else is a setting, given as nested mappings:

        pal.Campaign(
            generator=Explorer, model=Network, oracle=simulate,
            directory="run", stop={"labels": 200},
        ).run()

    A role's own settings go beside its kernel: `generator={"kernel": Explorer, "walkers": 8}`.
    Running again in the same directory goes on where the campaign stood. With labels of another
    oracle it goes on only with `accept_changes`.
    """

    def __init__(
        self,
        *,
        generator: Any,
        model: Any,
        oracle: Any,
        selector: Any = "deviation",
        fresh: bool = False,
        accept_changes: bool = False,
        **settings: Any,
    ) -> None:
        data: dict[str, Any] = {**settings, "oracle": _section(oracle)}
        data |= {"generator": _section(generator), "model": _section(model)}
        data["selector"] = _section(selector)
        self._init(parse(data), fresh, _import_paths(), None)
        self._accept_changes = accept_changes

    def _init(
        self, settings: Settings, fresh: bool, paths: tuple[str, ...], home: Path | None
    ) -> None:
        self.settings = settings
        self.directory = settings.directory
        self.summary: Summary | None = None
        self.continues = False
        """Whether only the time of a batch job was up, and another job is to go on."""
        self.interrupted = False
        """Whether it ended early, by Ctrl-C or SIGTERM."""
        self._fresh = fresh
        self._paths = paths
        self._home = home
        self._session: Session | None = None
        self._exit_code: int | None = None
        self._nodes: int | None = None
        self._accept_changes = False

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        fresh: bool = False,
        home: Path | None = None,
        nodes: int | None = None,
        accept_changes: bool = False,
    ) -> Self:
        """Make a campaign from settings that were read before.

        `home`: where kernels are imported from, besides what is installed, and the working
        directory of the workers; the settings file's folder, usually. `nodes`: how many agents
        there must be; without it, as many as the launcher started. `accept_changes`: go on, even
        if earlier labels are of another oracle.
        """
        campaign = cls.__new__(cls)
        campaign._init(settings, fresh, () if home is None else (str(home),), home)
        campaign._nodes, campaign._accept_changes = nodes, accept_changes
        return campaign

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        *,
        fresh: bool = False,
        overrides: Mapping[str, Any] | None = None,
        nodes: int | None = None,
        accept_changes: bool = False,
    ) -> Self:
        """Make a campaign from a settings file; kernels are looked for beside it, too.

        Raises:
            SettingsError: naming the file, the key and the fix.
        """
        home = Path(path).resolve().parent
        return cls.from_settings(
            load(path, overrides),
            fresh=fresh,
            home=home,
            nodes=nodes,
            accept_changes=accept_changes,
        )

    def __iter__(self) -> Iterator[Happening]:
        """Run, and yield a `Snapshot` a second, failures and notes as they happen.

        Raises:
            PalError: the campaign could not start, or had to end by a failure.
        """
        fabric = connect(self._nodes)
        own = hello(fabric.rank, self.settings)
        if fabric.rank != HEAD:
            self._exit_code = serve(fabric, own)
            return
        with leading(fabric, self.settings, own) as cluster, RunDirectory(self.directory) as home:
            if self._fresh:
                home.clear()
            with welcomed(fabric, self.settings, home.path):
                yield from self._run(home, cluster)

    def _run(self, directory: RunDirectory, cluster: Cluster) -> Iterator[Happening]:
        self._session = session = Session(
            self.settings, directory, self._paths, self._home, cluster, self._accept_changes
        )
        yield from session.run()
        outcome = session.outcome
        assert outcome is not None
        if outcome.error is not None:
            raise outcome.error
        self.continues = outcome.continued
        self.interrupted = session.interrupted
        self.summary = conclude(session)
        drop_empty(directory.path / "work")
        if outcome.failed:
            raise KernelError(outcome.reason)

    def run(self, view: View | None = None) -> Summary:
        """Run to the end, showing progress, and return the summary.

        Raises:
            PalError: the campaign could not start, or had to end by a failure.
        """
        console = Console(stderr=True)
        shown = view or TerminalView(console, self.settings.name, self.directory)
        screen = Screen(shown)
        try:
            for happening in self:
                screen.show(happening)
        finally:
            shown.close()
        if self._exit_code is not None:
            raise SystemExit(self._exit_code)  # the program goes on where the campaign was led
        if self.summary is None:
            raise PalError("the campaign ended without a summary")
        if view is None:
            render(self.summary, console)
        return self.summary

    def stop(self, reason: str = "stopped by the program") -> None:
        """Ask for an orderly end, from within a loop over the campaign's events."""
        if self._session is not None:
            self._session.request_stop(reason)


class Screen:
    """Shows what happens in a view; a traceback that was shown already is not shown again."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._seen: set[str] = set()

    def show(self, happening: Happening) -> None:
        """Show a snapshot, a failure or a note."""
        if isinstance(happening, Snapshot):
            self._view.update(happening)
        elif isinstance(happening, Note):
            self._view.message(
                happening.text, "warning" if happening.level == "warning" else "info"
            )
        elif happening.traceback in self._seen or happening.kind in _NO_ALARM:
            self._view.message(str(replace(happening, traceback="")), "warning")
        else:
            self._seen.add(happening.traceback)
            self._view.message(str(happening), "error")


_NO_ALARM = ("LabelFailure", "Unphysical")
"""Kinds of failure that belong to exploring."""


def _section(kernel: Any) -> Any:
    return kernel if isinstance(kernel, Mapping) else {"kernel": kernel}


def _import_paths() -> tuple[str, ...]:
    """Where this program's modules come from, so that workers find them too."""
    return tuple(path or str(Path.cwd()) for path in sys.path)


def drop_empty(work: Path) -> None:
    """Remove the folders in which no kernel left anything; what one did leave is for the user."""
    for folder in (*work.glob("*"), work):
        with contextlib.suppress(OSError):
            folder.rmdir()
