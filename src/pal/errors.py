"""What can go wrong, as one tree: by cause first, then by name.

Every message names the place, what was expected, what came, and the fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field


class PalError(Exception):
    """Root of all errors PAL raises on purpose."""

    exit_code = 1


class SettingsError(PalError):
    """A setting is unknown, mistyped or does not fit another one."""

    exit_code = 2


class KernelError(PalError):
    """A user's kernel cannot be used, or broke its contract."""

    exit_code = 3


class KernelImportError(KernelError):
    """A kernel named in the settings cannot be imported or built.

    `foreseen`: the message tells what is wrong and what to do, so that nobody needs a traceback.
    """

    def __init__(self, message: str = "", *, foreseen: bool = True) -> None:
        super().__init__(message)
        self.foreseen = foreseen


def foreseen(error: BaseException) -> bool:
    """Whether a kernel could not be built, and the message tells the user all there is to say."""
    return isinstance(error, KernelImportError) and error.foreseen


class ContractError(KernelError):
    """A kernel returned something its role does not allow."""


class ShapeError(ContractError):
    """A kernel returned arrays of another shape, dtype or number than expected."""


class NotFiniteError(ContractError):
    """A kernel returned NaN or infinity."""


class LabelFailure(PalError):  # noqa: N818 - the word of the glossary, and what oracles raise
    """Raised by an oracle when the physics says no: not converged, not physical.

    The campaign goes on; the sample is retried or ends as failed, with this message.
    """


class InterfaceError(ContractError):
    """A kernel written for the published interface broke it; that ends the campaign at once."""


class LedgerError(PalError):
    """The run directory or its ledger cannot be used."""

    exit_code = 4


class LedgerLockedError(LedgerError):
    """Another process is running a campaign in this directory."""


class LedgerDamagedError(LedgerError):
    """The ledger is cut short or corrupted, or something else lies in its place."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a PAL with another format."""


class LedgerForeignError(LedgerError):
    """The directory holds files, but no campaign, or another campaign than the settings say."""


class LedgerDiskError(LedgerError):
    """The disk refused a write: full, read-only or gone."""


class TransportError(PalError):
    """A road between processes is closed or was misused."""

    exit_code = 5


class ChannelClosedError(TransportError):
    """The other end of a channel is gone."""


class SlotTooSmallError(TransportError):
    """A sample or its feedback does not fit the shared-memory slot of its walker."""


class WorldError(TransportError):
    """The agents of a campaign cannot talk to each other, or do not fit together."""


class WorkerError(PalError):
    """A worker process failed more often than its restart budget allows."""

    exit_code = 6


class BatchError(PalError):
    """A batch system cannot be reached, or refused a job."""

    exit_code = 7


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of one kernel, as it travels and as the ledger keeps it.

    `kind` is the name of the exception class, or "crash", "deadline", "lost".
    """

    role: str
    index: int
    kind: str
    message: str
    host: str = ""
    sample: int | None = None
    traceback: str = field(default="", repr=False)

    def __str__(self) -> str:
        where = f"{self.role} {self.index}"
        if self.host:
            where += f" on {self.host}"
        if self.sample is not None:
            where += f", sample {self.sample}"
        text = f"{where}: {self.kind}: {self.message}"
        return f"{text}\n{self.traceback.rstrip()}" if self.traceback else text


def nearest(name: str, known: Sequence[str]) -> str:
    """Return advice for a name that is not known."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known) or 'none'}"
