"""Settings that are not those of the session before: told, and refused where labels would mix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pal.errors import LedgerForeignError
from pal.ledger.entries import Session
from pal.runtime.differences import differences
from pal.settings import Settings, dump, parse

BASE: dict[str, Any] = {
    "generator": {"kernel": "a:B"},
    "model": {"kernel": "a:C"},
    "oracle": {"kernel": "a:D", "options": {"method": "GFN2", "charge": 0}},
}


def settings(**sections: dict[str, Any]) -> Settings:
    data = {name: {**section, **sections.get(name, {})} for name, section in BASE.items()}
    return parse({**sections, **data})


def session(was: Settings | str) -> Session:
    text = was if isinstance(was, str) else json.dumps(dump(was))
    return Session(1, 0.0, 1.0, 0.0, "here", 1, "0", text, "")


def told(before: Settings | str, now: Settings, labels: int = 5, accepted: bool = False) -> Any:
    return [str(change) for change in differences(now, [session(before)], labels, accepted)]


def test_nothing_changed_nothing_told() -> None:
    assert told(settings(), settings()) == []
    assert differences(settings(), [], 0, False) == []


def test_each_change_is_told_with_both_values() -> None:
    now = settings(
        oracle={"workers": 4, "deadline": "1 min"}, stop={"labels": 50, "failures": None}
    )
    assert told(settings(), now) == [
        "oracle.workers 1 -> 4",
        "oracle.deadline not set -> 60.0",
        "stop.failures 20 -> not set",
        "stop.labels not set -> 50",
    ]


@pytest.mark.parametrize(
    ("oracle", "text"),
    [
        ({"kernel": "a:E"}, 'oracle.kernel "a:D" -> "a:E"'),
        ({"options": {"method": "GFN1", "charge": 0}}, 'oracle.options.method "GFN2" -> "GFN1"'),
        ({"options": {"method": "GFN2"}}, "oracle.options.charge 0 -> not set"),
        ({"options": {}}, 'oracle.options.method "GFN2" -> not set'),
    ],
)
def test_another_oracle_is_refused_while_there_are_labels(oracle: Any, text: str) -> None:
    now = settings(oracle=oracle)
    with pytest.raises(LedgerForeignError) as refused:
        told(settings(), now)
    assert text in str(refused.value)
    for way_out in ("set it back", "another directory", "--fresh", "--accept-changes"):
        assert way_out in str(refused.value)
    assert text in told(settings(), now, accepted=True)
    assert text in told(settings(), now, labels=0)


def test_settings_that_are_new_in_this_version_are_no_change() -> None:
    old = dump(settings())
    del old["stop"]["disk"], old["queue"]
    assert told(json.dumps(old), settings()) == []


def test_settings_of_a_version_that_knew_more_are_compared_as_they_are() -> None:
    old = dump(settings()) | {"colour": "red"}
    assert told(json.dumps(old), settings()) == ['colour "red" -> not set']


def test_a_long_value_is_cut() -> None:
    now = settings(generator={"options": {"text": "x" * 500}})
    (line,) = told(settings(), now)
    assert len(line) < 150
