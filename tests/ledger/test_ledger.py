from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.errors import (
    ContractError,
    Failure,
    LedgerError,
    LedgerLockedError,
    LedgerVersionError,
)
from pal.ledger import rows, schema
from pal.ledger.directory import LEDGER
from pal.ledger.entries import (
    FailureEntry,
    GrantedTotal,
    Metric,
    NewSample,
    Note,
    SessionEnded,
    SessionStarted,
    StateChange,
)
from pal.ledger.ledger import Ledger
from pal.monitor.metrics import Snapshot

Make = Callable[..., Any]


def test_samples_and_labels_come_back_as_they_were(
    ledger: Ledger, molecule: Make, label: Make
) -> None:
    sample, answer = molecule(4), label(4)
    commit = ledger.commit([sample, answer])
    assert (commit.labels, commit.repeated, commit.unknown) == ((4,), (), ())
    back = ledger.sample(4)
    assert all((back[name] == array).all() for name, array in sample.sample.items())
    assert ledger.label(4)["energy"] == answer.label["energy"]
    (item,) = ledger.labelled()
    assert item.identity == 4
    assert (item.label["forces"] == answer.label["forces"]).all()
    (row,) = ledger.label_rows()
    assert (row.sample, row.oracle, row.host, row.seconds, row.time) == (4, 1, "node7", 2.5, 1.0)


def test_labels_keep_the_order_of_their_commits(
    ledger: Ledger, molecule: Make, label: Make
) -> None:
    order = [int(number) for number in np.random.default_rng(1).permutation(600)]
    ledger.commit([molecule(number) for number in sorted(order)])
    ledger.commit([label(number) for number in order[:300]])
    ledger.commit([label(number) for number in order[300:]])
    assert ledger.labelled_ids() == order
    assert [item.identity for item in ledger.labelled()] == order
    some = order[::-7]
    assert [item.identity for item in ledger.labelled(some)] == some


def test_a_second_label_is_not_counted(ledger: Ledger, molecule: Make, label: Make) -> None:
    ledger.commit([molecule(1), label(1)])
    again = ledger.commit([label(1), label(1)])
    assert (again.labels, again.repeated) == ((), (1, 1))
    assert ledger.labelled_ids() == [1]


def test_a_repeated_sample_changes_nothing(ledger: Ledger, molecule: Make, label: Make) -> None:
    ledger.commit([molecule(1), label(1)])
    assert ledger.commit([molecule(1, atoms=5)]).repeated == (1,)
    assert len(ledger.sample(1)["numbers"]) == 3
    assert ledger.counts()[State.LABELLED] == 1


def test_labels_and_moves_of_unknown_samples_are_refused(ledger: Ledger, label: Make) -> None:
    commit = ledger.commit([label(9), StateChange(1.0, 8, State.RUNNING)])
    assert (commit.labels, commit.unknown) == ((), (9, 8))
    assert not ledger.labelled_ids()


def test_a_label_makes_its_sample_labelled_for_good(
    ledger: Ledger, molecule: Make, label: Make
) -> None:
    ledger.commit([molecule(1), StateChange(0.5, 1, State.RUNNING, attempts=1), label(1)])
    ledger.commit([StateChange(2.0, 1, State.DROPPED, "late")])
    (row,) = ledger.states()
    assert (row.state, row.attempts) == (State.LABELLED, 1)


def test_a_commit_is_whole_or_nothing(ledger: Ledger, molecule: Make) -> None:
    bad = NewSample(0.0, Candidate(2, 0, 0, 0.0), {"x": np.array([None])})
    with pytest.raises(ContractError, match="array 'x'"):
        ledger.commit([molecule(1), bad])
    with pytest.raises(TypeError):
        ledger.commit([molecule(1), Metric(0.0, {"what": object()})])
    assert ledger.states() == []
    ledger.commit([molecule(1)])
    assert len(ledger.states()) == 1


