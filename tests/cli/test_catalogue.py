"""What is told of the kernels: every option is explained, every example is valid settings."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from pal.catalogue import (
    Described,
    Registered,
    check_installed,
    check_options,
    find,
    registered_kernels,
)
from pal.errors import KernelImportError, SettingsError

OURS = [kernel for kernel in registered_kernels() if kernel.package == "pal"]


def name(kernel: Registered) -> str:
    return f"{kernel.role}-{kernel.name}"


def tables(value: Any) -> Iterator[dict[str, Any]]:
    """All tables in a settings file, also those within options: filters are stages of others."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tables(part)


@pytest.mark.parametrize("kernel", OURS, ids=name)
def test_a_kernel_says_what_it_is_in_one_line(kernel: Registered) -> None:
    summary = kernel.described.summary
    assert summary.endswith(".")
    assert len(summary) <= 100


@pytest.mark.parametrize("kernel", OURS, ids=name)
def test_every_option_is_explained(kernel: Registered) -> None:
    assert [o.name for o in kernel.described.options if not o.meaning] == []
    assert [o.name for o in kernel.described.options if o.kind == "Any"] == []


@pytest.mark.parametrize("kernel", OURS, ids=name)
def test_the_example_is_valid_settings(kernel: Registered) -> None:
    named = [
        table
        for table in tables(tomllib.loads(kernel.described.example))
        if table.get("kernel") == kernel.name
    ]
    assert named, f"the example does not use {kernel.name}"
    for table in named:
        check_options(kernel.role, kernel.name, table.get("options", {}))


@pytest.mark.parametrize("kernel", OURS, ids=name)
def test_every_default_can_be_written_into_a_settings_file(kernel: Registered) -> None:
    for option in kernel.described.options:
        if option.default not in ("needed", "none"):
            tomllib.loads(f"{option.name} = {option.default}")


def test_what_is_installed_needs_no_advice() -> None:
    (xtb,) = find("xtb")
    assert (xtb.fix, xtb.extra, xtb.lacking) == ("", "xtb", ())


def test_a_missing_library_is_named_with_its_extra() -> None:
    kernel = Registered("oracle", "x", "pal.kernels.oracles.xtb:Xtb", "pal", "xtb", ("tblite",))
    assert kernel.fix == 'pip install "pal[xtb]"'


@pytest.fixture
def lonely(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model whose library is not installed."""
    source = (
        "import contextlib\nwith contextlib.suppress(ValueError):\n    import nowhere_at_all\n"
    )
    (tmp_path / "lonely.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("lonely", "lonely:Model", "pal.models")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [entry] if group == entry.group else []
    )


@pytest.mark.usefixtures("lonely")
def test_a_library_that_is_not_installed_is_missed_before_anything_starts() -> None:
    (kernel,) = find("lonely")
    assert kernel.lacking == ("nowhere_at_all",)
    with pytest.raises(KernelImportError, match=r"needs nowhere_at_all, .*: pip install"):
        check_installed("model", "lonely")


def test_the_nearest_short_names_are_offered() -> None:
    with pytest.raises(KernelImportError, match="did you mean xtb"):
        find("xbt")


def test_the_source_is_read_not_imported() -> None:
    described = Described("pal.kernels.oracles.xtb:Xtb")
    options = {option.name: option for option in described.options}
    assert options["method"].default == '"GFN2-xTB"'
    assert options["charge"].kind == "float"
    assert not Described("pal.nowhere:Nothing").readable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metod": "GFN1-xTB"}, "oracle.options.metod: unknown option of 'xtb'; .*'method'"),
        ({"max_force": "50"}, "oracle.options.max_force: expected float, got '50'"),
        ({"max_iterations": 2.5}, "oracle.options.max_iterations: expected int, got 2.5"),
    ],
)
def test_options_are_checked_before_anything_starts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_options("oracle", "xtb", options)


def test_a_missing_option_is_named_with_its_meaning() -> None:
    with pytest.raises(SettingsError, match=r"selector.options.threshold: missing.*uncertainty"):
        check_options("selector", "deviation", {})


def test_an_unknown_short_name_lists_the_known_ones() -> None:
    with pytest.raises(KernelImportError, match=r"oracle.kernel = 'xxx'.*known: .*xtb"):
        check_options("oracle", "xxx", {})


def test_kernels_of_one_s_own_are_not_checked() -> None:
    check_options("oracle", "anything:Goes", {"what": object()})
    check_options("selector", "deviation", {"threshold": 1, "field": object()})
