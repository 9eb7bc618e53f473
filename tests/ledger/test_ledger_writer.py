from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from pal.errors import ContractError, LedgerDiskError, LedgerError
from pal.ledger.entries import Commit, Entry, NewLabel, Note
from pal.ledger.ledger import Ledger
from pal.ledger.writer import LedgerWriter

Make = Callable[..., Any]


class Listener:
    """Remembers what a writer tells."""

    def __init__(self) -> None:
        self.groups: list[list[Entry]] = []
        self.errors: list[LedgerError] = []
        self.trouble = threading.Event()

    def durable(self, entries: list[Entry]) -> None:
        self.groups.append(entries)

    def error(self, error: LedgerError) -> None:
        self.errors.append(error)
        self.trouble.set()

    @property
    def labels(self) -> list[int]:
        return [item.sample for group in self.groups for item in group if type(item) is NewLabel]


class Disk:
    """A ledger whose commits wait for `go`, and fail while `full`."""

    def __init__(self, ledger: Ledger) -> None:
        self.file = ledger.file
        self.full = False
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self._ledger = ledger

    def commit(self, entries: Sequence[Any]) -> Commit:
        self.started.release()
        assert self.go.wait(30)
        if self.full:
            raise LedgerDiskError("the disk is full")
        return self._ledger.commit(entries)


@pytest.fixture
def disk(ledger: Ledger) -> Disk:
    return Disk(ledger)


@pytest.fixture
def listener() -> Listener:
    return Listener()


def start(disk: Disk | Ledger, listener: Listener, **options: Any) -> LedgerWriter:
    return LedgerWriter(disk, listener.durable, listener.error, **options)  # type: ignore[arg-type]


def test_entries_are_told_in_order_once_they_are_on_disk(
    ledger: Ledger, listener: Listener, molecule: Make, label: Make
) -> None:
    writer = start(ledger, listener)
    entries = [make(number) for number in range(50) for make in (molecule, label)]
    for entry in entries:
        writer.put(entry)
    writer.flush(30)
    assert [entry for group in listener.groups for entry in group] == entries
    writer.close()
    assert ledger.labelled_ids() == list(range(50))
    assert listener.errors == []


def test_what_gathers_during_a_commit_goes_into_one(
    disk: Disk, listener: Listener, molecule: Make
) -> None:
    disk.go.clear()
    writer = start(disk, listener)
    writer.put(molecule(0))
    disk.started.acquire()
    for number in range(1, 20):
        writer.put(molecule(number))
    disk.go.set()
    writer.close()
    assert [len(group) for group in listener.groups] == [1, 19]


def test_arrays_may_change_after_they_were_put(
    disk: Disk, ledger: Ledger, listener: Listener, molecule: Make
) -> None:
    disk.go.clear()
    writer = start(disk, listener)
    entry = molecule(0)
    before = entry.sample["positions"].copy()
    writer.put(entry)
    entry.sample["positions"][:] = np.nan
    disk.go.set()
    writer.close()
    assert (ledger.sample(0)["positions"] == before).all()


def test_a_disk_that_refuses_loses_nothing(
    disk: Disk, ledger: Ledger, listener: Listener, molecule: Make, label: Make
) -> None:
    writer = start(disk, listener)
    writer.put(molecule(0))
    writer.flush(30)
    disk.full = True
    writer.put(label(0))
    assert listener.trouble.wait(30)
    assert isinstance(writer.held, LedgerDiskError)
    writer.put(molecule(1))
    with pytest.raises(
        LedgerDiskError, match=r"cannot flush, 2 entries are not on disk: the disk"
    ):
        writer.flush(30)
    assert listener.labels == []
    disk.full = False
    writer.retry()
    writer.flush(30)
    assert listener.labels == [0]
    assert len(listener.errors) == 1
    writer.close()
    assert ledger.labelled_ids() == [0]
    assert len(ledger.states()) == 2