def test_states_are_found_by_name(ledger: Ledger, molecule: Make, label: Make) -> None:
    ledger.commit([molecule(number, time=0.5) for number in range(4)])
    ledger.commit([StateChange(1.0, 2, State.RUNNING, "oracle 0", attempts=1), label(3)])
    assert [row.candidate.sample for row in ledger.states(State.QUEUED)] == [0, 1]
    assert [row.candidate.sample for row in ledger.states(State.RUNNING, State.LABELLED)] == [2, 3]
    row = ledger.states(State.RUNNING)[0]
    assert (row.candidate, row.attempts, row.created) == (Candidate(2, 0, 2, 0.5), 1, 0.5)
    assert ledger.counts()[State.QUEUED] == 2
    assert sum(ledger.counts().values()) == 4


@pytest.mark.parametrize("uncertainty", [math.nan, math.inf, -math.inf, 1e-300])
def test_any_uncertainty_is_kept(ledger: Ledger, uncertainty: float) -> None:
    ledger.commit([NewSample(0.0, Candidate(0, -1, 0, uncertainty), np.zeros(2))])
    assert str(ledger.states()[0].candidate.uncertainty) == str(uncertainty)


def test_numpy_numbers_are_kept_as_numbers(ledger: Ledger) -> None:
    candidate = Candidate(np.int64(3), np.int32(1), np.int64(2), np.float32(0.5))  # type: ignore[arg-type]
    ledger.commit([NewSample(np.float64(1.0), candidate, np.zeros(2))])
    ledger.commit([StateChange(1.0, np.int64(3), State.RUNNING, attempts=np.int64(1))])  # type: ignore[arg-type]
    assert ledger.states()[0].candidate == Candidate(3, 1, 2, 0.5)


def test_the_story_of_a_sample(ledger: Ledger, molecule: Make, label: Make) -> None:
    ledger.commit([molecule(1, walker=3), molecule(2)])
    ledger.commit([StateChange(0.5, 1, State.RUNNING, "oracle 0", attempts=1)])
    failure = Failure("oracle", 0, "crash", "segmentation fault", "node7", 1, "Traceback ...")
    ledger.commit([FailureEntry(0.6, failure), StateChange(0.7, 1, State.QUEUED, "retry")])
    ledger.commit([StateChange(0.8, 1, State.RUNNING, attempts=2), label(1)])
    story = ledger.story(1)
    assert [line.what for line in story] == [
        "proposed",
        "running",
        "failure",
        "queued",
        "running",
        "label on disk",
    ]
    assert "walker 3" in story[0].detail
    assert "segmentation fault" in story[2].detail
    assert "node7" in story[-1].detail
    assert ledger.failures() == [FailureEntry(0.6, failure)]
    assert [line.what for line in ledger.story(2)] == ["proposed"]


def test_metrics_notes_grants_and_sessions_come_back(ledger: Ledger) -> None:
    snapshot = Snapshot(time=12.0, samples=5, loss=None, utilisation={"oracle": np.float64(0.5)})
    ledger.commit(
        [
            SessionStarted(0.0, 1.7e9, "node1", 42, "0.1.0", "{}"),
            Metric(12.0, snapshot.as_dict()),
            Note(13.0, "evaluation", "good"),
            Note(13.0, "other", "text"),
            GrantedTotal(14.0, 70),
            GrantedTotal(15.0, 90),
            SessionEnded(16.0, "stop.labels reached"),
            SessionStarted(16.0, 1.8e9, "node2", 43, "0.1.0", "{}"),
        ]
    )
    assert ledger.metrics() == [Metric(12.0, snapshot.as_dict())]
    assert ledger.last_metric() == ledger.metrics()[-1]
    assert [note.text for note in ledger.notes("evaluation")] == ["good"]
    assert len(ledger.notes()) == 2
    assert ledger.granted() == 90
    first, second = ledger.sessions()
    assert (first.host, first.end, first.reason) == ("node1", 16.0, "stop.labels reached")
    assert (second.pid, second.start, second.end) == (43, 16.0, None)
    assert ledger.last_time() == 16.0


