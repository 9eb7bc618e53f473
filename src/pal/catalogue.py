"""The kernels that have short names: what they are, what they take, and what they lack here.

All is read from their source. Importing PyTorch takes seconds where reading takes milliseconds,
and a kernel whose library is missing can still be told about.
"""

from __future__ import annotations

import ast
import collections.abc
import difflib
import inspect
import json
import pathlib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pal.building import METHODS, registered
from pal.errors import KernelImportError, SettingsError, nearest

_SECTION = re.compile(r"^(Options|Example|Raises|Returns|Yields):$")
_REQUIRED = "needed"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: name, type as written in the source, default as written in TOML, meaning."""

    name: str
    kind: str
    default: str
    meaning: str

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default == _REQUIRED


@dataclass(frozen=True)
class Described:
    """A kernel's class or factory function, as its source describes it."""

    target: str

    @cached_property
    def _node(self) -> ast.ClassDef | ast.FunctionDef | None:
        module, _, name = self.target.partition(":")
        file = _source(module)
        body = [] if file is None or file.suffix != ".py" else ast.parse(file.read_bytes()).body
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return node
        return None

    @property
    def readable(self) -> bool:
        """Whether the source was found."""
        return self._node is not None

    @cached_property
    def _parts(self) -> dict[str, str]:
        """The docstring's sections; what comes before the first is under ''."""
        text = "" if self._node is None else ast.get_docstring(self._node) or ""
        parts: dict[str, list[str]] = {"": []}
        current = parts[""]
        for line in text.splitlines():
            if heading := _SECTION.match(line):
                current = parts[heading[1]] = []
            else:
                current.append(line)
        return {name: inspect.cleandoc("\n" + "\n".join(part)) for name, part in parts.items()}

    @property
    def summary(self) -> str:
        """The first sentence."""
        return self._parts[""].partition("\n\n")[0].replace("\n", " ")

    @property
    def text(self) -> str:
        """What follows the first sentence, up to the options."""
        return self._parts[""].partition("\n\n")[2]

    @property
    def example(self) -> str:
        """A piece of a settings file, in TOML."""
        return self._parts.get("Example", "")

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """All options, in the order of the signature."""
        meanings = self._meanings()
        return tuple(
            Option(name, kind, default, meanings.get(name, ""))
            for name, kind, default in self._signature()
        )

    def _meanings(self) -> dict[str, str]:
        """Read lines such as `a, b: what they are`, continued by deeper lines."""
        entries: dict[str, list[str]] = {}
        names: list[str] = []
        for line in self._parts.get("Options", "").splitlines():
            entry = re.match(r"(\w+(?:, \w+)*): ?(.*)", line)
            if entry:
                names = entry[1].split(", ")
                entries |= {name: [entry[2]] for name in names}
            else:
                for name in names:
                    entries[name].append(line.strip())
        return {name: " ".join(lines).strip() for name, lines in entries.items()}

    def _signature(self) -> Iterator[tuple[str, str, str]]:
        node: Any = self._node
        if isinstance(node, ast.ClassDef):
            found = [f for f in node.body if getattr(f, "name", "") == "__init__"]
            node = found[0] if found else None
        if not isinstance(node, ast.FunctionDef):
            return
        given = node.args
        places = [*given.posonlyargs, *given.args]
        defaults = [None] * (len(places) - len(given.defaults)) + list(given.defaults)
        for argument, value in zip(
            [*places, *given.kwonlyargs], [*defaults, *given.kw_defaults], strict=True
        ):
            if argument.arg not in ("self", "context"):
                kind = "Any" if argument.annotation is None else ast.unparse(argument.annotation)
                yield argument.arg, kind, _REQUIRED if value is None else _default(value)


def _default(node: ast.expr) -> str:
    """Write a default as one would write it into a settings file, `none` where one cannot."""
    if ast.unparse(node) in ("np.inf", "math.inf"):
        return "inf"
    try:
        return _toml(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value) if isinstance(value, bool | str) else repr(value)


@dataclass(frozen=True, slots=True)
class Registered:
    """A kernel's role, short name and class.

    `extra` is what of `package` it needs, empty if no more than the package itself; `lacking`
    are imports that are missing here.
    """

    role: str
    name: str
    target: str
    package: str
    extra: str
    lacking: tuple[str, ...]

    @property
    def described(self) -> Described:
        """What its source says of it."""
        return Described(self.target)

    @property
    def fix(self) -> str:
        """What to install; empty if nothing."""
        if not self.lacking:
            return ""
        if self.extra:
            return f'pip install "{self.package}[{self.extra}]"'
        return f"pip install {' '.join(self.lacking)}"


def registered_kernels() -> list[Registered]:
    """Return all kernels that have short names, role by role."""
    return [
        _registered(role, entry)
        for role in METHODS
        for entry in sorted(metadata.entry_points(group=f"pal.{role}s"), key=lambda e: e.name)
    ]


