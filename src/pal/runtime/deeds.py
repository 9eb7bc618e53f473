"""Deeds: what operators may do to a running campaign, each checked before it is done."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from pal.building import KernelSpec
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.manager import Manager
from pal.controller.rules import Rules
from pal.errors import PalError, SettingsError
from pal.ledger.changes import Change
from pal.ledger.directory import RunDirectory
from pal.ledger.entries import BY_HAND
from pal.monitor.text import shown
from pal.records import Sample
from pal.runtime import messages as msg
from pal.runtime.books import Books
from pal.runtime.carrier import Carrier
from pal.runtime.cluster import Cluster, Station
from pal.runtime.given import fitting
from pal.runtime.live import OPTIONS, Live, changed
from pal.runtime.placement import Placement
from pal.runtime.requests import Answer, Request
from pal.runtime.rules import rules_of
from pal.runtime.scaling import SCALES, Scaling
from pal.settings import Settings

KERNELS: Final[tuple[ev.Pausable, ...]] = ("generator", "oracle", "training")
"""What may be paused."""

_SLOW: Final = 8.0
"""Seconds after which an exchange that does not answer counts as unable to."""

_BACK: Final = (State.FAILED, State.QUARANTINED, State.DROPPED)


_STANDS: Final = {
    State.QUEUED: "waits for its label already",
    State.RUNNING: "is being labelled",
    State.RETURNED: "has its label, on its way to the disk",
    State.LABELLED: "has its label",
    State.FAILED: "has failed",
    State.QUARANTINED: "is under quarantine",
    State.DROPPED: "was dropped",
}


class RefusedError(PalError):
    """What the operator asks cannot be done; the message says why."""


class Commanded(Protocol):
    """What deeds need of a session."""

    live: Live
    placement: Placement
    kernels: dict[str, KernelSpec]
    directory: RunDirectory
    home: Path | None
    initial: int
    """How many initial samples the campaign has."""

    @property
    def clock(self) -> float:
        """Campaign time in seconds."""
        ...

    @property
    def manager(self) -> Manager:
        """The manager that leads."""
        ...

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the manager."""
        ...

    def say(self, text: str, level: str = "info") -> None:
        """Show a line."""
        ...


@dataclass(slots=True)
class _Trial:
    """New settings whose selector an exchange is asked to try, and until when."""

    request: Request
    fresh: Settings
    pairs: dict[str, tuple[Any, Any]]
    station: Station
    until: float


