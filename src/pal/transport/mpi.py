"""The fabric over MPI. Nothing else in PAL imports mpi4py, and importing this module does not.

Agents are single-threaded and mostly idle, and MPI's own waiting spins, so everything is started
without waiting and looked at later: sends, and receives too, as a sender that stands still in the
middle of a packet must not hold up the receiver.

What MPI libraries do when a rank dies, and what follows for us, was measured and is written in
`docs/design/007-agents-and-mpi.md`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from pal.errors import TransportError, WorldError
from pal.transport.fabric import Control, Halt, Lost, PacketFabric
from pal.transport.farewell import PATIENCE, Farewell

if TYPE_CHECKING:
    from mpi4py import MPI

TAG = 7
WINDOW = 3
"""Packets in flight per destination: two keep the road busy while the third is being filled."""

_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
_UNEXPLAINED = 100  # errors in a row, without a new death, after which MPI is given up
_LAST_CALL = 0.5  # seconds to tell the others that all is over
_LAUNCHER_S_TIME = 30  # tenths of a second
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_SEGMENTS = tuple(f"/dev/shm/{name}" for name in ("mpich_shm_", "sm_segment.", "vader_segment."))
_AT_ONCE = 64  # packets taken in by one poll, so that the caller gets its turn
_PATIENCE_WITH_MPI = 20  # seconds for a call of MPI that should end at once


class MpiCarrier:
    """Packets as non-blocking MPI messages with one tag."""

    def __init__(self, mpi: Any, comm: MPI.Intracomm, survives: bool) -> None:
        self._mpi = mpi
        self._comm = comm
        self.rank = comm.rank
        self.size = comm.size
        self.survives = survives
        self._deaths = (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED)
        tolerant = "fault tolerant" if survives else "all ranks end when one dies"
        self.description = f"{library(mpi)}, {tolerant}"
        self._sends: dict[int, deque[tuple[MPI.Request, bytes]]] = {}
        self._receives: dict[int, deque[tuple[MPI.Request, memoryview]]] = {}
        self._graves: list[object] = []  # MPI may still touch buffers of those who are gone
        self._dead: set[int] = set()
        self._broken: set[int] = set()  # sources of which a packet is missing
        self._unexplained = 0
        self._status = mpi.Status()

    def window(self, rank: int) -> int:
        """How many packets may be posted for this rank now."""
        return WINDOW - len(self._sends.get(rank, ()))

    def post(self, rank: int, packet: bytes) -> None:
        """Send a packet without waiting for it."""
        try:
            request = self._comm.Isend([packet, self._mpi.BYTE], rank, TAG)
        except self._mpi.Exception as error:
            self._tolerate(error)
        else:
            self._sends.setdefault(rank, deque()).append((request, packet))

    def poll(self) -> tuple[list[tuple[int, memoryview]], list[Lost]]:
        """Return the packets that have come with their sources, then the ranks that died."""
        self._finish_sends()
        packets: list[tuple[int, memoryview]] = []
        try:
            self._collect(packets)
        except self._mpi.Exception as error:
            self._tolerate(error)
            died = self._bury()
            self._unexplained = 0 if died else self._unexplained + 1
            if self._unexplained > _UNEXPLAINED:
                raise WorldError(f"MPI keeps failing on rank {self.rank}: {error}") from error
            with suppress(self._mpi.Exception):  # another death is for the next poll
                self._collect(packets)
            return packets, died
        return packets, []

    def _collect(self, packets: list[tuple[int, memoryview]]) -> None:
        """Start to receive what has been announced, and take what is complete."""
        for _ in range(_AT_ONCE):
            message = self._comm.Improbe(self._mpi.ANY_SOURCE, TAG, self._status)
            if message is None:
                break
            source = self._status.source
            buffer = np.empty(self._status.Get_count(self._mpi.BYTE), np.uint8).data
            request = message.Irecv([buffer, self._mpi.BYTE])
            self._receives.setdefault(source, deque()).append((request, buffer))
        for source in list(self._receives):
            try:
                self._complete(source, packets)
            except self._mpi.Exception as error:
                self._tolerate(error)
                self._broken.add(source)

    def _complete(self, source: int, packets: list[tuple[int, memoryview]]) -> None:
        """Take the packets of a source that are complete, up to the first that is not."""
        waiting = self._receives[source]
        if source in self._broken:
            self._graves.append(self._receives.pop(source))
            return
        while waiting and waiting[0][0].Test():
            packets.append((source, waiting.popleft()[1]))
        if not waiting:
            del self._receives[source]

    def _finish_sends(self) -> None:
        for rank in list(self._sends):
            waiting = self._sends[rank]
            try:
                while waiting and waiting[0][0].Test():
                    waiting.popleft()
            except self._mpi.Exception as error:
                self._tolerate(error)
                self.forget(rank)
                continue
            if not waiting:
                del self._sends[rank]

    def _tolerate(self, error: MPI.Exception) -> None:
        """Go on after an error that a death explains: it is told by `poll`."""
        deadly = error.Get_error_class() in self._deaths
        if not (self.survives and (deadly or self._comm.Get_failed().size)):
            raise WorldError(f"MPI failed on rank {self.rank}: {error}") from error

    def _bury(self) -> list[Lost]:
        """Acknowledge the dead, so that MPI goes on without them; return the new ones."""
        failed = self._comm.Get_failed()
        group = self._comm.Get_group()
        ranks = self._mpi.Group.Translate_ranks(failed, list(range(failed.size)), group)
        self._comm.Ack_failed(failed.size)
        died = [rank for rank in ranks if rank not in self._dead]
        self._dead.update(died)
        return [Lost(rank, "its process has died") for rank in died]

    def forget(self, rank: int) -> None:
        """Wait no longer for the packets posted for this rank."""
        if rank in self._sends:
            self._graves.append(self._sends.pop(rank))

    @property
    def flying(self) -> set[int]:
        """Ranks for which posted packets may not have left yet."""
        return set(self._sends)


class MpiFabric(PacketFabric):
    """One rank of an MPI job."""

    def __init__(self, mpi: Any, carrier: MpiCarrier, patience: float = PATIENCE) -> None:
        super().__init__(carrier)
        self._mpi = mpi
        self._patience = patience
        self._process: int | None = os.getpid()
        # Libraries take an exit without farewell for a success: all others would wait for ever.
        atexit.register(self._unclosed)

    @classmethod
    def connect(cls, patience: float = PATIENCE) -> MpiFabric:
        """Join the job that this process was started in. Once per process; raises as `load`."""
        mpi = start()
        comm = mpi.COMM_WORLD.Dup()
        comm.Set_errhandler(mpi.ERRORS_RETURN)
        comm.Barrier()
        unlink_segments()
        return cls(mpi, MpiCarrier(mpi, comm, tolerant(mpi)), patience)

    def close(self, lost: bool = False, code: int = 0) -> None:
        """End this rank's part in order; see `Fabric`."""
        if self._process is None:
            return
        if any(control is Control.EXPELLED for _, control in self.controls):
            self._await_end()
            self._end_alone()
        farewell = Farewell(self, time.monotonic(), lost, self._patience)
        while (end := farewell.step(time.monotonic())) is None:
            time.sleep(self.pause)
        self._process = None
        if end is Control.END:
            within(_PATIENCE_WITH_MPI, self._mpi.Finalize)
        elif self.undead and not any(map(self.living, range(self.rank))):
            self.abort(code or (1 if farewell.gave_up else 0))
        elif not self.survives:
            self._end_alone()  # to leave without MPI's own end is a failure there

    def _await_end(self) -> None:
        """Sleep until the others end the job, if it would end by the death of an expelled rank.

        They may go on for days. That of the launcher ends this process, too.
        """
        flush()
        while not self.survives:
            time.sleep(_PATIENCE_WITH_MPI)

    def _end_alone(self) -> NoReturn:
        """End a rank whom nobody waits for; a death is what MPI can tell the others."""
        if not self.survives:
            time.sleep(_PATIENCE_WITH_MPI)  # a death would end the others: wait for the abort
        flush()
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)

    def abort(self, code: int) -> NoReturn:
        """End all ranks of the job at once with this exit code."""
        self._process = None
        if self.survives:
            self._call_all_to_end(code)
            end_launcher_later()
        flush()
        within(_PATIENCE_WITH_MPI, lambda: self._mpi.COMM_WORLD.Abort(code))
        os._exit(code)

    def _call_all_to_end(self, code: int) -> None:
        """Do what MPI's abort leaves undone where ranks survive: the others are not told."""
        for rank in range(self.size):
            if rank != self.rank and self.living(rank):
                self.tell(rank, Halt(code))
        end = time.monotonic() + _LAST_CALL
        with suppress(TransportError):
            while self.unfinished and time.monotonic() < end:
                self.receive()
                time.sleep(self.pause)

    def _exit(self, code: int) -> NoReturn:
        self._process = None
        flush()
        os._exit(code)

    def _unclosed(self) -> None:
        """See at exit that the others learn of a rank which ends without `close`."""
        if self._process == os.getpid():
            if self.survives:
                flush()
                os.kill(os.getpid(), signal.SIGKILL)
            self.abort(1)


