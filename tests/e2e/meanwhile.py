"""Doing something beside a campaign, which runs in this process or in a child."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rig import TOYS


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


@contextmanager
def child(
    folder: Path, launcher: Sequence[str] = (), **sections: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a campaign in a process and a process group of its own, started by `launcher`."""
    code = (
        "import json, sys; from rig import campaign; from pathlib import Path\n"
        "folder, sections = json.loads(sys.argv[1])\n"
        "for _ in campaign(Path(folder), **sections): pass\n"
    )
    process = subprocess.Popen(
        [*launcher, sys.executable, "-c", code, json.dumps([str(folder), sections])],
        cwd=TOYS,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
