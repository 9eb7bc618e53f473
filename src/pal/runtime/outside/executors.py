"""Executors: how one is made in the broker, and what may be expected of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pal.building import KernelSpec, check_names
from pal.errors import KernelImportError
from pal.roles import Context


class Executor(Protocol):
    """What PAL uses of an executor: the standard library's contract.

    It may have two more attributes, tuples of exception classes: `losses`, with which a future
    ends that lost its worker, and `breakages`, after which the executor itself is of no more use,
    so that another one gets what it had not done.
    """

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Have a function called, some time, somewhere."""
        ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Give everything back."""
        ...


def losses(executor: Executor) -> tuple[type[BaseException], ...]:
    """Return the exceptions of a future whose worker is gone, through no fault of its function."""
    more: tuple[type[BaseException], ...] = getattr(executor, "losses", ())
    return (CancelledError, *breakages(executor), *more)


def breakages(executor: Executor) -> tuple[type[BaseException], ...]:
    """Return the exceptions that say that the whole executor is broken."""
    more: tuple[type[BaseException], ...] = getattr(executor, "breakages", ())
    return (BrokenExecutor, *more)


def cancel(future: Future[Any]) -> None:
    """Cancel what has not begun; Parsl's futures cannot."""
    with suppress(NotImplementedError):
        future.cancel()


def make_executor(spec: KernelSpec, context: Context) -> Executor:
    """Make the executor; a parameter named `context` of its factory gets the context.

    Raises:
        KernelImportError: it cannot be imported or made, or is no executor.
    """
    value = spec.load()
    try:
        if not callable(getattr(value, "submit", None)) or inspect.isclass(value):
            value = _call(value, spec, context)
    except Exception as error:
        raise KernelImportError(
            f"oracle.executor {spec.target} cannot be made with options {dict(spec.options)}: "
            f"{type(error).__name__}: {error}",
            foreseen=False,
        ) from error
    missing = [name for name in ("submit", "shutdown") if not callable(getattr(value, name, None))]
    if missing:
        raise KernelImportError(
            f"oracle.executor {spec.target} gave {type(value).__name__}, which has no method "
            f"{', '.join(missing)}; expected an executor like those of concurrent.futures"
        )
    executor: Executor = value
    return executor


def _call(factory: Any, spec: KernelSpec, context: Context) -> Any:
    options = dict(spec.options)
    with suppress(ValueError, TypeError):  # what has no signature takes what it takes
        parameters = inspect.signature(factory).parameters
        check_names(parameters, options)
        if "context" in parameters:
            options["context"] = context
    return factory(**options)


def folder_of_logs(directory: Path) -> Path:
    """Where an executor keeps its own logs in a run directory."""
    folder = directory / "logs" / "executor"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
