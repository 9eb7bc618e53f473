"""What the kernel says of processes that it has killed for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pal.runtime.memory import killings


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/job", "sys/fs/cgroup/job/memory.events", "low 0\noom 2\noom_kill 3\n"),
        (
            "5:cpu:/a\n4:memory:/job/7\n0::/",
            "sys/fs/cgroup/memory/job/7/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        ),
        ("", "proc/vmstat", "pgfault 12\noom_kill 3\n"),
    ],
)
def test_they_are_counted_in_the_group_of_the_job(
    tmp_path: Path, groups: str, file: str, text: str
) -> None:
    for name, content in {"proc/vmstat": "oom_kill 99\n", file: text}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text(groups)
    assert killings(tmp_path) == 3


def test_where_nothing_tells_there_is_no_number(tmp_path: Path) -> None:
    assert killings(tmp_path) is None
