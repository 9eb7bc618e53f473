"""An operator beside a campaign of a test: asks as the command line does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rig import eventually

from pal.controller.commands import State
from pal.errors import PalError
from pal.ledger.directory import RunDirectory
from pal.ledger.ledger import Ledger
from pal.records import Sample
from pal.runtime.requests import Answer, Requests


class Hand:
    """Asks a campaign that runs, or will run, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.box = Requests(RunDirectory(folder).requests)

    def ask(self, deed: str, arrays: Sample | None = None, **arguments: Any) -> Answer:
        request = self.box.leave(deed, arguments, arrays)
        answer = self.box.answer_to(request, 20.0)
        assert answer is not None, f"no answer to {deed} {arguments}"
        return answer

    def do(self, deed: str, arrays: Sample | None = None, **arguments: Any) -> str:
        answer = self.ask(deed, arrays, **arguments)
        assert answer.done, answer.text
        return answer.text

    def refused(self, deed: str, arrays: Sample | None = None, **arguments: Any) -> str:
        answer = self.ask(deed, arrays, **arguments)
        assert not answer.done, answer.text
        assert answer.code
        return answer.text

    def set(self, **changes: Any) -> str:
        """`stop__labels=3` stands for `stop.labels=3`."""
        return self.do("set", changes={k.replace("__", "."): v for k, v in changes.items()})

    def states(self, *states: State) -> list[int]:
        try:
            with Ledger.open_readonly(self.folder) as ledger:
                return [row.candidate.sample for row in ledger.states(*states)]
        except PalError:
            return []

    def some(self, state: State, count: int = 1) -> list[int]:
        """Samples in this state, as soon as there are so many."""
        found: list[int] = eventually(
            lambda: (n := self.states(state)) and len(n) >= count and n,
            f"{count} samples {state}",
        )
        return found

    def comes_to(self, sample: int, state: State) -> None:
        eventually(lambda: sample in self.states(state), f"sample {sample} {state}")
