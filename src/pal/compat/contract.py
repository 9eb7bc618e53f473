"""What methods of the published interface must return; each check names the method.

The published interface moves 1-D numpy arrays and flags. NumPy's scalars pass for Python's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pal.errors import InterfaceError
from pal.records import Array


def array(value: Any, method: str, what: str) -> Array:
    """Return a 1-D array of numbers.

    Raises:
        InterfaceError: it is something else.
    """
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biufc":
        return value
    raise InterfaceError(
        f"{method} returned {_described(value)} as {what}; expected a 1-D numpy.ndarray of numbers"
    )


def arrays(value: Any, method: str, what: str, length: int | None = None) -> list[Array]:
    """Return a list of 1-D arrays, `length` of them if given.

    Raises:
        InterfaceError: it is something else, or of another length.
    """
    if isinstance(value, np.ndarray) and value.ndim == 2:
        value = list(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InterfaceError(
            f"{method} returned {_described(value)} as {what}; expected a list of 1-D "
            "numpy.ndarrays"
        )
    if length is not None and len(value) != length:
        raise InterfaceError(
            f"{method} returned {len(value)} arrays as {what}; expected {length}, one for each "
            "of the inputs and in their order"
        )
    for place, item in enumerate(value):
        if type(item) is not np.ndarray or item.ndim != 1 or item.dtype.kind not in "biufc":
            array(item, method, f"{what}[{place}]")
    return list(value)


def flag(value: Any, method: str) -> bool:
    """Return a bool.

    Raises:
        InterfaceError: it is something else.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InterfaceError(f"{method} returned {_described(value)} as stop_run; expected a bool")


def pair(value: Any, method: str, what: str) -> tuple[Any, Any]:
    """Return the two values of a method that returns two.

    Raises:
        InterfaceError: there are not two.
    """
    if isinstance(value, tuple | list) and len(value) == 2:
        return value[0], value[1]
    raise InterfaceError(f"{method} returned {_described(value)}; expected two values, {what}")


def integer(value: Any, method: str) -> int:
    """Return an int.

    Raises:
        InterfaceError: it is something else.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise InterfaceError(f"{method} returned {_described(value)}; expected an int")


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r} ({type(value).__name__})" if np.isscalar(value) else type(value).__name__