def test_text_that_is_no_unicode_is_kept_escaped(ledger: Ledger, molecule: Make) -> None:
    garbage = b"caf\xe9 \x00".decode("utf-8", "surrogateescape")
    failure = Failure("oracle", 0, "crash", garbage, garbage, 1, garbage)
    ledger.commit([molecule(1), StateChange(0.0, 1, State.FAILED, garbage)])
    ledger.commit([FailureEntry(0.0, failure), Note(0.0, "output", garbage)])
    assert ledger.failures()[0].failure.message == "caf\\udce9 \0"
    assert ledger.notes()[0].text == ledger.story(1)[1].detail == "caf\\udce9 \0"


def test_a_record_too_large_for_the_ledger_is_refused(
    ledger: Ledger, label: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_LARGEST", 100)
    with pytest.raises(ContractError, match=r"sample 3: .* take 136 bytes"):
        ledger.commit([label(3)])


def test_what_is_not_there_is_said_so(ledger: Ledger, molecule: Make) -> None:
    ledger.commit([molecule(1)])
    for ask in (ledger.story, ledger.sample, lambda number: list(ledger.labelled([number]))):
        with pytest.raises(LedgerError, match=r"has no .*sample 7"):
            ask(7)
    with pytest.raises(LedgerError, match="has no label of sample 1"):
        ledger.label(1)
    assert ledger.last_metric() is None
    assert ledger.granted() == 0


def test_readers_look_on_while_the_writer_commits(
    ledger: Ledger, tmp_path: Path, molecule: Make, label: Make
) -> None:
    ledger.commit([molecule(number) for number in range(600)])
    ledger.commit([label(number) for number in range(500)])
    with Ledger.open_readonly(tmp_path) as reader:
        seen = reader.labelled()
        first = next(seen)
        ledger.commit([label(number) for number in range(500, 600)])
        assert [first.identity, *(item.identity for item in seen)] == list(range(500))
        assert len(reader.labelled_ids()) == 600
        with pytest.raises(LedgerError, match="opened for reading"):
            reader.commit([Note(0.0, "a", "b")])


def test_readers_in_rollback_mode_do_not_stop_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, molecule: Make, label: Make
) -> None:
    monkeypatch.setattr(schema, "journal_mode", lambda directory: "TRUNCATE")
    with Ledger.open(tmp_path) as ledger:
        ledger.commit([molecule(number) for number in range(300)])
        ledger.commit([label(number) for number in range(300)])
        with Ledger.open_readonly(tmp_path) as reader:
            seen = reader.labelled()
            next(seen)
            ledger.commit([molecule(300), label(300)])
            assert len(list(seen)) == 299
            assert len(reader.labelled_ids()) == 301
        assert not (tmp_path / f"{LEDGER}-wal").exists()


@pytest.mark.parametrize("journal", ["WAL", "TRUNCATE"])
def test_a_reader_repairs_what_a_killed_writer_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, molecule: Make, label: Make, journal: str
) -> None:
    monkeypatch.setattr(schema, "journal_mode", lambda directory: journal)
    copy = tmp_path / "copy"
    copy.mkdir()
    with Ledger.open(tmp_path) as ledger:
        ledger.commit([molecule(1), label(1)])
        db = sqlite3.connect(tmp_path / LEDGER, isolation_level=None)
        # With so little memory, changes are in the file long before they are committed.
        db.execute("PRAGMA cache_size = 2")
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT INTO inputs VALUES (?, ?)", [(i, bytes(3000)) for i in range(9, 99)]
        )
        for file in tmp_path.glob(f"{LEDGER}*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy)
        db.execute("ROLLBACK")
        db.close()
    with Ledger.open_readonly(copy) as ledger:
        ledger.check()
        assert ledger.labelled_ids() == [1]
        assert len(ledger.sample(1)["numbers"]) == 3
        with pytest.raises(LedgerError, match="no sample 9"):
            ledger.sample(9)


def test_an_orderly_end_leaves_one_file(tmp_path: Path, molecule: Make) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.commit([molecule(1)])
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER]
    with Ledger.open(tmp_path) as ledger:
        assert len(ledger.states()) == 1
        ledger.check()


