"""Programs the tests run as processes of their own, to kill them or to starve their disk."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
import sys
import threading
from pathlib import Path

import numpy as np

from pal.controller.events import Candidate
from pal.errors import LedgerDiskError, LedgerError
from pal.ledger import schema
from pal.ledger.directory import RunDirectory
from pal.ledger.entries import Entry, NewLabel, NewSample
from pal.ledger.ledger import Ledger
from pal.ledger.restore import restore
from pal.ledger.writer import LedgerWriter

_NOBODY = 65534
_NUMBER = struct.Struct("<q")


def pair(number: int) -> tuple[NewSample, NewLabel]:
    """A sample and its label, which can be told from all others."""
    sample = NewSample(0.0, Candidate(number, 0, 0, 0.0), np.full((8, 3), number))
    return sample, NewLabel(0.0, number, {"energy": np.array(number)}, oracle=0)


def labels(entries: list[Entry]) -> list[int]:
    return [entry.sample for entry in entries if isinstance(entry, NewLabel)]


def campaign(directory: Path, pipe: int) -> None:
    """Go on with a campaign for ever; write the number of every acknowledged label."""
    with RunDirectory(directory), Ledger.open(directory) as ledger:
        restored = restore(ledger)

        def acknowledge(entries: list[Entry]) -> None:
            os.write(pipe, b"".join(map(_NUMBER.pack, labels(entries))))

        writer = LedgerWriter(ledger, acknowledge, lambda error: os._exit(1))
        for candidate, _ in restored.queued:
            writer.put(pair(candidate.sample)[1])
        number = restored.next_sample
        while True:
            sample, label = pair(number)
            writer.put(sample)
            writer.put(label)
            writer.put(label)
            number += 1
            if number % 50 == 0:
                writer.flush()


def kill_often(directory: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill a campaign and go on with it, many times; what was acknowledged must be there."""
    chance = random.Random(seed)
    acknowledged: list[int] = []
    for _ in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            campaign(directory, writing)
        os.close(writing)
        # Killed after some acknowledgements, none included: then at birth or soon after.
        for _ in range(chance.choice([0, 1, 1, 2, 5, 40])):
            acknowledged += _read(reading, _NUMBER.size)
        for _ in range(chance.randrange(100_000)):
            pass
        os.kill(child, signal.SIGKILL)
        acknowledged += _read(reading)
        os.close(reading)
        os.waitpid(child, 0)
        _verify(directory, acknowledged)
    return {"acknowledged": len(acknowledged), "different": len(set(acknowledged))}


def _read(pipe: int, size: int | None = None) -> list[int]:
    with os.fdopen(os.dup(pipe), "rb", buffering=0) as file:
        data = b""
        while (size is None or len(data) < size) and (more := file.read(size or 1 << 16)):
            data += more
    return [number for (number,) in _NUMBER.iter_unpack(data)]


def _verify(directory: Path, acknowledged: list[int]) -> None:
    try:
        ledger = Ledger.open_readonly(directory)
    except LedgerError:
        # Killed before there was a ledger.
        assert not acknowledged
        return
    with ledger:
        ledger.check()
        found = ledger.labelled_ids()
        assert len(found) == len(set(found))
        assert set(acknowledged) <= set(found)
        for item in ledger.labelled(acknowledged[-20:]):
            assert np.all(item.sample == item.identity)
            assert item.label["energy"] == item.identity
        states = ledger.counts()
        assert states["labelled"] == len(found)


def fill(directory: Path, ballast: Path | None) -> dict[str, object]:
    """Write labels until the disk refuses, then give it room and go on.

    Without a ballast file to delete, the longest file this process may write is the limit.
    """
    if ballast is None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    durable: list[int] = []
    errors: list[LedgerError] = []
    refused = threading.Event()

    def on_error(error: LedgerError) -> None:
        errors.append(error)
        refused.set()

    with Ledger.open(directory) as ledger:
        writer = LedgerWriter(ledger, lambda entries: durable.extend(labels(entries)), on_error)
        number = 0
        while not refused.is_set():
            for entry in pair(number):
                writer.put(entry)
            number += 1
            if number % 10 == 0 and writer.held is None:
                try:
                    writer.flush()
                except LedgerDiskError:
                    break
        refused.wait()
        with Ledger.open_readonly(directory) as reader:
            before = reader.labelled_ids()
        result: dict[str, object] = {
            "error": f"{type(errors[0]).__name__}: {errors[0]}",
            "put": number,
            "durable": len(durable),
            "acknowledged are there": set(durable) <= set(before),
        }
        if ballast is None:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        else:
            ballast.unlink()
        writer.retry()
        writer.close()
        ledger.check()
        result["after retry"] = ledger.labelled_ids() == list(range(number))
    return result


def look(directory: Path) -> dict[str, object]:
    """Try to write, then to read, a directory that may only be read."""
    if os.geteuid() == 0:
        # Root may write everywhere: be someone else.
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    result: dict[str, object] = {}
    for name, action in (
        ("claim", RunDirectory(directory).claim),
        ("open", lambda: Ledger.open(directory)),
        ("save", lambda: RunDirectory(directory).save_state("generator", 0, 1)),
    ):
        try:
            action()
        except LedgerError as error:
            result[name] = f"{type(error).__name__}: {error}"
    with Ledger.open_readonly(directory) as ledger:
        result["labels"] = ledger.labelled_ids()
    return result


def main(task: str, directory: str, *more: str) -> None:
    place = Path(directory)
    if task == "kill_often":
        if more[0] == "TRUNCATE":
            schema.journal_mode = lambda directory: "TRUNCATE"  # type: ignore[assignment]
        result: object = kill_often(place, int(more[1]), seed=0)
    elif task == "fill":
        result = fill(place, Path(more[0]) if more else None)
    elif task == "look":
        result = look(place)
    else:
        RunDirectory(place).claim()
        print("claimed", flush=True)
        sys.stdin.read()
        result = None
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