def load() -> Any:
    """Return mpi4py's module, with its library loaded and not started. We start and end it.

    Raises:
        ImportError: mpi4py is missing.
        RuntimeError: mpi4py finds no MPI library.
    """
    import mpi4py

    mpi4py.rc(initialize=False, finalize=False)
    from mpi4py import MPI

    return MPI


def start() -> Any:
    """Start MPI, for one thread, and return mpi4py's module."""
    mpi = load()
    if mpi.Is_finalized():
        raise WorldError(
            "MPI has ended in this process already: under a launcher a program runs one campaign; "
            "start another program for the next one"
        )
    # A rank that stands still while its job ends must not be left behind when it goes on.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not mpi.Is_initialized():  # a program may have imported mpi4py before, which starts it
        mpi.Init_thread(mpi.THREAD_SINGLE)
    return mpi


def end_launcher_later() -> None:
    """Leave a process that ends the launcher, and so all ranks, if it still waits for some.

    Where ranks survive, the launcher waits for those that stand still, even after MPI's abort.
    """
    launcher = os.getppid()
    with suppress(OSError), open(f"/proc/{launcher}/comm") as name:
        if name.read().startswith("prte") and os.fork() == 0:
            os.closerange(0, os.sysconf("SC_OPEN_MAX"))
            with suppress(OSError):
                # It takes a second one where it cannot reach its daemon on a node.
                for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                    for _ in range(_LAUNCHER_S_TIME):
                        time.sleep(0.1)
                        os.kill(launcher, 0)
                    os.kill(launcher, number)
            os._exit(0)


def library(mpi: Any) -> str:
    """Name the MPI library that mpi4py uses, and its version."""
    name, version = mpi.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def tolerant(mpi: Any) -> bool:
    """Whether ranks survive the death of another: Open MPI 5 under `mpiexec --with-ft ulfm`.

    The launcher tells the library so by this variable; nothing else has both halves of it.
    """
    name, version = mpi.get_vendor()
    asked = os.environ.get(_TOLERANCE, "0").lower() in ("1", "true", "yes")
    return asked and name == "Open MPI" and version >= (5,)


def unlink_segments() -> None:
    """Let MPI's shared memory vanish with its last user; a killed job would leave it.

    All ranks of this node must have opened it before.
    """
    with open("/proc/self/maps") as maps:
        mapped = {line.split()[-1] for line in maps}
    for path in mapped:
        if path.startswith(_SEGMENTS):
            with suppress(OSError):
                os.unlink(path)


def within(seconds: int, call: Callable[[], object]) -> None:
    """Make a call of MPI; if it hangs, the kernel ends this process."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        call()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flush() -> None:
    """Write out what Python still holds of the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
