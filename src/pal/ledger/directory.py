"""The run directory of a campaign: who may use it, what lies in it, what may be deleted."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import shutil
import socket
import threading
import time
import warnings
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Self

from pal.errors import LedgerDiskError, LedgerError, LedgerForeignError, LedgerLockedError

LEDGER: Final = "ledger.sqlite"
BACKUP: Final = "ledger.backup.sqlite"
"""The copy of what the ledger holds; never more than some minutes old."""
DAMAGED: Final = "ledger.damaged-"
"""Where the name of a ledger begins that was damaged, and from which another one was made."""
MUSTER: Final = ".muster-"
"""Where the name of a file begins by which the agents of several nodes find the directory."""

_UNFINISHED: Final = ".*.[0-9]*-[0-9]*.tmp"
"""A file that `write_atomically` has begun: its name, process and thread."""

_WRITTEN: Final = (
    f"{LEDGER}*",
    f"{BACKUP}*",
    f"{DAMAGED}*",
    "logs",
    "states",
    "models",
    "scratch",
    "work",
    "requests",
    "report.html",
    "figures",
    "dataset.*",
    "summary.json",
    "status.json",
    _UNFINISHED,
    f"{MUSTER}*",
)
"""All that PAL writes into a run directory, besides the lock."""

_MAGIC: Final = b"PAL-STATE-1\n"
_DIGEST: Final = 16
_NO_LOCKS: Final = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, 524}  # 524: ENOTSUPP of Linux


class RunDirectory:
    """A campaign's directory. Looking into it needs nothing; running in it needs `claim`.

    As a context manager it claims the directory and gives it back.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: int | None = None

    @property
    def ledger(self) -> Path:
        """The SQLite file.

        In the process that writes it, read it only through `Ledger`: SQLite loses its locks
        when anything else in that process opens and closes the file.
        """
        return self.path / LEDGER

    @property
    def lock(self) -> Path:
        """The file whose lock says that a campaign runs here, and who runs it."""
        return self.path / "lock"

    @property
    def logs(self) -> Path:
        """What the workers print."""
        return self.path / "logs"

    @property
    def states(self) -> Path:
        """Saved states of kernels."""
        return self.path / "states"

    @property
    def models(self) -> Path:
        """Stored weights."""
        return self.path / "models"

    @property
    def scratch(self) -> Path:
        """Where oracles work."""
        return self.path / "scratch"

    @property
    def jobs(self) -> Path:
        """Scripts and output of batch jobs; they outlive a campaign that is begun afresh."""
        return self.path / "jobs"

    @property
    def requests(self) -> Path:
        """What the operator asks of a running campaign."""
        return self.path / "requests"

    @property
    def status(self) -> Path:
        """The newest snapshot, for whoever looks on."""
        return self.path / "status.json"

    def claim(self) -> None:
        """Make the directory if needed, and be the only one to run a campaign in it.

        The claim ends with `release` or with the process, however it dies; child processes that
        outlive it do not hold it.

        Raises:
            LedgerLockedError: another process runs a campaign here.
            LedgerForeignError: there are files here, but no campaign.
            LedgerDiskError: the directory cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            handle = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _refused(self.path, error) from error
        try:
            self._take(handle)
        except BaseException:
            os.close(handle)
            raise
        self._lock = handle
        os.register_at_fork(after_in_child=self._leave)

    def release(self) -> None:
        """Give the directory back. The empty lock file stays; its lock counts, not the file."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _leave(self) -> None:
        # A lock lives as long as any copy of its handle: a forked child closes its own.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        self.claim()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def holder(self) -> dict[str, Any] | None:
        """Return {pid, host, start} of the process that runs a campaign here; None if none.

        `start` is the wall clock in seconds since 1970.
        """
        try:
            handle = os.open(self.lock, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return self._written_holder()
        finally:
            os.close(handle)
        return None

    def clear(self) -> None:
        """Delete the campaign in this claimed directory; files PAL did not write stay.

        Raises:
            LedgerError: the directory is not claimed by this process.
        """
        if self._lock is None:
            raise LedgerError(f"{self.path} must be claimed before it is cleared; call claim()")
        for path in sorted(path for name in _WRITTEN for path in self.path.glob(name)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def sweep(self) -> None:
        """Delete files that a process which was killed has begun."""
        for folder in (self.path, self.states, self.models):
            for path in folder.glob(_UNFINISHED):
                if not _lives(int(path.name.split(".")[-2].split("-")[0])):
                    path.unlink(missing_ok=True)

    def save_state(self, role: str, index: int, state: Any) -> None:
        """Keep the state of a kernel, anything that can be pickled, and the one before it.

        Raises:
            LedgerDiskError: the disk refused; the state before is still there.
        """
        data = pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)
        path, before = self._state_files(role, index)
        try:
            self.states.mkdir(exist_ok=True)
        except OSError as error:
            raise _refused(self.states, error) from error
        fresh = path.with_suffix(".new")
        write_atomically(fresh, _MAGIC + _digest(data) + data)
        # A crash between the two renames leaves the state before, which `load_state` then takes.
        try:
            if path.exists():
                path.replace(before)
            fresh.replace(path)
        except OSError as error:
            raise _refused(path, error) from error

    def load_state(self, role: str, index: int) -> Any | None:
        """Return what `save_state` kept; None if nothing was.

        A damaged file is told as a warning that names it, and the state before is returned.

        Raises:
            LedgerError: every file is damaged; it names them.
        """
        problems: list[str] = []
        for path in self._state_files(role, index):
            if not path.exists():
                continue
            try:
                state = _read_state(path)
            except LedgerError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}; going on from {path.name}", stacklevel=2)
            return state
        if problems:
            raise LedgerError(f"{'; '.join(problems)}; {role} {index} can only start anew")
        return None

    def _state_files(self, role: str, index: int) -> tuple[Path, Path]:
        name = f"{role}-{index}.state"
        return self.states / name, self.states / f"{name}.1"

    def _refuse_foreign(self) -> None:
        if self.ledger.exists() or (self.path / BACKUP).exists():
            return
        # A run that was killed before it had a ledger leaves its lock and empty folders.
        others = [
            path.name
            for path in self.path.iterdir()
            if path not in (self.lock, self.jobs)
            and not path.name.startswith((LEDGER, MUSTER))
            and not (path.is_dir() and not any(path.iterdir()))
        ]
        if others:
            raise LedgerForeignError(
                f"{self.path} holds no campaign, but {len(others)} other files or folders (e.g. "
                f"{min(others)}); choose an empty directory, or one that does not exist yet"
            )

    def _take(self, handle: int) -> None:
        # `holder` takes a shared lock for a moment; it must not make a claim fail.
        for tries in range(10, -1, -1):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not tries:
                    raise self._locked() from None
                time.sleep(0.01)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise _refused(self.lock, error) from error
                raise LedgerError(
                    f"the file system of {self.path} knows no file locks ({error.strerror}); "
                    "use a directory on another one (Lustre: mounted with -o flock)"
                ) from error
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": time.time()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)

    def _locked(self) -> LedgerLockedError:
        holder = self._written_holder()
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        return LedgerLockedError(
            f"{self.path} is in use by {who}; wait for that campaign, stop it, or choose "
            "another directory"
        )

    def _written_holder(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.lock.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers, and a crash, see the old content or the new, never a part.

    Raises:
        LedgerDiskError: the disk refused; the old content is still there.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise _refused(path, error) from error


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Put a rename on the disk: the name lives in the folder, not in the file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_state(path: Path) -> Any:
    content = path.read_bytes()
    begin = len(_MAGIC) + _DIGEST
    data = content[begin:]
    if not content.startswith(_MAGIC) or content[len(_MAGIC) : begin] != _digest(data):
        raise LedgerError(f"{path} is cut short or damaged ({len(content)} bytes)")
    try:
        return pickle.loads(data)
    except Exception as error:
        raise LedgerError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST).digest()


def _refused(path: Path, error: OSError) -> LedgerDiskError:
    return LedgerDiskError(
        f"the disk refused {path}: {error.strerror or error}; free some space, or choose a "
        "directory that can be written"
    )
