"""From a name in the settings, or a Python object, to a kernel that plays its role."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from pal.errors import ContractError, KernelImportError, PalError, nearest
from pal.records import Batch, Dataset, Metrics, Weights
from pal.roles import Committee, Context, Ensemble, Generator, Model

METHODS: Mapping[str, tuple[str, ...]] = {
    "generator": ("step",),
    "model": ("predict",),
    "oracle": ("label",),
    "selector": ("select",),
    "initial": ("__iter__",),
}
TRAINING_METHODS = ("train", "get_weights", "set_weights")
ENSEMBLE_METHODS = ("step", "get_state", "set_state")


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """How a worker builds a kernel: a name to import, or a pickled Python object.

    `paths` are added to the worker's import path: the settings file's folder, usually.
    """

    role: str
    target: str
    pickled: bytes = b""
    options: Mapping[str, Any] = field(default_factory=dict)
    paths: tuple[str, ...] = ()

    @property
    def setting(self) -> str:
        """The setting that names it."""
        special = {"executor": "oracle.executor", "screen": "selector.reject"}
        return special.get(self.role, f"{self.role}.kernel")

    @classmethod
    def of(
        cls, role: str, kernel: Any, options: Mapping[str, Any], paths: Sequence[str] = ()
    ) -> KernelSpec:
        """Describe a kernel given in settings or in Python."""
        if isinstance(kernel, str):
            return cls(role, kernel, b"", options, tuple(paths))
        name = getattr(kernel, "__qualname__", type(kernel).__qualname__)
        try:
            pickled = cloudpickle.dumps(kernel)
        except Exception as error:
            raise KernelImportError(
                f"{role} {name} cannot be sent to a worker process: {error}; "
                "give a class, or an object that can be pickled"
            ) from error
        return cls(role, name, pickled, options, tuple(paths))

    def load(self) -> Any:
        """Return the class, function or object.

        Raises:
            KernelImportError: it cannot be imported; says where and why.
        """
        for path in reversed(self.paths):
            if path not in sys.path:
                sys.path.insert(0, path)
        if self.pickled:
            return self._unpickled()
        target = self.target if ":" in self.target else registered(self.role, self.target)
        module, _, name = target.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for part in name.split("."):
                value = getattr(value, part)
        except Exception as error:
            raise KernelImportError(
                f"{self.setting} = {self.target!r} cannot be imported: "
                f"{type(error).__name__}: {error}; expected 'package.module:Class', importable "
                f"from {', '.join(self.paths) or 'the installed packages'}",
                foreseen=False,
            ) from error
        return value

    def _unpickled(self) -> Any:
        try:
            return pickle.loads(self.pickled)
        except Exception as error:
            raise KernelImportError(
                f"{self.role} {self.target} cannot be made in this process: "
                f"{type(error).__name__}: {error}; put it, and what it needs, into a module that "
                f"can be imported from {', '.join(self.paths) or 'the installed packages'}"
            ) from error

    def build(self, context: Context) -> Any:
        """Return a kernel ready for its role.

        Raises:
            KernelImportError: it cannot be imported or built.
            ContractError: it lacks a method of its role.
        """
        value = self.load()
        if inspect.isclass(value) or (inspect.isroutine(value) and self.role != "oracle"):
            value = self._call(value, context)
        elif inspect.isroutine(value):
            value = FunctionOracle(value)
        missing = [m for m in METHODS.get(self.role, ()) if not callable(getattr(value, m, None))]
        if missing:
            raise ContractError(
                f"{self.role} {self.target} has no method {', '.join(missing)}; see pal.roles"
            )
        return value

    def _call(self, factory: Any, context: Context) -> Any:
        options = dict(self.options)
        try:
            parameters = inspect.signature(factory).parameters
            check_names(parameters, options)
            if "context" in parameters:
                options["context"] = context
            return factory(**options)
        except PalError as error:
            raise KernelImportError(
                f"{self.role} {self.target} cannot be built: {error}",
                foreseen=getattr(error, "foreseen", True),
            ) from error
        except Exception as error:
            raise KernelImportError(
                f"{self.role} {self.target} cannot be built with options "
                f"{dict(self.options)}: {type(error).__name__}: {error}",
                foreseen=False,
            ) from error


def check_names(
    parameters: Mapping[str, inspect.Parameter], options: Iterable[str], place: str = ""
) -> None:
    """Compare the options given with those that a kernel takes and needs.

    `place` begins the message: "biased_dynamics: dynamics: ".

    Raises:
        ContractError: naming the first that is unknown, or missing.
    """
    kinds = inspect.Parameter
    if any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        return
    known = [n for n, p in parameters.items() if n != "context" and p.kind in _BY_NAME]
    for name in options:
        if name not in known:
            raise ContractError(f"{place}unknown option '{name}'; {nearest(name, known)}")
    for name in known:
        if parameters[name].default is kinds.empty and name not in options:
            raise ContractError(f"{place}the option '{name}' is missing")


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def nested(role: str, table: Any, context: Context, place: str) -> Any:
    """Build a kernel that is an option of another: a name, or a table like a settings' section.

    `table` is "name", or {"kernel": "name", "options": {...}}; Python objects do as kernels, too.
    `place` names the option in errors, e.g. "pipeline: stages[1]".

    Raises:
        ContractError: the table has other keys; the kernel lacks a method of its role.
        KernelImportError: it cannot be imported or built.
    """
    if not isinstance(table, Mapping):
        return KernelSpec.of(role, table, {}).build(context)
    if "kernel" not in table or not table.keys() <= {"kernel", "options"}:
        raise ContractError(
            f"{place}: expected a kernel's name or {{ kernel = ..., options = {{...}} }}; "
            f"got the keys {sorted(table)}"
        )
    return KernelSpec.of(role, table["kernel"], table.get("options", {})).build(context)


def registered(role: str, name: str) -> str:
    """Return 'module:Class' for a short name registered as an entry point.

    Raises:
        KernelImportError: no such name; lists the known ones.
    """
    entries = importlib.metadata.entry_points(group=f"pal.{role}s")
    for entry in entries:
        if entry.name == name:
            return entry.value
    known = sorted(entry.name for entry in entries)
    near = difflib.get_close_matches(name, known, n=1)
    raise KernelImportError(
        f"{role}.kernel = {name!r} is no known short name (known: {', '.join(known) or 'none'}); "
        + (f"did you mean '{near[0]}'? Or " if near else "")
        + "write 'package.module:Class' for your own"
    )


class FunctionOracle:
    """A plain function as an oracle."""

    def __init__(self, function: Any) -> None:
        self.label = function


class Members:
    """A committee of models called one after the other."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models

    def predict(self, samples: Batch) -> list[Any]:
        """Ask each member."""
        return [model.predict(samples) for model in self._models]

    def train(self, datasets: Sequence[Dataset]) -> Iterator[Sequence[Metrics]]:
        """Let each member do an epoch in turn, until none has anything more to learn."""
        running = [
            iter(model.train(dataset))
            for model, dataset in zip(self._models, datasets, strict=True)
        ]
        last: list[Metrics] = [{} for _ in running]
        active = set(range(len(running)))
        while active:
            for index in sorted(active):
                try:
                    last[index] = next(running[index])
                except StopIteration:
                    active.discard(index)
            if active:
                yield tuple(last)

    def get_weights(self) -> list[Weights]:
        """Return each member's weights."""
        return [model.get_weights() for model in self._models]

    def set_weights(self, member: int, weights: Weights) -> None:
        """Replace one member's weights."""
        self._models[member].set_weights(weights)

    def get_state(self) -> list[Any]:
        """Return the state of each member that has one."""
        return [m.get_state() if hasattr(m, "get_state") else None for m in self._models]

    def set_state(self, state: Sequence[Any]) -> None:
        """Give each member its state back."""
        for model, part in zip(self._models, state, strict=True):
            if part is not None and hasattr(model, "set_state"):
                model.set_state(part)


