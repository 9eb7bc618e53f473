"""The agent of every node but the head's: it serves one campaign, and ends with it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback

from pal.errors import WorldError
from pal.runtime import wire
from pal.runtime.agent import Agent
from pal.runtime.interrupts import Interrupts
from pal.runtime.machines import HEAD
from pal.runtime.muster import join
from pal.runtime.node import Node
from pal.transport.fabric import Fabric, Letter, Lost


class Deputy:
    """Serves the head until it says goodbye, or is lost."""

    def __init__(self, fabric: Fabric, welcome: wire.Welcome) -> None:
        self._fabric = fabric
        self._silence = welcome.silence
        self._node = Node(fabric, Agent(welcome.budget, welcome.delay, welcome.slot_size))
        self._interrupts = Interrupts()
        self._heard = self._looked = time.monotonic()
        self._losses = False
        self._end: wire.Goodbye | None = None

    def run(self) -> str:
        """Serve; return why it ended without the head's leave, or nothing."""
        with self._interrupts:
            self.open()
            self._node.agent.watch(self._interrupts.fd, self._pass_on_signals)
            while self.step(self._fabric.pause):
                pass
        return self.finish()

    def open(self) -> None:
        """Get ready to start workers."""
        self._node.agent.open()

    def step(self, wait: float) -> bool:
        """Serve for at most so long; False when all is over."""
        self._node.work(wait)
        for letter in self._fabric.receive():
            self._take(letter)
        self._miss_head()
        return self._end is None

    def finish(self) -> str:
        """End what still runs, say why if it is for a reason, and hang up."""
        assert self._end is not None
        reason = self._end.reason
        self._node.kill_all()
        if reason:
            where = f"rank {self._fabric.rank} on {socket.gethostname()}"
            sys.stderr.write(f"error: the agent of {where} ends: {reason}\n")
            sys.stderr.flush()
        self._fabric.close(lost=self._losses or bool(reason), code=WorldError.exit_code)
        return reason

    def _take(self, letter: Letter | Lost) -> None:
        if isinstance(letter, Lost):
            if letter.rank == HEAD:
                self._end = wire.Goodbye(f"the head is lost: {letter.reason}")
            else:
                self._losses = True
                self._node.lose(letter.rank, letter.reason)
            return
        if letter.source == HEAD:
            self._heard = time.monotonic()
        if isinstance(letter.message, wire.Goodbye):
            self._end = self._end or letter.message
        elif not isinstance(letter.message, wire.Pulse):
            self._losses |= isinstance(letter.message, wire.Lose)
            self._node.obey(letter.source, letter.message)

    def _miss_head(self) -> None:
        """End where the head has given no sign of life for too long."""
        now = time.monotonic()
        if now - self._looked > self._silence / 2:
            self._heard = now  # this process stood still itself
        self._looked = now
        # Once its workers have ended, it only waits for leave, and the head may have much to do.
        if now - self._heard > self._silence and not self._node.closed:
            self._end = wire.Goodbye(f"the head gave no sign of life for {self._silence:.0f} s")
            self._fabric.expel(HEAD, wire.Goodbye("it has not heard of the head for too long"))

    def _pass_on_signals(self) -> None:
        for name in self._interrupts.take():
            self._fabric.send(HEAD, wire.Signalled(name))


def serve(fabric: Fabric, own: wire.Hello) -> int:
    """Serve as an agent until the campaign ends; return the exit code.

    Raises:
        WorldError: the campaign did not begin for it.
    """
    try:
        welcome = join(fabric, own)
        if welcome is None:
            fabric.close()  # the head tells the user why
            return 0
        reason = Deputy(fabric, welcome).run()
    except WorldError:
        fabric.close(lost=True)
        raise
    except BaseException as error:
        _break_down(fabric, error)
    return WorldError.exit_code if reason else 0


def _break_down(fabric: Fabric, error: BaseException) -> None:
    """Tell of a defect of the agent itself, and die so that nobody waits for it.

    MPI's fault tolerance notices a rank that is killed, and not one that exits with an error.
    """
    text = "".join(traceback.format_exception(error))
    sys.stderr.write(text)
    sys.stderr.flush()
    reason = f"{type(error).__name__}: {error}"
    fabric.send(HEAD, wire.Broken(reason, text))
    deadline = time.monotonic() + 2.0
    while fabric.backlog(HEAD) and time.monotonic() < deadline:
        fabric.receive()
    os.kill(os.getpid(), signal.SIGKILL)