def test_closing_tries_once_more_and_says_what_is_lost(
    disk: Disk, listener: Listener, molecule: Make
) -> None:
    disk.full = True
    writer = start(disk, listener)
    writer.put(molecule(0))
    assert listener.trouble.wait(30)
    with pytest.raises(LedgerDiskError, match="cannot close, 1 entries are not on disk"):
        writer.close()
    assert len(listener.errors) == 2
    with pytest.raises(LedgerError, match="cannot take an entry"):
        writer.put(molecule(1))


def test_closing_succeeds_when_the_disk_is_back(
    disk: Disk, ledger: Ledger, listener: Listener, molecule: Make
) -> None:
    disk.full = True
    writer = start(disk, listener)
    writer.put(molecule(0))
    assert listener.trouble.wait(30)
    disk.full = False
    writer.close()
    assert len(ledger.states()) == 1


def test_a_full_queue_waits_for_the_disk(disk: Disk, listener: Listener, molecule: Make) -> None:
    disk.go.clear()
    writer = start(disk, listener, capacity=1)
    writer.put(molecule(0))
    waiting = threading.Thread(target=writer.put, args=(molecule(1),))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    disk.go.set()
    waiting.join(30)
    writer.close()
    assert sum(map(len, listener.groups)) == 2


def test_a_full_queue_before_a_refusing_disk_is_an_error(
    disk: Disk, listener: Listener, molecule: Make
) -> None:
    disk.full = True
    writer = start(disk, listener, capacity=1)
    writer.put(molecule(0))
    with pytest.raises(LedgerDiskError, match="cannot take an entry, 1 entries"):
        writer.put(molecule(1))
    disk.full = False
    writer.close()


def test_a_slow_disk_is_said_so(disk: Disk, listener: Listener, molecule: Make) -> None:
    disk.go.clear()
    writer = start(disk, listener)
    writer.put(molecule(0))
    with pytest.raises(LedgerError, match=r"1 entries were not on disk after 0\.01 s"):
        writer.flush(0.01)
    disk.go.set()
    writer.close()


def test_a_label_of_an_unknown_sample_is_told_and_not_called_durable(
    ledger: Ledger, listener: Listener, molecule: Make, label: Make
) -> None:
    writer = start(ledger, listener)
    for entry in (molecule(1), label(1), label(2)):
        writer.put(entry)
    writer.close()
    assert listener.labels == [1]
    assert "does not have: [2]" in str(listener.errors[0])


def test_a_record_that_cannot_be_kept_is_refused_at_once(
    ledger: Ledger, listener: Listener, molecule: Make
) -> None:
    writer = start(ledger, listener)
    bad = NewLabel(0.0, 1, {"energy": np.array([None])}, oracle=0)
    with pytest.raises(ContractError, match="array 'energy'"):
        writer.put(bad)
    writer.put(molecule(1))
    writer.close()
    assert len(ledger.states()) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_broken_callback_lets_nobody_wait_for_ever(ledger: Ledger, listener: Listener) -> None:
    def broken(entries: list[Entry]) -> None:
        raise ValueError("a fault in the caller")

    writer = LedgerWriter(ledger, broken, listener.error)
    writer.put(Note(0.0, "a", "b"))
    with pytest.raises(LedgerError, match="it broke: ValueError: a fault in the caller"):
        writer.flush(30)
    with pytest.raises(LedgerError, match="it broke"):
        writer.close()


def test_many_labels_a_second(
    ledger: Ledger, listener: Listener, molecule: Make, label: Make
) -> None:
    count = 2000
    entries = [make(number, 12) for number in range(count) for make in (molecule, label)]
    writer = start(ledger, listener)
    begin = time.perf_counter()
    for entry in entries:
        writer.put(entry)
    writer.flush()
    print(f"{count / (time.perf_counter() - begin):.0f} labels a second")
    writer.close()
    assert len(ledger.labelled_ids()) == count
