"""Write docs/reference/settings.md from the settings themselves.

python docs/reference/make_settings.py
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pal.settings import Settings

HEAD = """# Settings

A settings file is TOML (or JSON). Unknown keys are refused with the nearest known name. Durations
are seconds, or text such as `"90 s"`, `"15 min"`, `"2 h"`, `"3 d"`; sizes are bytes, or `"4 MiB"`.
Paths are taken from the file's folder, which is also the working directory of the workers.

A file that begins with `extends = "other.toml"` is laid over that file of the same folder, and
says only what differs. Tables are joined; the options of a kernel go when another kernel takes its
place; without a `directory` it runs in `run-` and its own name. The folders in `examples/` have a
small and a cluster version of their campaign in this way.

`pal schema` prints the JSON schema, for editors.

This page is made from the settings by `docs/reference/make_settings.py`.
"""


def kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(kind(a) for a in arguments if a is not type(None))
    if str(origin) == "typing.Literal":
        return " or ".join(f'`"{value}"`' for value in arguments)
    if annotation is Any:
        return "name"
    name = getattr(origin or annotation, "__name__", str(annotation))
    return {"float": "number", "int": "whole number", "str": "text", "bool": "true or false"}.get(
        name, {"Path": "path", "dict": "table", "Annotated": "number"}.get(name, name)
    )


def default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "needed"
    if value is None:
        return "none"
    if isinstance(value, str | Path):
        return f'`"{value}"`'
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(model: type[BaseModel]) -> list[str]:
    rows = ["| key | kind | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            continue
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {kind(annotation)} | {default(field)} | {meaning} |")
    return rows


def sections(model: type[BaseModel], prefix: str = "") -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += [
                "",
                f"## `[{prefix}{name}]`",
                "",
                (section.__doc__ or "").strip(),
                "",
                *table(section),
                *sections(section, f"{prefix}{name}."),
            ]
    return lines


def page() -> str:
    lines = [HEAD, "## Top level", "", *table(Settings), *sections(Settings)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(page())
