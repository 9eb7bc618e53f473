"""Settings files that extend others: what is joined, what goes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pal.errors import SettingsError
from pal.settings import load, schema

BASE = """
name = "base"
generator = { kernel = "dynamics", walkers = 8, options = { start = "a.xyz" } }
model = { kernel = "schnet", members = 4 }
oracle = { kernel = "xtb", options = { method = "GFN2-xTB", charge = 1 } }
selector = { kernel = "deviation", options = { threshold = 0.1, every = 3 } }
evaluation = { data = "heldout.extxyz" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.toml").write_text(BASE)
    return tmp_path


def extended(folder: Path, text: str, name: str = "small.toml", base: str = "base.toml") -> Path:
    path = folder / name
    path.write_text(f'extends = "{base}"\n{text}')
    return path


def test_tables_are_joined_and_the_extending_file_wins(folder: Path) -> None:
    found = load(extended(folder, "generator.walkers = 2\noracle.options.charge = 0"))
    assert (found.name, found.generator.walkers, found.model.members) == ("base", 2, 4)
    assert found.generator.options == {"start": "a.xyz"}
    assert found.oracle.options == {"method": "GFN2-xTB", "charge": 0}
    assert found.evaluation.data == folder / "heldout.extxyz"


def test_another_kernel_does_not_inherit_the_options_of_the_first(folder: Path) -> None:
    other = 'selector = { kernel = "random", options = { threshold = 0.2 } }'
    found = load(extended(folder, other))
    assert found.selector.options == {"threshold": 0.2}
    same = 'selector = { kernel = "deviation", options = { threshold = 0.2 } }'
    assert load(extended(folder, same)).selector.options == {"threshold": 0.2, "every": 3}


def test_an_extending_file_has_a_run_directory_of_its_own(folder: Path) -> None:
    assert load(folder / "base.toml").directory == folder / "run"
    assert load(extended(folder, "")).directory == folder / "run-small"
    assert load(extended(folder, 'directory = "here"')).directory == folder / "here"


def test_files_extend_in_a_chain_and_overrides_come_last(folder: Path) -> None:
    extended(folder, "model.members = 2\ngenerator.walkers = 2", "middle.toml")
    last = extended(folder, "model.members = 3", "last.toml", "middle.toml")
    found = load(last, {"seed": 7, "generator.walkers": 5})
    assert (found.model.members, found.generator.walkers, found.seed) == (3, 5, 7)
    assert found.directory == folder / "run-last"


@pytest.mark.parametrize("base", ["../base.toml", "/tmp/base.toml", "sub/base.toml"])
def test_files_of_other_folders_are_refused(folder: Path, base: str) -> None:
    with pytest.raises(SettingsError, match="in the same folder"):
        load(extended(folder, "", base=base))


def test_a_circle_is_refused_by_its_names(folder: Path) -> None:
    extended(folder, "", "one.toml", "two.toml")
    extended(folder, "", "two.toml", "one.toml")
    with pytest.raises(SettingsError, match=r"one.toml extends two.toml extends one.toml"):
        load(folder / "one.toml")


def test_a_missing_base_is_named(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read settings file .*none\.toml"):
        load(extended(folder, "", base="none.toml"))


def test_a_mistake_in_the_extending_file_is_told_with_its_key(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"small.toml:\s+model.member: unknown setting"):
        load(extended(folder, "model.member = 2"))


def test_editors_accept_a_file_that_only_extends() -> None:
    found = schema()
    assert "extends" in found["properties"]
    assert "required" not in found
    assert "generator" in found["then"]["required"]