def test_a_ledger_of_another_format_is_refused(tmp_path: Path) -> None:
    Ledger.open(tmp_path).close()
    with sqlite3.connect(tmp_path / LEDGER) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    for start in (Ledger.open, Ledger.open_readonly):
        with pytest.raises(LedgerVersionError, match=r"format 7.* reads format 1; use the PAL"):
            start(tmp_path)


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / LEDGER) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    with pytest.raises(LedgerError, match="PAL did not write"):
        Ledger.open(tmp_path)


def test_no_ledger_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no campaign in"):
        Ledger.open_readonly(tmp_path)
    (tmp_path / LEDGER).touch()
    with pytest.raises(LedgerError, match="holds no campaign yet"):
        Ledger.open_readonly(tmp_path)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(b"not a database at all" * 100)
    with pytest.raises(LedgerError, match=rf"{LEDGER} is damaged, or no ledger: file is not"):
        Ledger.open(tmp_path)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
def test_a_ledger_cut_short_is_named(
    tmp_path: Path, molecule: Make, label: Make, kept: float
) -> None:
    with Ledger.open(tmp_path) as ledger:
        for number in range(200):
            ledger.commit([molecule(number), label(number)])
    file = tmp_path / LEDGER
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with (
        pytest.raises(LedgerError, match=f"{LEDGER} (is damaged|cannot be used)"),
        Ledger.open(tmp_path) as ledger,
    ):
        ledger.check()


def test_a_damaged_sample_is_named(tmp_path: Path, molecule: Make) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.commit([molecule(5)])
    with sqlite3.connect(tmp_path / LEDGER) as db:
        db.execute("UPDATE inputs SET data = substr(data, 1, 60)")
    db.close()
    with (
        Ledger.open_readonly(tmp_path) as ledger,
        pytest.raises(LedgerError, match=r"ledger\.sqlite, sample 5: .*checksum"),
    ):
        ledger.sample(5)


def test_a_busy_ledger_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, molecule: Make
) -> None:
    monkeypatch.setattr(schema, "_BUSY_SECONDS", 0.01)
    with Ledger.open(tmp_path) as ledger:
        other = sqlite3.connect(tmp_path / LEDGER, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerLockedError, match="kept busy by another process"):
            ledger.commit([molecule(1)])
        other.execute("COMMIT")
        other.close()
        ledger.commit([molecule(1)])
        assert len(ledger.states()) == 1


@pytest.mark.parametrize(
    ("place", "kind", "journal"),
    [
        ("/home/me/run", "ext4", "WAL"),
        ("/home/shared/run", "nfs4", "TRUNCATE"),
        ("/home/shared/deep/run", "xfs", "WAL"),
        ("/home/sharedness", "ext4", "WAL"),
        ("/my data/run", "fuse.sshfs", "TRUNCATE"),
        ("/scratch/me", "lustre", "TRUNCATE"),
        ("/strange", "newfs", "TRUNCATE"),
    ],
)
def test_the_journal_fits_the_file_system(
    tmp_path: Path, place: str, kind: str, journal: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/old / ext3 rw 0 0\n/dev/sda / ext4 rw 0 0\nhost:/x /home/shared nfs4 rw 0 0\n"
        "/dev/sdb /home/shared/deep xfs rw 0 0\nme@host: /my\\040data fuse.sshfs rw 0 0\n"
        "10.0.0.1@tcp:/l /scratch lustre rw 0 0\nx /strange newfs rw 0 0\n"
    )
    assert schema.file_system(Path(place), mounts) == kind
    assert schema.journal_mode(Path(place), mounts) == journal


def test_an_unknown_file_system_is_treated_as_a_network(tmp_path: Path) -> None:
    assert schema.journal_mode(tmp_path, tmp_path / "no list of mounts") == "TRUNCATE"
