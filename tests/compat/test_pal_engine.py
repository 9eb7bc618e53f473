"""`pal_engine`: the published program's command line."""

from __future__ import annotations

from typing import Any

import pytest
from published import Folder

from pal.cli.engine import SHORT, given, parser
from pal.compat.settings import NAMES
from pal.ledger.ledger import Ledger


def options(*argv: str) -> dict[str, Any]:
    return given(parser().parse_args(argv))


def test_every_setting_has_an_option_and_a_short_name() -> None:
    assert set(SHORT) == set(NAMES)
    assert len(set(SHORT.values())) == len(NAMES)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-npred", "3", "-norcl", "5"], {"pred_process": 3, "orcl_process": 5}),
        (["-ngene", "20", "-nml", "3"], {"gene_process": 20, "ml_process": 3}),
        (["-rd", "./results/a"], {"result_dir": "./results/a"}),
        (["-rs", "40", "-psi", "2.5"], {"retrain_size": 40, "progress_save_interval": 2.5}),
        (["-gp", "0", "1"], {"gpu_pred": [0, 1]}),
        (["-gml", "[2,3]"], {"gpu_ml": [2, 3]}),
        (["-gp"], {"gpu_pred": []}),
        (["--orcl_buffer_path", "None"], {"orcl_buffer_path": None}),
        (["--dynamic_oracle_list", "True"], {"dynamic_oracle_list": True}),
        (["-tpn", "{'oracle': [1, 1]}"], {"task_per_node": {"oracle": [1, 1]}}),
        (["--gene_process=7"], {"gene_process": 7}),
        ([], {}),
    ],
)
def test_options_are_read_as_settings(argv: list[str], expected: dict[str, Any]) -> None:
    assert options(*argv) == expected


def test_it_runs_what_the_command_line_says(watched: Folder) -> None:
    done = watched.run(
        *("pal_engine", "-sf", "al_setting.py", "-rd", "./other", "-ngene", "2", "-norcl", "1")
    )
    assert done.returncode == 0, done.stderr
    other = watched.path / "other"
    assert sorted(path.name for path in other.glob("heard_*.npy")) == [
        "heard_4.npy",
        "heard_5.npy",
    ]
    with Ledger.open_readonly(other / "pal") as ledger:
        assert ledger.labelled_ids()


def test_what_is_wrong_is_said_with_the_exit_code_of_settings(watched: Folder) -> None:
    done = watched.run("pal_engine", "-ngene", "many")
    assert done.returncode == 2
    assert "gene_process: " in done.stderr
    done = watched.run("pal_engine", "-sf", "nothing.py")
    assert done.returncode == 2
    assert "cannot read settings file nothing.py" in done.stderr
