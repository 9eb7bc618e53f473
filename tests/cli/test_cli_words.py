"""What is typed right, and what is typed wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pal import __version__
from pal.catalogue import find
from pal.cli import app
from pal.cli.app import EXIT_CODES
from pal.cli.arguments import overrides
from pal.errors import PalError, SettingsError
from pal.simulate.command import parser

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"


def ask(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_help_tells_every_exit_code():
    output = ask("--help").output
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning[:30]}" in output


def test_every_error_has_an_exit_code_that_is_told():
    kinds = [PalError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)


def test_help_loads_nothing_heavy():
    code = (
        "import sys, pal.cli\n"
        "try: pal.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ase', 'pydantic', 'sqlite3', 'matplotlib', 'pal.runtime'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_tells_every_command_and_option():
    text = PAGE.read_text(encoding="utf-8")
    for name, command in get_command(app).commands.items():
        section = text.partition(f"\n## pal {name}\n")[2].partition("\n## ")[0]
        assert section, f"{PAGE} has no section on `pal {name}`"
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"`{option}" in section, f"{option} is missing in the section on {name}"
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning}" in text


def test_unknown_words_are_answered_with_known_ones(tmp_path):
    wrong = ask("rnu")
    assert wrong.exit_code == 2
    assert "'run'" in wrong.output
    wrong = ask("run", "--frehs")
    assert wrong.exit_code == 2
    assert "--fresh" in wrong.output


@pytest.mark.parametrize("command", ["run", "check", "status", "stop", "export"])
def test_a_missing_file_is_named(command, tmp_path):
    done = ask(command, tmp_path / "nowhere.toml")
    assert done.exit_code == 2
    assert "nowhere.toml" in done.stderr


@pytest.mark.parametrize("command", ["status", "stop", "export"])
def test_a_directory_without_a_campaign_is_an_error(command, tmp_path):
    done = ask(command, tmp_path)
    assert done.exit_code == 4
    assert "there is no campaign in" in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in ask("--debug", "status", tmp_path).stderr
    assert "Traceback" not in ask("status", tmp_path).stderr


def test_assignments_are_read_as_toml_else_as_text():
    texts = ["a.b=2", "c=[1, 2]", "d=fast", "e=2 h", 'f="2"', "g=x=y", "h={i = 1}", "j=k\nl = 3"]
    assert overrides(texts) == {
        "a.b": 2,
        "c": [1, 2],
        "d": "fast",
        "e": "2 h",
        "f": "2",
        "g": "x=y",
        "h": {"i": 1},
        "j": "k\nl = 3",
    }


@pytest.mark.parametrize("text", ["fresh", "=3", ""])
def test_an_assignment_without_a_name_or_a_value_is_refused(text):
    with pytest.raises(SettingsError, match="expected KEY=VALUE"):
        overrides([text])


@pytest.mark.parametrize("template", ["toy", "atoms"])
def test_init_writes_a_project_and_overwrites_nothing(template, tmp_path):
    folder = tmp_path / "deep" / "project"
    done = ask("init", folder, "--template", template)
    assert done.exit_code == 0, done.output
    assert {"pal.toml", "kernels.py"} <= {path.name for path in folder.iterdir()}
    (folder / "pal.toml").write_text("mine")

    again = ask("init", folder, "--template", template)

    assert again.exit_code == 2
    assert "pal.toml" in again.stderr
    assert (folder / "pal.toml").read_text() == "mine"


def test_the_schema_is_json_and_knows_the_settings(tmp_path):
    printed = json.loads(ask("schema").output)
    assert {"generator", "model", "oracle"} <= set(printed["properties"])
    assert ask("schema", "--output", tmp_path / "schema.json").exit_code == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == printed


def test_kernels_lists_short_names():
    output = ask("kernels").output
    for name in ("deviation", "random", "dynamics", "xtb", "distance_network"):
        assert name in output


@pytest.mark.parametrize("name", ["fidelities", "command"])
def test_an_example_can_be_copied_from_any_terminal(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    (kernel,) = find(name)
    lines = ask("kernels", name).output.splitlines()
    assert {f"  {line}".rstrip() for line in kernel.described.example.splitlines()} <= {*lines}


def test_bench_simulates_schedules_of_faults():
    done = ask("bench", "simulate", "--seeds", "5")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("5 schedules, ")
    assert ", 0 broken, " in done.output
    broken = ask("bench", "simulate", "--seeds", "5", "--defect", "taught_twice")
    assert broken.exit_code == 1
    assert "BROKEN, seed" in broken.output
    section = PAGE.read_text(encoding="utf-8").partition("`pal bench simulate`")[2]
    for action in parser()._actions[1:]:
        assert f"`{action.option_strings[0]}" in section


def test_version():
    assert ask("version").output == f"pal {__version__}\n"