def _registered(role: str, entry: metadata.EntryPoint) -> Registered:
    package = "pal" if entry.dist is None else entry.dist.name
    foreign = sorted(set(_foreign(entry.module, set())))
    lacking = tuple(name for name in foreign if _source(name) is None)
    extra = _extra(entry.name, foreign, metadata.requires(package) or ())
    return Registered(role, entry.name, entry.value, package, extra, lacking)


def check_installed(role: str, kernel: Any) -> None:
    """Find libraries that a kernel with a short name needs, and that are not there.

    Raises:
        KernelImportError: naming them, and what to install.
    """
    for entry in metadata.entry_points(group=f"pal.{role}s"):
        if entry.name == kernel and (found := _registered(role, entry)).lacking:
            raise KernelImportError(
                f"{role}.kernel = '{kernel}' needs {', '.join(found.lacking)}, which is not "
                f"installed here: {found.fix}"
            )


def check_options(role: str, kernel: Any, options: Mapping[str, Any]) -> None:
    """Find options that a kernel with a short name does not know, or of another type.

    Other kernels tell when they are built: their source may not be readable.

    Raises:
        SettingsError: naming the option, what came and what is expected.
        KernelImportError: no kernel has this short name.
    """
    if not isinstance(kernel, str) or ":" in kernel:
        return
    check_against(registered(role, kernel), f"{role}.options", kernel, options)


def check_against(target: str, place: str, name: str, options: Mapping[str, Any]) -> None:
    """Compare options with those that the class or function `target` describes in its source.

    `place` is where they are set, and `name` what they are for, as in "unknown option of 'xtb'".

    Raises:
        SettingsError: naming the option, what came and what is expected.
    """
    described = Described(target)
    known = {option.name: option for option in described.options}
    if not described.readable or not known:
        return
    for key, value in options.items():
        if key not in known:
            hint = nearest(key, list(known))
            raise SettingsError(f"{place}.{key}: unknown option of '{name}'; {hint}")
        _check_type(f"{place}.{key}", known[key].kind, value)
    missing = [option.name for option in known.values() if option.required]
    if lacking := [key for key in missing if key not in options]:
        raise SettingsError(
            f"{place}.{lacking[0]}: missing; '{name}' needs it: "
            f"{known[lacking[0]].meaning or known[lacking[0]].kind}"
        )


def _check_type(place: str, kind: str, value: Any) -> None:
    """Compare an option's value with its annotation, as strictly as JSON can be."""
    try:
        expected = eval(kind, _NAMES)  # an annotation out of an installed kernel's source
        text = json.dumps(value)
    except (NameError, TypeError):
        return
    try:
        TypeAdapter(expected).validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
        raise SettingsError(
            f"{place}{where}: expected {kind}, got {value!r} ({problem['msg']})"
        ) from error


_NAMES: dict[str, Any] = {
    **{name: getattr(typing, name) for name in ("Any", "Literal", "Annotated")},
    **{name: getattr(collections.abc, name) for name in ("Sequence", "Mapping", "Iterable")},
    "Path": pathlib.Path,
}
"""What an option's annotation may be made of, beside built-in types."""


def _extra(name: str, imports: Iterable[str], needs: Iterable[str]) -> str:
    """Return the extra that brings a kernel's imports: that of its own name, or the smallest."""
    extras: dict[str, set[str]] = {}
    for need in needs:
        if extra := re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", need):
            extras.setdefault(extra[1], set()).add(_normal(re.split(r"[^\w.-]", need)[0]))
    own = _normal(name)
    if own in extras:
        return own
    wanted = {_normal(part) for part in imports} & set().union(*extras.values())
    enough = [extra for extra, brings in extras.items() if wanted <= brings]
    return min(enough, key=lambda extra: len(extras[extra]), default="") if wanted else ""


def _normal(name: str) -> str:
    """Return a distribution's name as in PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _foreign(module: str, seen: set[str]) -> Iterator[str]:
    """Yield the packages that a module, and those of its own package that it imports, need."""
    seen.add(module)
    package = module.partition(".")[0]
    file = _source(module)
    if file is None:
        yield module
        return
    for name in _imports(file):
        if name.partition(".")[0] != package:
            yield name.partition(".")[0]
        elif name not in seen:
            yield from _foreign(name, seen)


def _source(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ImportError:
        return None
    return None if spec is None else Path(spec.origin or "")


def _imports(file: Path) -> Iterator[str]:
    """Yield the modules that a Python file imports, and needs, when it is itself imported."""
    if file.suffix == ".py":
        yield from _imported(ast.parse(file.read_bytes()).body)


def _imported(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Look at statements, and into `with`; what stands below `if` or `try` may be absent."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.With):
            yield from _imported(node.body)


def find(name: str) -> list[Registered]:
    """Return the kernels of this short name; one may play several roles.

    Raises:
        KernelImportError: there is none; names the nearest.
    """
    kernels = registered_kernels()
    found = [kernel for kernel in kernels if kernel.name == name]
    if not found:
        near = difflib.get_close_matches(name, {kernel.name for kernel in kernels}, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`pal kernels` lists them"
        raise KernelImportError(f"no kernel has the short name {name!r}; {hint}")
    return found
