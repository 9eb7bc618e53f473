"""`pal_engine`: the published program's command line, for job scripts that call it.

Every setting of `AL_SETTING` is an option by its own name, and some have the short names of the
published program. What is given here holds before what the file says.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pal.cli.app import complain
from pal.compat.settings import NAMES
from pal.errors import PalError
from pal.transport.parting import part

SHORT = {
    "result_dir": "-rd",
    "orcl_buffer_path": "-obp",
    "ml_buffer_path": "-mbp",
    "pred_process": "-npred",
    "orcl_process": "-norcl",
    "gene_process": "-ngene",
    "ml_process": "-nml",
    "designate_task_number": "-dtn",
    "fixed_size_data": "-fsd",
    "task_per_node": "-tpn",
    "orcl_time": "-ot",
    "orcl_penalty_time": "-opt",
    "progress_save_interval": "-psi",
    "retrain_size": "-rs",
    "dynamic_oracle_list": "-dol",
    "gpu_pred": "-gp",
    "gpu_ml": "-gml",
    "usr_pkg": "-up",
}
_LISTS = ("gpu_pred", "gpu_ml")
_TEXTS = ("result_dir", "orcl_buffer_path", "ml_buffer_path")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(prog="pal_engine", description=__doc__.split("\n")[0])
    found.add_argument(
        "-sf",
        "--setting_file",
        type=Path,
        default=Path("al_setting.py"),
        help="Python file with AL_SETTING, or JSON (default: al_setting.py)",
    )
    for name in NAMES:
        several = "*" if name in _LISTS else None
        found.add_argument(SHORT[name], f"--{name}", metavar="VALUE", nargs=several)
    found.add_argument("--fresh", action="store_true", help="delete the earlier campaign first")
    found.add_argument(
        "--accept_changes",
        action="store_true",
        help="go on, even if the earlier labels are of another oracle",
    )
    found.add_argument("--quiet", action="store_true", help="show only warnings and the summary")
    return found


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line names."""
    found = {name: getattr(arguments, name) for name in NAMES}
    return {name: _value(name, text) for name, text in found.items() if text is not None}


def _value(name: str, text: Any) -> Any:
    """Read a value as Python writes it: 3, True, None, [0, 1], {...}; else it is text."""
    if name in _LISTS:
        text = f"[{','.join(text)}]" if len(text) != 1 or not text[0].startswith("[") else text[0]
    if name in _TEXTS:
        return None if text == "None" else text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign of the published interface; return the exit code."""
    from pal.cli.campaign import start

    arguments = parser().parse_args(argv)
    try:
        code = start(
            arguments.setting_file,
            given(arguments),
            fresh=arguments.fresh,
            quiet=arguments.quiet,
            accept_changes=arguments.accept_changes,
        )
    except PalError as error:
        complain(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    return code


def program() -> None:
    """The `pal_engine` program."""
    code = main()
    part(code)
    sys.exit(code)
