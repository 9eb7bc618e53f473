"""Doing something beside a campaign that runs in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def meanwhile(deed: Callable[[], None]) -> Iterator[None]:
    """Do something beside the campaign, and raise here what went wrong there."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            deed()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]


def stop(folder: Path) -> None:
    """Ask a campaign to end, as the command line does."""
    request = folder / "requests" / "test.json.new"
    request.write_text(json.dumps({"stop": "seen enough"}))
    request.rename(request.with_suffix(""))