def build_committee(spec: KernelSpec, contexts: Sequence[Context], training: bool) -> Committee:
    """Build the members and join them, in one batched committee where the model can.

    Raises:
        ContractError: the model lacks a method it needs here.
    """
    models = [spec.build(context) for context in contexts]
    needed = TRAINING_METHODS if training else ()
    missing = [method for method in needed if not callable(getattr(models[0], method, None))]
    if missing:
        raise ContractError(
            f"model {spec.target} has no method {', '.join(missing)}, which training needs; "
            "see pal.roles.Model, or set model.train = false"
        )
    return joined(models)


def joined(models: Sequence[Model]) -> Committee:
    """Return models of one class as one committee, batched where the class can."""
    join = getattr(type(models[0]), "committee", None)
    committee: Committee = join(models) if join is not None else Members(models)
    return committee


def build_ensemble(walkers: Sequence[Generator]) -> Ensemble | None:
    """Join several walkers of one class that offers it; None: each moves by itself.

    Raises:
        ContractError: the class, or its ensemble, lacks a method it needs here.
    """
    kinds = {type(walker) for walker in walkers}
    join = getattr(type(walkers[0]), "ensemble", None) if len(kinds) == 1 < len(walkers) else None
    if join is None:
        return None
    ensemble: Ensemble = join(walkers)
    for owner in (walkers[0], ensemble):
        lacking = [m for m in ENSEMBLE_METHODS if not callable(getattr(owner, m, None))]
        if lacking:
            raise ContractError(
                f"{type(owner).__name__} has no method {', '.join(lacking)}, which walkers that "
                "move together need; see pal.roles.Ensemble"
            )
    return ensemble
