"""What every label goes through, in the job and beyond: a fresh folder, a check, an account."""

from __future__ import annotations

import os
import shutil
import socket
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import ContractError, Failure, NotFiniteError, foreseen
from pal.records import Label, Sample, named
from pal.roles import Oracle


def check_label(label: Any) -> Label:
    """Return a label if it is arrays of finite numbers.

    Raises:
        ContractError, NotFiniteError: says what came.
    """
    if not isinstance(label, np.ndarray | Mapping) or not len(label):
        raise ContractError(
            f"label returned {type(label).__name__}; expected a numpy array or a mapping of "
            "names to arrays, not empty"
        )
    for name, array in named(label).items():
        if array.dtype.kind not in "biufcSU":
            raise ContractError(f"label returned {name or 'an array'} of dtype {array.dtype}")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            count = int(np.count_nonzero(~np.isfinite(array)))
            raise NotFiniteError(
                f"label returned {name or 'an array'} of shape {array.shape} with {count} "
                "entries that are NaN or infinite"
            )
    return label if isinstance(label, np.ndarray) else named(label)


def calculate(oracle: Oracle, sample: Sample, scratch: Path) -> Label:
    """Have a sample labelled with a fresh scratch folder as the working directory.

    Raises:
        ContractError, NotFiniteError: what came is no label.
        Exception: whatever the oracle raises.
    """
    home = Path.cwd()
    clear(scratch)
    scratch.mkdir(parents=True)
    os.chdir(scratch)
    try:
        return check_label(oracle.label(sample))
    finally:
        os.chdir(home)
        clear(scratch)


def clear(folder: Path) -> None:
    """Remove a scratch folder, whatever is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def described(role: str, index: int, error: BaseException, **more: Any) -> Failure:
    """Describe an exception of a kernel, as it travels and as the ledger keeps it."""
    return Failure(
        role,
        index,
        type(error).__name__,
        str(error),
        host=more.pop("host", socket.gethostname()),
        traceback="" if foreseen(error) else "".join(traceback.format_exception(error)),
        **more,
    )


def last_words(log: Path) -> str:
    """Return the end of what a process that died had printed, for its failure's traceback."""
    try:
        words = log.read_bytes()[-2000:].decode(errors="replace")
    except OSError:
        return ""
    return f"last words:\n{words}" if words.strip() else ""