class Deeds:
    """Carries out requests. Each becomes a change in the ledger before it is answered."""

    def __init__(
        self,
        session: Commanded,
        books: Books,
        carrier: Carrier,
        cluster: Cluster,
        lose: Callable[[Station], None],
    ) -> None:
        """`lose`: wait no more for a worker that predicts."""
        self._session = session
        self._books = books
        self._carrier = carrier
        self._cluster = cluster
        self._scaling = Scaling(cluster, session, lose)
        self._trial: _Trial | None = None
        self._trials = 0
        self._answers: list[tuple[Request, Answer]] = []
        self._deeds: dict[str, Callable[[Request, Sample | None], str | None]] = {
            "drop": lambda request, _: self._each(request, "dropped", self._drop),
            "requeue": lambda request, _: self._each(request, "queued again", self._requeue),
            "label": self._label,
            "pause": lambda request, _: self._pause(request, True),
            "resume": lambda request, _: self._pause(request, False),
            "set": lambda request, _: self._set(request, dict(request.arguments["changes"])),
            "scale": lambda request, _: self._scale(request),
            "move": lambda request, _: self._move(request),
        }

    def take_up(self) -> None:
        """Let hold what was changed by hand in earlier sessions."""
        session, live = self._session, self._session.live
        for text, level in live.remarks:
            session.say(text, level)
        overruling = live.overruling(session.clock)
        if overruling is not None:
            self._books.record(overruling.note())
            live.standing.add(overruling)
        for kernel in KERNELS:
            if kernel not in live.standing.paused:
                continue
            by = live.standing.by[kernel].by
            session.feed(ev.KernelPaused(session.clock, kernel, True, by))

    def do(self, request: Request, arrays: Sample | None) -> Answer | None:
        """Carry a request out; None: the answer comes later, with `late`, or from a next session.

        Raises:
            LedgerError: the disk refuses to keep the change; it is to be asked for again.
        """
        if self._session.manager.finished:
            return None
        self._books.catch_up()  # so that what is read of samples is all there is
        answer = self._done(request, arrays)
        self._books.catch_up()
        return answer

    def _done(self, request: Request, arrays: Sample | None) -> Answer | None:
        try:
            deed = self._deeds.get(request.deed)
            if deed is None:
                raise RefusedError(f"this PAL does not know the deed {request.deed!r}")
            text = deed(request, arrays)
        except (RefusedError, SettingsError) as error:
            return Answer(False, str(error), error.exit_code)
        except (KeyError, TypeError, ValueError) as error:
            return Answer(False, f"the request makes no sense: {error!r}", 2)
        return None if text is None else Answer(True, text)

    def late(self) -> list[tuple[Request, Answer]]:
        """Return the answers that have come since the last call."""
        trial = self._trial
        if trial is not None and (time.monotonic() > trial.until or not trial.station.ready):
            self._judge(trial, "the exchange did not answer; try again")
        answers, self._answers = self._answers, []
        return answers

    def note(self, request: Request, text: str, **more: Any) -> None:
        """Write down what was done, and by whom."""
        change = Change(self._session.clock, request.by, request.at, request.deed, text, **more)
        self._books.record(change.note())
        self._session.live.standing.add(change)

    def _note(self, request: Request, text: str, **more: Any) -> str:
        """Write down what was done, and show it."""
        self.note(request, text, **more)
        self._session.say(f"{request.by}: {text}")
        return text

    # Samples ---------------------------------------------------------------------------------

    def _each(self, request: Request, done: str, deed: Callable[[int, str], None]) -> str:
        """Do something with each sample; what was refused is told with the rest."""
        well: list[int] = []
        refused: list[str] = []
        for number in request.arguments["samples"]:
            try:
                deed(int(number), request.by)
            except RefusedError as error:
                refused.append(str(error))
            else:
                well.append(int(number))
        text = f"{done}: {spans(well)}" if well else ""
        if well:
            self._note(request, text)
        if refused:
            raise RefusedError("\n".join([*refused, *([f"({text})"] if text else [])]))
        return text

    def _stands(self, number: int) -> tuple[ev.Candidate, State, State | None]:
        """Return a sample's candidate, its state, and the same if this session does not know."""
        row = self._books.row(number)
        if row is None:
            raise RefusedError(f"sample {number}: there is none with this number")
        state = self._session.manager.state_of(number)
        return row.candidate, state or row.state, None if state else row.state

    def _drop(self, number: int, by: str) -> None:
        _, state, _ = self._stands(number)
        if state not in (State.QUEUED, State.RUNNING):
            raise RefusedError(f"sample {number} {_STANDS[state]}; it waits for no label")
        self._session.feed(ev.SampleDropped(self._session.clock, number, by))

    def _requeue(self, number: int, by: str) -> None:
        candidate, state, ended = self._stands(number)
        if state not in (*_BACK, State.RUNNING):
            raise RefusedError(f"sample {number} {_STANDS[state]}")
        if not self._session.manager.rules.labelling:
            raise RefusedError(f"sample {number}: nobody labels, oracle.enabled = false")
        self._session.feed(ev.SampleRequeued(self._session.clock, candidate, by, ended))

    def _label(self, request: Request, arrays: Sample | None) -> str:
        number = int(request.arguments["sample"])
        candidate, state, ended = self._stands(number)
        if state in (State.LABELLED, State.RETURNED):
            raise RefusedError(f"sample {number} {_STANDS[state]}, and labels do not change")
        if arrays is None:
            raise RefusedError(f"sample {number}: the label did not come with the request")
        example = self._books.newest_label()
        try:
            label = fitting(arrays, self._books.stored(number), example)
        except PalError as error:
            raise RefusedError(f"sample {number}: {error}") from error
        given = msg.LabelDone(BY_HAND, number, label, 0.0, f"by hand, {request.by}")
        self._carrier.answered(BY_HAND, given)
        self._session.feed(ev.LabelGiven(self._session.clock, candidate, request.by, ended))
        self._carrier.unwanted(number)
        return self._note(request, f"sample {number} labelled by hand")

    # Kernels ---------------------------------------------------------------------------------

    def _pause(self, request: Request, on: bool) -> str:
        kernel = request.arguments["kernel"]
        kernels = [each for each in KERNELS if kernel in (each, "all")]
        manager = self._session.manager
        if not kernels:
            raise RefusedError(f"{kernel} cannot be paused; {', '.join(KERNELS)} or all can")
        breaks = "oracle" in kernels and manager.labelling.breaker.open
        turned = [
            each
            for each in kernels
            if (each in manager.paused) is not on or (each == "oracle" and breaks and not on)
        ]
        if not turned:
            raise RefusedError(f"{_listed(kernels)}: {'paused already' if on else 'not paused'}")
        for each in turned:
            self._session.feed(ev.KernelPaused(self._session.clock, each, on, request.by))
        text = f"{_listed(turned)} {'paused' if on else 'resumed'}"
        return self._note(request, text, paused=dict.fromkeys(turned, on))

    # Settings --------------------------------------------------------------------------------

    def _set(self, request: Request, changes: Mapping[str, Any]) -> str | None:
        live = self._session.live
        fresh = changed(live.settings, changes)
        pairs = live.pairs(fresh, changes)
        if any(key.startswith(OPTIONS) for key in changes):
            self._try(request, fresh, pairs)
            return None
        return self._settle(request, fresh, pairs)

    def _settle(self, request: Request, fresh: Settings, pairs: dict[str, tuple[Any, Any]]) -> str:
        """Go by other settings from now on."""
        live = self._session.live
        before = live.settings
        scaled = self._scaling.to(fresh, pairs)  # the one that may be refused: first
        live.settings = fresh
        if fresh.save_interval != before.save_interval:
            self._cluster.save_every(fresh.save_interval)
        self._session.feed(ev.RulesChanged(self._session.clock, self._rules(fresh)))
        text = ", ".join(f"{key} = {shown(new)}" for key, (_, new) in pairs.items())
        return self._note(request, "; ".join([text, *scaled]), settings=pairs)

    def _rules(self, fresh: Settings) -> Rules:
        session = self._session
        rules = rules_of(fresh, session.placement, session.initial)
        return replace(rules, n_oracles=fresh.oracle.places if fresh.oracle.enabled else 0)

    def _try(self, request: Request, fresh: Settings, pairs: dict[str, tuple[Any, Any]]) -> None:
        """Have one exchange build the selector anew; the others follow if it can."""
        kernel = fresh.selector.kernel
        if not isinstance(kernel, str) and not (
            inspect.isclass(kernel) or inspect.isroutine(kernel)
        ):
            raise RefusedError("the selector was given as an object, and has no options to change")
        if self._trial is not None:
            raise RefusedError("another change of the selector is under way; try again")
        self._trials += 1
        station = self._carrier.try_selector(fresh.selector.options, self._trials)
        if station is None:
            raise RefusedError("no exchange is up yet; try again")
        self._trial = _Trial(request, fresh, pairs, station, time.monotonic() + _SLOW)

    def selector_set(self, station: Station, answer: msg.SelectorSet) -> None:
        """Hear how an exchange took its new selector."""
        trial = self._trial
        if trial is not None and answer.number == self._trials:
            self._judge(trial, answer.problem)
        elif answer.problem:
            name = station.job.name
            self._session.say(f"{name} keeps its selector: {answer.problem}", "warning")

    def _judge(self, trial: _Trial, problem: str) -> None:
        self._trial = None
        keys = ", ".join(f"{key} = {shown(new)}" for key, (_, new) in trial.pairs.items())
        try:
            if problem:
                raise RefusedError(f"{keys}: the selector refuses: {problem}")
            text = self._settle(trial.request, trial.fresh, trial.pairs)
            self._carrier.set_selector(trial.fresh.selector.options)
            self._books.catch_up()
            answer = Answer(True, text)
        except (RefusedError, SettingsError) as error:
            answer = Answer(False, str(error), error.exit_code)
        self._answers.append((trial.request, answer))

    def _scale(self, request: Request) -> str | None:
        kernel, count = request.arguments["kernel"], int(request.arguments["count"])
        return self._set(request, {self._scales(kernel): count})

    def _move(self, request: Request) -> str | None:
        """Let workers of one kernel go, and as many of another come."""
        arguments = request.arguments
        count, source, target = int(arguments["count"]), arguments["source"], arguments["target"]
        if source == target or count < 1:
            raise RefusedError("nothing is moved: name two kernels and a number of at least 1")
        have = {each: self._scaling.count(each) for each in (source, target) if self._scales(each)}
        idle = self._scaling.idle(source)
        if idle < count:
            raise RefusedError(
                f"{idle} of {have[source]} workers of {source} are idle, {count} were to move; "
                f"`pal scale {source} {max(0, have[source] - count)}` lets busy ones go, too, "
                "when they have finished"
            )
        return self._set(
            request,
            {
                self._scales(source): have[source] - count,
                self._scales(target): have[target] + count,
            },
        )

    def _scales(self, kernel: str) -> str:
        if kernel not in SCALES:
            raise RefusedError(Scaling.refusal(kernel))
        return SCALES[kernel]


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def spans(numbers: Iterable[int]) -> str:
    """Write numbers with runs drawn together: 3, 17-20."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
