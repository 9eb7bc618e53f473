"""Samples found by what is known of them, and the newest that happened to each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pal.controller.commands import State
from pal.ledger.entries import SampleRow
from pal.ledger.ledger import SAMPLE_COLUMNS, Ledger, sample_row


class Order(StrEnum):
    """By what samples are sorted."""

    NUMBER = "number"
    NEWEST = "newest"
    UNCERTAINTY = "uncertainty"
    TRIES = "tries"


_ORDERS: Final = {
    Order.NUMBER: "id",
    Order.NEWEST: "id DESC",
    Order.UNCERTAINTY: "uncertainty DESC, id",
    Order.TRIES: "attempts DESC, id",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples are looked for; what is empty or None does not matter.

    `least` is the lowest uncertainty. `since` and `before` bound the time of the proposal, on the
    campaign's clock. `failed_with`: a failure of this kind is written of it.
    """

    states: tuple[State, ...] = ()
    walker: int | None = None
    version: int | None = None
    least: float | None = None
    since: float | None = None
    before: float | None = None
    failed_with: str | None = None

    def clause(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL, and its values."""
        tests = {
            "walker = ?": self.walker,
            "version = ?": self.version,
            "uncertainty >= ?": self.least,
            "created >= ?": self.since,
            "created <= ?": self.before,
            "id IN (SELECT sample FROM failures WHERE kind = ?)": self.failed_with,
        }
        if self.states:
            tests["state IN (SELECT value FROM json_each(?))"] = json.dumps(self.states)
        asked = {test: value for test, value in tests.items() if value is not None}
        return " AND ".join(asked) or "1", list(asked.values())


@dataclass(frozen=True, slots=True)
class Found:
    """A sample, and what happened to it last: the `time` of its state, and the `news`."""

    row: SampleRow
    time: float
    news: str


def count(ledger: Ledger, wanted: Wanted) -> int:
    """Return how many samples are such."""
    where, values = wanted.clause()
    return int(ledger.select(f"SELECT count(*) FROM samples WHERE {where}", *values)[0][0])


def numbers(
    ledger: Ledger, wanted: Wanted, order: Order = Order.NUMBER, limit: int | None = None
) -> list[int]:
    """Return the numbers of these samples, at most `limit`."""
    return [row.candidate.sample for row in _rows(ledger, wanted, order, limit)]


def find(
    ledger: Ledger, wanted: Wanted, order: Order = Order.NUMBER, limit: int | None = None
) -> list[Found]:
    """Return these samples, at most `limit`, each with what happened to it last."""
    rows = _rows(ledger, wanted, order, limit)
    news = _news(ledger, (row.candidate.sample for row in rows))
    return [Found(row, *news.get(row.candidate.sample, (row.created, ""))) for row in rows]


def kinds_of_failure(ledger: Ledger) -> list[str]:
    """Return the kinds of failure that samples have had."""
    query = "SELECT DISTINCT kind FROM failures WHERE sample IS NOT NULL ORDER BY kind"
    return [kind for (kind,) in ledger.select(query)]


def _rows(ledger: Ledger, wanted: Wanted, order: Order, limit: int | None) -> list[SampleRow]:
    where, values = wanted.clause()
    query = f"SELECT {SAMPLE_COLUMNS} FROM samples WHERE {where} ORDER BY {_ORDERS[order]} LIMIT ?"
    return [
        sample_row(row) for row in ledger.select(query, *values, -1 if limit is None else limit)
    ]


def _news(ledger: Ledger, samples: Iterable[int]) -> dict[int, tuple[float, str]]:
    """Return the last move of each sample that has moved, and of a label who made it."""
    chosen = json.dumps(list(samples))
    moves = ledger.select(
        "SELECT sample, time, detail FROM history WHERE seq IN (SELECT max(seq) FROM history"
        " WHERE sample IN (SELECT value FROM json_each(?)) GROUP BY sample)",
        chosen,
    )
    labels = ledger.select(
        "SELECT sample, time, oracle, host, seconds FROM labels"
        " WHERE sample IN (SELECT value FROM json_each(?))",
        chosen,
    )
    news = {sample: (float(time), str(detail)) for sample, time, detail in moves}
    news |= {s: (t, maker(oracle, host, seconds)) for s, t, oracle, host, seconds in labels}
    return news


def maker(oracle: int, host: str, seconds: float) -> str:
    """Say who made a label; by hand it has no oracle, and `host` says whose hand."""
    return host if oracle < 0 else f"oracle {oracle} on {host} in {seconds:.3g} s"
