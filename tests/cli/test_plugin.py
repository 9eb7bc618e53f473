"""The template of a package of kernels: installed as a user would, it is there by its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's folder, and beside it, in `site`, what pip installed from it."""
    folder = tmp_path_factory.mktemp("plugin") / "project"
    run(folder.parent, "-m", "pal", "init", folder, "--template", "plugin")
    offline = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(
        folder.parent, "-m", "pip", "install", *offline, "--target", folder.parent / "site", folder
    )
    return folder


def run(site: Path, *arguments: Any) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "NO_COLOR": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_pass(plugin: Path) -> None:
    assert "2 passed" in run(plugin.parent / "site", "-m", "pytest", "-q", plugin)


def test_its_kernels_are_listed_and_described(plugin: Path) -> None:
    site = plugin.parent / "site"
    assert "Morse potential between all pairs of atoms.  installed" in run(
        site, "-m", "pal", "kernels"
    )
    page = run(site, "-m", "pal", "kernels", "morse")
    assert "of the well, in eV." in page
    assert 'kernel = "morse"' in page


def test_its_options_are_checked(plugin: Path) -> None:
    code = (
        "from pal.catalogue import check_options\n"
        "check_options('oracle', 'morse', {'depth': 4})\n"
        "try: check_options('oracle', 'morse', {'dept': 4})\n"
        "except Exception as error: print(error)\n"
    )
    assert "did you mean 'depth'?" in run(plugin.parent / "site", "-c", code)
