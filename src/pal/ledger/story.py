"""The whole story of a sample: who asked for it, what was tried, and what came of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from pal.controller.commands import State
from pal.errors import Failure, LedgerError
from pal.ledger.entries import LabelRow, SampleRow, Session, StoryLine
from pal.ledger.ledger import SAMPLE_COLUMNS, Ledger, sample_row
from pal.records import Label, Sample

_TRY: Final = re.compile(r"oracle (\d+)(?: on (.*))?, attempt (\d+)", re.DOTALL)


def attempt(oracle: int, host: str, number: int) -> str:
    """Describe the begin of a try, as the history keeps it and `tell` reads it."""
    return f"oracle {oracle}{f' on {host}' if host else ''}, attempt {number}"


@dataclass(frozen=True, slots=True)
class Try:
    """One label begun. Without `ended` it is under way; `outcome` is what came of it.

    `state` is where the sample went then.
    """

    number: int
    oracle: int
    host: str
    started: float
    ended: float | None = None
    state: State | None = None
    outcome: str = ""
    failure: Failure | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return None if self.ended is None else max(0.0, self.ended - self.started)


@dataclass(frozen=True, slots=True)
class Story:
    """All that the ledger knows of a sample.

    `session` is the one in which it was proposed. `moves` are its whole history. `failures` are
    those of no try, such as one of a session that was killed since.
    """

    row: SampleRow
    session: Session | None
    moves: tuple[StoryLine, ...]
    tries: tuple[Try, ...]
    failures: tuple[tuple[float, Failure], ...]
    made: LabelRow | None
    sample: Sample
    label: Label | None


def tell(ledger: Ledger, number: int) -> Story:
    """Return the story of a sample.

    Raises:
        LedgerError: there is no such sample.
    """
    rows = ledger.select(f"SELECT {SAMPLE_COLUMNS} FROM samples WHERE id = ?", number)
    if not rows:
        raise LedgerError(f"{ledger.file} has no sample {number}; {_range(ledger)}")
    row = sample_row(rows[0])
    moves = tuple(
        StoryLine(*line)
        for line in ledger.select(
            "SELECT time, state, detail FROM history WHERE sample = ? ORDER BY seq", number
        )
    )
    labels = ledger.select(
        "SELECT seq, sample, oracle, host, seconds, time FROM labels WHERE sample = ?", number
    )
    made = LabelRow(*labels[0]) if labels else None
    tries, rest = _with_failures(_tries(moves, made), ledger, number)
    before = [session for session in ledger.sessions() if session.start <= row.created]
    return Story(
        row,
        before[-1] if before else None,
        moves,
        tries,
        rest,
        made,
        ledger.sample(number),
        ledger.label(number) if made else None,
    )


def _range(ledger: Ledger) -> str:
    unused = ledger.totals()[0]
    return f"its samples are 0 to {unused - 1}" if unused else "it has no samples yet"


def _tries(moves: tuple[StoryLine, ...], made: LabelRow | None) -> list[Try]:
    """Every try goes from a move to `running` to the next move, or to the label."""
    tries: list[Try] = []
    for move in moves:
        begun = _TRY.fullmatch(move.detail) if move.what == State.RUNNING else None
        if begun is not None:
            tries.append(Try(int(begun[3]), int(begun[1]), begun[2] or "", move.time))
        elif tries and tries[-1].ended is None:
            state = State(move.what)
            tries[-1] = replace(tries[-1], ended=move.time, state=state, outcome=move.detail)
    if made is not None and tries and tries[-1].oracle == made.oracle:
        tries[-1] = replace(
            tries[-1],
            host=made.host,
            ended=tries[-1].started + made.seconds,
            state=State.LABELLED,
            outcome="",
        )
    return tries


def _with_failures(
    tries: list[Try], ledger: Ledger, number: int
) -> tuple[tuple[Try, ...], tuple[tuple[float, Failure], ...]]:
    """Give each try its failure: the first that was written of its oracle after it began."""
    rest: list[tuple[float, Failure]] = []
    for entry in ledger.failures(number):
        mine = [
            place
            for place, one in enumerate(tries)
            if one.oracle == entry.failure.index
            and one.started <= entry.time
            and one.failure is None
            and one.state is not State.LABELLED
        ]
        if mine and entry.failure.role == "oracle":
            tries[mine[-1]] = replace(tries[mine[-1]], failure=entry.failure)
        else:
            rest.append((entry.time, entry.failure))
    return tuple(tries), tuple(rest)
