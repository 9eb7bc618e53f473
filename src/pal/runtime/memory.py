"""Memory: how much a label may take, whom the kernel kills for want of it, and whether it did."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

_FIRST: Final = 500
"""How much sooner than others, of at most 1000, the kernel kills an oracle for want of memory."""


def limit(most: int) -> None:
    """Let this process, and each one it starts, have so many bytes of data of their own.

    What they share or map from files does not count, nor do addresses that are only reserved.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def offer() -> None:
    """Have the kernel kill this process before the agent, should memory be short (Linux).

    A label can be made again; without its agent the whole campaign stands still.
    """
    place = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        if int(place.read_text()) < _FIRST:
            place.write_text(str(_FIRST))


def killings(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has killed for want of memory where this one lives.

    That is in its control group, which a batch system makes for a job, or else on this machine.
    None where nothing tells.
    """
    places = []
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds:
                places.append(root / "sys/fs/cgroup" / path.lstrip("/") / "memory.events")
            elif "memory" in kinds.split(","):
                group = root / "sys/fs/cgroup/memory" / path.lstrip("/")
                places.append(group / "memory.oom_control")
    for place in (*places, root / "proc/vmstat"):
        with suppress(OSError):
            for line in place.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None
