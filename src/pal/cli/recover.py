"""The command that makes a damaged ledger whole."""

from __future__ import annotations

from pal.cli.arguments import SETTINGS, Target, run_directory
from pal.errors import LedgerError


def recover(target: Target = SETTINGS) -> None:
    """Save what can be read of a damaged ledger and of its copy, and say what is missing.

    The damaged file is kept beside the new one. A ledger that is whole stays as it is.
    """
    from pal.ledger.directory import BACKUP
    from pal.ledger.recovery import recover as make_whole

    directory = run_directory(target)
    if not any((directory.path / name).exists() for name in (directory.ledger.name, BACKUP)):
        raise LedgerError(
            f"there is no campaign in {directory.path}; name the directory of a campaign, or "
            "its settings file"
        )
    with directory:
        found = make_whole(directory.path)
    for line in found.lines():
        print(line)
    if found.aside is not None:
        print("`pal run` goes on from here; `pal status` tells how the campaign stands")
