"""The user's four files: loading them, and keeping the objects they make over a restart."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pal.errors import KernelImportError


def load(path: Path) -> ModuleType:
    """Import a file as a module of its own name, and what lies beside it too.

    Raises:
        KernelImportError: there is no such file, or it raises.
    """
    path = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if not path.is_file():
        raise KernelImportError(f"usr_pkg names {path}, which is no file")
    for folder in (str(path.parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    # Under another name only where the interpreter uses this one for something else.
    name = path.stem if known is None else f"usr_pkg_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise KernelImportError(
            f"{path} cannot be imported: {type(error).__name__}: {error}", foreseen=False
        ) from error
    return module


def member(path: Path, name: str) -> Any:
    """Return a class or function of a user's file.

    Raises:
        KernelImportError: the file, or this name in it, is missing.
    """
    found = getattr(load(path), name, None)
    if found is None:
        raise KernelImportError(f"{path} has no {name}; the published interface needs it there")
    return found


def frozen(kernel: Any) -> bytes | None:
    """Return an object as bytes, so that it survives its process; None if that is not possible.

    Objects that hold open files or locks, for instance, begin anew in another process, as all do
    in the published program.
    """
    try:
        return pickle.dumps(kernel, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        if type(kernel) not in _TOLD:
            _TOLD.add(type(kernel))
            print(
                f"{type(kernel).__name__} cannot be pickled ({error}): after a crash or a restart "
                "it begins anew"
            )
        return None


def thawed(kernel: bytes) -> Any | None:
    """Return the object that `frozen` kept; None if its class has changed so that it cannot."""
    try:
        return pickle.loads(kernel)
    except Exception as error:
        print(f"a saved kernel cannot be taken up ({type(error).__name__}: {error}); it is new")
        return None


_TOLD: set[type] = set()
