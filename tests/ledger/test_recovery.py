"""A ledger that is cut short or overwritten: found, named, and made whole again."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pal.controller.commands import State
from pal.errors import LedgerDamagedError, LedgerDiskError
from pal.ledger import entries
from pal.ledger.backup import back_up
from pal.ledger.directory import BACKUP, LEDGER, RunDirectory
from pal.ledger.ledger import Ledger
from pal.ledger.recovery import Recovery, recover
from pal.ledger.restore import restore

Make = Callable[..., Any]
LABELS = 300


@pytest.fixture
def write(tmp_path: Path, molecule: Make, label: Make) -> Callable[..., None]:
    """Write samples and labels `first` to `last` into the ledger in `tmp_path`, as one session."""

    def write(first: int, last: int) -> None:
        with Ledger.open(tmp_path) as ledger:
            if not first:
                start = entries.SessionStarted(0.0, 1e9, "here", 1, "0", "{}")
                ledger.commit([start])
            for number in range(first, last):
                queued = molecule(number + 10_000, time=float(number))
                ledger.commit([molecule(number), label(number), queued])

    return write


def damage(file: Path, chance: random.Random, pages: int, rows_only: bool = False) -> None:
    """Overwrite some pages, never the first; `rows_only`: of those that hold rows."""
    data = bytearray(file.read_bytes())
    places = range(4096, len(data), 4096)
    if rows_only:
        places = [at for at in places if data[at] == 0x0D]
    for at in chance.sample(places, pages):
        data[at : at + 4096] = chance.randbytes(4096)
    file.write_bytes(data)


def check_all(directory: Path, found: Recovery, label: Make) -> None:
    """What was recovered is whole, right, and what the account says."""
    with Ledger.open(directory) as ledger:
        ledger.check()
        numbers = ledger.labelled_ids()
        assert len(numbers) == len(set(numbers)) == found.labels
        assert ledger.counts()[State.LABELLED] == found.labels
        for item in ledger.labelled():
            wanted = label(item.identity).label
            np.testing.assert_array_equal(item.label["forces"], wanted["forces"])  # type: ignore[call-overload]
        past = restore(ledger)
        assert not set(numbers) & {candidate.sample for candidate, _ in past.queued}
        for candidate, _ in past.queued:
            ledger.sample(candidate.sample)  # it can be labelled
        assert set(found.again) <= {candidate.sample for candidate, _ in past.queued}
        (note,) = ledger.notes("recovery")
        least = "" if found.certain else "at least "
        assert f"{found.labels} of {least}{found.of} labels saved" in note.text


def test_a_whole_ledger_is_left_alone(tmp_path: Path, write: Make) -> None:
    write(0, 5)
    before = (tmp_path / LEDGER).read_bytes()
    found = recover(tmp_path)
    assert found == Recovery(5, 5)
    assert found.lines() == ["the ledger is whole: 5 labels, each read and checked"]
    assert (tmp_path / LEDGER).read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.97])
def test_a_ledger_cut_short_is_made_whole_with_its_copy(
    tmp_path: Path, write: Make, label: Make, share: float
) -> None:
    """Nothing that the copy has is lost, and it is found at once that the file was cut."""
    write(0, LABELS)
    back_up(tmp_path)
    write(LABELS, LABELS + 20)
    file = tmp_path / LEDGER
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * share))
    for opening in (Ledger.open, Ledger.open_readonly):
        with pytest.raises(LedgerDamagedError) as told, opening(tmp_path) as ledger:
            ledger.check(1.0)
        assert f"`pal recover {tmp_path}`" in str(told.value)
        assert f"has {LABELS} labels" in str(told.value)
    found = recover(tmp_path)
    assert found.labels >= LABELS
    assert found.copied == LABELS
    assert found.of == LABELS + 20 or not found.certain, "it never says that all is there"
    check_all(tmp_path, found, label)


@pytest.mark.parametrize("seed", range(6))
def test_pages_that_are_overwritten_cost_no_label_that_the_copy_has(
    tmp_path: Path, write: Make, label: Make, seed: int
) -> None:
    write(0, LABELS)
    assert back_up(tmp_path).labels == LABELS
    write(LABELS, LABELS + 20)
    damage(tmp_path / LEDGER, random.Random(seed), 8)
    found = recover(tmp_path)
    assert found.of == LABELS + 20
    assert found.labels >= LABELS
    assert found.aside is not None
    assert found.aside.exists()
    check_all(tmp_path, found, label)


@pytest.mark.parametrize("seed", range(6))
def test_without_a_copy_only_what_was_hit_is_lost(
    tmp_path: Path, write: Make, label: Make, seed: int
) -> None:
    """Some 25 labels fit on a page."""
    write(0, LABELS)
    damage(tmp_path / LEDGER, random.Random(seed), 2, rows_only=True)
    found = recover(tmp_path)
    check_all(tmp_path, found, label)
    assert found.copied is None
    told = len(found.lost) + found.labels
    assert told <= found.of <= LABELS
    assert found.labels > 0.8 * LABELS, found.lines()


def test_a_first_page_that_is_overwritten_costs_nothing(
    tmp_path: Path, write: Make, label: Make
) -> None:
    """It says where the tables are, which is the same in all ledgers."""
    write(0, 50)
    with (tmp_path / LEDGER).open("r+b") as file:
        file.write(bytes(4096))
    with pytest.raises(LedgerDamagedError, match="pal recover"):
        Ledger.open(tmp_path)
    found = recover(tmp_path)
    assert (found.labels, found.of) == (50, 50)
    check_all(tmp_path, found, label)


def test_a_label_that_cannot_be_read_is_made_again(
    tmp_path: Path, write: Make, label: Make
) -> None:
    write(0, 20)
    db = sqlite3.connect(tmp_path / LEDGER)
    db.execute("UPDATE labels SET data = x'00' WHERE sample = 7")
    db.commit()
    db.close()
    found = recover(tmp_path)
    assert (found.labels, found.of, found.lost, found.again) == (19, 20, (7,), (7,))
    assert found.lines()[:2] == [
        "19 of 20 labels saved (there was no copy of it)",
        "sample 7: its label could not be read; the sample is queued again",
    ]
    check_all(tmp_path, found, label)


def test_a_lost_ledger_is_not_taken_for_a_new_campaign(
    tmp_path: Path, write: Make, label: Make
) -> None:
    write(0, 20)
    back_up(tmp_path)
    (tmp_path / LEDGER).unlink()
    with RunDirectory(tmp_path), pytest.raises(LedgerDamagedError, match="is missing"):
        Ledger.open(tmp_path)
    found = recover(tmp_path)
    assert found.labels == 20
    check_all(tmp_path, found, label)


def test_a_recovery_that_was_cut_off_is_begun_again(
    tmp_path: Path, write: Make, label: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(0, 30)
    back_up(tmp_path)
    write(30, 40)
    damage(tmp_path / LEDGER, random.Random(1), 3)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recover(tmp_path)
    assert not (tmp_path / LEDGER).exists()
    found = recover(tmp_path)
    assert found.labels >= 30
    check_all(tmp_path, found, label)
    assert len(list(tmp_path.glob("ledger.damaged-*.sqlite"))) == 1


def test_where_nothing_can_be_read_it_says_so(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(random.Random(0).randbytes(40_960))
    with pytest.raises(LedgerDamagedError, match="nothing could be read"):
        recover(tmp_path)


# The copy ------------------------------------------------------------------------------------


def test_the_copy_takes_only_what_is_new(
    tmp_path: Path, write: Make, molecule: Make, label: Make
) -> None:
    write(0, 5)
    back_up(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        moved = entries.StateChange(9.0, 10_003, State.DROPPED, "enough")
        ledger.commit([moved, molecule(10_050), label(10_050), entries.GrantedTotal(1.0, 12)])
        ledger.commit([label(10_001)])
    assert back_up(tmp_path).labels == 7
    (tmp_path / LEDGER).unlink()
    recover(tmp_path)
    with Ledger.open_readonly(tmp_path) as ledger:
        assert ledger.labelled_ids() == [0, 1, 2, 3, 4, 10_050, 10_001]
        assert [row.candidate.sample for row in ledger.states(State.DROPPED)] == [10_003]
        assert ledger.granted() == 12
        assert len(ledger.sessions()) == 1


def test_damage_does_not_spread_into_the_copy(tmp_path: Path, write: Make) -> None:
    write(0, 20)
    back_up(tmp_path)
    write(20, 30)
    db = sqlite3.connect(tmp_path / LEDGER)
    db.execute("UPDATE labels SET data = zeroblob(500) WHERE sample IN (3, 25)")
    db.commit()
    db.close()
    done = back_up(tmp_path)
    assert done.labels == 29
    assert done.damaged == ("labels 26",)
    found = recover(tmp_path)
    assert found.lost == (25,)


def test_a_copy_of_another_campaign_is_not_taken(tmp_path: Path, write: Make) -> None:
    write(0, 5)
    back_up(tmp_path)
    (tmp_path / LEDGER).unlink()
    (tmp_path / BACKUP).rename(tmp_path / "old")
    with Ledger.open(tmp_path) as ledger:
        ledger.commit([entries.SessionStarted(0.0, 2e9, "there", 2, "0", "{}")])
    (tmp_path / "old").rename(tmp_path / BACKUP)
    assert back_up(tmp_path).labels == 0


def test_copies_while_it_is_open_leave_no_descriptors(tmp_path: Path, write: Make) -> None:
    """But for one: SQLite closes no file on which it holds locks, and opens that again."""
    write(0, 5)
    with Ledger.open(tmp_path) as ledger, Ledger.open_readonly(tmp_path) as reader:
        assert ledger.labelled_ids() == reader.labelled_ids()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            back_up(tmp_path)
        assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_damaged_copy_is_begun_anew(tmp_path: Path, write: Make) -> None:
    write(0, 5)
    (tmp_path / BACKUP).write_bytes(b"no database" * 1000)
    assert back_up(tmp_path).labels == 5


def test_a_copy_for_which_there_is_no_room_does_no_harm(
    tmp_path: Path, write: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(0, 5)
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorname = "SQLITE_FULL"
    monkeypatch.setattr("pal.ledger.tables.Table.put", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(LedgerDiskError, match="free some space"):
        back_up(tmp_path)
    monkeypatch.undo()
    assert back_up(tmp_path).labels == 5
