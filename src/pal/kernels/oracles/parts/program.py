"""External programs, run in an oracle's scratch folder.

The runtime has cleaned the environment of MPI variables, and kills a worker together with its
process group when a label exceeds its deadline. Programs are therefore left in that group: they
never outlive their worker, and they may be MPI programs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pal.errors import ContractError, LabelFailure

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PARNODES",
)
"""What programs read the number of threads from; Turbomole's SMP version reads the last."""

PATIENCE = 5.0
"""Seconds that an interrupted program gets to end its own children before it is killed."""


def find_program(name: str, kernel: str, option: str = "command") -> str:
    """Return the path of an executable: one on PATH, or a path of its own.

    A relative path is made absolute here, because labels are made in another folder.

    Raises:
        ContractError: there is none; names the kernel and the option that would say where.
    """
    found = shutil.which(name)
    if found is None:
        raise ContractError(
            f"{kernel}: the program '{name}' was not found on PATH; install it, or give its "
            f"path (oracle option {option})"
        )
    return os.path.abspath(found)


def run_program(
    command: Sequence[str | Path],
    source: str,
    *,
    threads: int = 1,
    environment: Mapping[str, str] | None = None,
    stdin: Path | str | None = None,
    stdout: Path | str = "stdout.txt",
    stderr: Path | str = "stderr.txt",
) -> str:
    """Run a program in the working directory and return what it printed.

    Args:
        command: the program and its arguments.
        source: names the program in errors.
        threads: set for OpenMP, MKL and the like.
        environment: further variables; they win.
        stdin: the file it reads from; none unless given.
        stdout: the file its output goes to.
        stderr: the file its errors go to; may be the same as `stdout`.

    Raises:
        LabelFailure: it ended with an error, with its last words.
        ContractError: it cannot be started.
    """
    surroundings = {**os.environ, **thread_environment(threads), **(environment or {})}
    code = _run([str(part) for part in command], source, surroundings, stdin, stdout, stderr)
    if code:
        raise LabelFailure(f"{source} {_ending(code)}: {last_words(stdout, stderr)}")
    return text_of(stdout)


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that tell programs their number of threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def text_of(path: Path | str) -> str:
    """Read a program's output; bytes that are no UTF-8 are replaced, and no file is empty text."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def last_words(*paths: Path | str, lines: int = 12, width: int = 300) -> str:
    """Return the last lines of each of these files that says something.

    For the end of a `LabelFailure`: what a user reads first when a calculation failed.
    """
    spoken = [_tail(path, lines, width) for path in _distinct(paths)]
    return "\n".join(part for part in spoken if part) or "(it printed nothing)"


def _tail(path: Path, lines: int, width: int) -> str:
    """Read the end of a file only: some programs print gigabytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8 * lines * width))
            text = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line.rstrip()[:width] for line in text if line.strip()][-lines:])


def _distinct(paths: Iterable[Path | str]) -> list[Path]:
    return list(dict.fromkeys(Path(path) for path in paths))


def _run(
    command: list[str],
    source: str,
    environment: Mapping[str, str],
    stdin: Path | str | None,
    stdout: Path | str,
    stderr: Path | str,
) -> int:
    with ExitStack() as stack:
        given = stack.enter_context(Path(stdin or os.devnull).open("rb"))
        output = stack.enter_context(Path(stdout).open("wb"))
        same = Path(stdout) == Path(stderr)
        errors = output if same else stack.enter_context(Path(stderr).open("wb"))
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=given, stdout=output, stderr=errors
            )
        except OSError as error:
            raise ContractError(
                f"{source}: the program '{command[0]}' cannot be started: {error.strerror}"
            ) from error
        try:
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask first, so that a launcher such as mpirun ends its own children."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with code {code}"
    return f"was killed by signal {-code} ({signal.Signals(-code).name})"
