"""Those who look on while a campaign writes get whole answers, and do not stop it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ledger_children import pair

from pal.controller.commands import State
from pal.ledger import schema
from pal.ledger.entries import Entry, Note, StateChange
from pal.ledger.ledger import Ledger
from pal.ledger.writer import LedgerWriter

LOOK = """
import sys
from pathlib import Path
from pal.controller.commands import State
from pal.ledger.changes import standing
from pal.ledger.ledger import Ledger
from pal.ledger.search import Order, Wanted, count, find
from pal.ledger.story import tell

looks = 0
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    with Ledger.open_readonly(Path(sys.argv[1])) as ledger:
        rows = find(ledger, Wanted(states=(State.LABELLED,)), Order.NEWEST, 50)
        for found in rows[:5]:
            story = tell(ledger, found.row.candidate.sample)
            assert story.label is not None, "a labelled sample without its label"
            assert [move.what for move in story.moves] == ["running"]
        assert count(ledger, Wanted()) >= len(rows)
        standing(ledger)
        ledger.counts()
    looks += 1
print(looks)
"""


@pytest.mark.parametrize("mode", ["WAL", "TRUNCATE"])
def test_onlookers_see_whole_samples_and_the_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(schema, "journal_mode", lambda directory: mode)
    seen_enough = tmp_path / "enough"
    errors: list[Exception] = []
    durable: list[Entry] = []
    told = threading.Event()

    def on_durable(entries: list[Entry]) -> None:
        durable.extend(entries)
        told.set()

    folder = tmp_path / "run"
    folder.mkdir()
    with Ledger.open(folder) as ledger:
        ledger.commit([Note(0.0, "evaluation", "")])
        writer = LedgerWriter(ledger, on_durable, errors.append)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", LOOK, str(folder), str(seen_enough)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for number in range(100):
            sample, label = pair(number)
            writer.put(sample)
            writer.put(StateChange(0.0, number, State.RUNNING, "oracle 0, attempt 1", 1))
            writer.put(label)
            writer.flush(30.0)  # a commit for each, as many as the disk takes
        seen_enough.touch()
        results = [child.communicate(timeout=60) for child in children]
        writer.close()
    assert not errors
    assert [child.returncode for child in children] == [0, 0], results
    assert all(int(out) > 0 for out, _ in results)
    assert len(durable) == 300
