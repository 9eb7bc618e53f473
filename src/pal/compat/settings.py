"""`al_setting.py`: the settings of the published interface (SI S3), read as PAL's own.

Every key is honoured, or refused with a reason. What they become is plain data like that of a
settings file, so that `pal convert` can write it down.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pal.errors import SettingsError, nearest
from pal.settings import Settings, merged, parse

CONTROLLERS = 2
"""Ranks 0 and 1: the two controllers of the published program."""

QUEUE = 10_000
"""Inputs that may wait for an oracle. The published buffer has no limit; this one says so when it
is full."""

COUNTS = ("pred_process", "orcl_process", "gene_process", "ml_process")
_FILES = ("generator", "model", "oracle", "utils")
_TASKS = ("prediction", "generator", "oracle", "learning")


@dataclass(frozen=True, slots=True)
class Published:
    """Checked settings of the published interface. Paths are absolute, times in seconds."""

    result_dir: Path
    usr_pkg: dict[str, Path]
    pred_process: int
    gene_process: int
    orcl_process: int = 0
    ml_process: int = 0
    orcl_buffer_path: Path | None = None
    ml_buffer_path: Path | None = None
    designate_task_number: bool = False
    task_per_node: dict[str, list[int] | None] = field(default_factory=dict)
    fixed_size_data: bool = True
    orcl_time: float = 0.0
    orcl_penalty_time: float = 0.0
    progress_save_interval: float = 60.0
    retrain_size: int = 20
    dynamic_oracle_list: bool = False
    gpu_pred: tuple[int, ...] = ()
    gpu_ml: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Processes of the published program, its two controllers among them."""
        kernels = self.pred_process + self.orcl_process + self.gene_process + self.ml_process
        return CONTROLLERS + kernels


def is_published(path: Path) -> bool:
    """Whether a settings file is one of the published interface: by its name or its keys."""
    if path.suffix == ".py":
        return True
    if path.suffix != ".json":
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and ("usr_pkg" in found or "AL_SETTING" in found)


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[Settings, Published]:
    """Read a file with `AL_SETTING` as PAL's settings.

    `overrides`: names of the published settings, or dotted ones of PAL's ("generator.hosts").

    Raises:
        SettingsError: naming the file, the key and the fix.
    """
    published = published_of(path, overrides)
    own = {name: value for name, value in (overrides or {}).items() if "." in name}
    return parse(merged(native(published), own), str(path)), published


def published_of(path: Path, overrides: Mapping[str, Any] | None = None) -> Published:
    """Read and check a file with `AL_SETTING`; dotted overrides are not for it.

    Raises:
        SettingsError: every problem on a line of its own.
    """
    given = {name: value for name, value in (overrides or {}).items() if "." not in name}
    return check({**_contents(path), **given}, path)


def base_of(path: Path, files: Mapping[str, Any]) -> Path:
    """Return the folder that relative paths mean: where the program is started, or the file's.

    The published program takes them from where it is started. Whoever names a settings file from
    elsewhere means its folder; where the user's files lie tells which it is.
    """
    here = Path.cwd()
    found = all((here / str(name)).is_file() for name in files.values())
    return here if found and files else path.resolve().parent


def _contents(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
            found = found.get("AL_SETTING", found) if isinstance(found, dict) else found
        else:
            found = runpy.run_path(str(path)).get("AL_SETTING")
    except OSError as error:
        raise SettingsError(f"cannot read settings file {path}: {error.strerror}") from error
    except Exception as error:
        raise SettingsError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path} has no dictionary AL_SETTING")
    return dict(found)


def check(given: Mapping[str, Any], path: Path) -> Published:
    """Check settings as they stand in `AL_SETTING`.

    Raises:
        SettingsError: every problem on a line of its own.
    """
    known = {name: value for name, value in given.items() if name != "dynamic_orcale_list"}
    if "dynamic_orcale_list" in given:
        known.setdefault("dynamic_oracle_list", given["dynamic_orcale_list"])
    problems: list[str] = []
    values: dict[str, Any] = {}
    files = known.get("usr_pkg")
    base = base_of(path, files if isinstance(files, Mapping) else {})
    for name, value in known.items():
        reader = _READERS.get(name)
        if reader is None:
            problems.append(f"{name}: unknown setting; {nearest(name, NAMES)}")
            continue
        try:
            values[name] = reader(value, base)
        except (TypeError, ValueError) as error:
            problems.append(f"{name}: {error} (got {value!r})")
    missing = [name for name in _NEEDED if name not in known]
    problems += [f"{name}: missing" for name in missing]
    if not problems:
        problems = _misfits(values)
    if problems:
        raise SettingsError(f"{path}:\n  " + "\n  ".join(problems))
    return Published(**values)


def _misfits(values: Mapping[str, Any]) -> list[str]:
    """Say what does not fit together."""
    wanted = ["model", "generator", "utils"] + ["oracle"] * bool(values.get("orcl_process"))
    files = values["usr_pkg"]
    found = [f"usr_pkg: there is no {name!r}" for name in wanted if name not in files]
    found += [f"usr_pkg: {files[name]} is no file" for name in files if not files[name].is_file()]
    found += [
        f"{name}: needs at least 1"
        for name in ("pred_process", "gene_process")
        if not values[name]
    ]
    if values.get("ml_process") and not values.get("orcl_process"):
        found.append(
            "ml_process: trainers need labels, and orcl_process is 0; set ml_process to 0"
        )
    return found


# How each setting is read -----------------------------------------------------------------------


def _whole(value: Any, _: Path) -> int:
    if isinstance(value, bool) or int(value) != value or value < 0:
        raise ValueError("expected a whole number, 0 or more")
    return int(value)


def _seconds(value: Any, _: Path) -> float:
    if isinstance(value, bool) or float(value) < 0:
        raise ValueError("expected seconds, 0 or more")
    return float(value)


def _switch(value: Any, _: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected True or False")
    return value


def _folder(value: Any, base: Path) -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError("expected a path")
    return (base / value).resolve()


def _optional(value: Any, base: Path) -> Path | None:
    return None if value in (None, "None") else _folder(value, base)


def _modules(value: Any, base: Path) -> dict[str, Path]:
    if not isinstance(value, Mapping) or not value.keys() <= set(_FILES):
        raise ValueError(f"expected paths by the names {', '.join(_FILES)}")
    return {name: _folder(path, base) for name, path in value.items()}


def _indices(value: Any, base: Path) -> tuple[int, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError("expected a list of GPU indices, [] for none")
    return tuple(_whole(item, base) for item in value)


def _tasks(value: Any, base: Path) -> dict[str, list[int] | None]:
    if not isinstance(value, Mapping) or not value.keys() <= set(_TASKS):
        raise ValueError(f"expected lists by the names {', '.join(_TASKS)}")
    return {
        name: None if counts is None else [_whole(count, base) for count in counts]
        for name, counts in value.items()
    }


_READERS: dict[str, Callable[[Any, Path], Any]] = {
    "result_dir": _folder,
    "orcl_buffer_path": _optional,
    "ml_buffer_path": _optional,
    **dict.fromkeys(COUNTS, _whole),
    "designate_task_number": _switch,
    "fixed_size_data": _switch,
    "task_per_node": _tasks,
    "orcl_time": _seconds,
    "orcl_penalty_time": _seconds,
    "progress_save_interval": _seconds,
    "retrain_size": _whole,
    "dynamic_oracle_list": _switch,
    "gpu_pred": _indices,
    "gpu_ml": _indices,
    "usr_pkg": _modules,
}
NAMES = tuple(_READERS)
"""All settings of the published interface."""

_NEEDED = ("result_dir", "usr_pkg", "pred_process", "gene_process")


# What they become -------------------------------------------------------------------------------


def native(given: Published) -> dict[str, Any]:
    """Return the same run as plain data of PAL's settings.

    Raises:
        SettingsError: what `task_per_node` says cannot be done.
    """
    folder, files = str(given.result_dir), {k: str(v) for k, v in given.usr_pkg.items()}
    first = CONTROLLERS
    ranks = {
        "prediction": first,
        "generator": first + given.pred_process,
        "oracle": first + given.pred_process + given.gene_process,
        "learning": given.total - given.ml_process,
    }
    trainers = min(given.ml_process, given.pred_process)
    data: dict[str, Any] = {
        "name": given.result_dir.name,
        "directory": str(given.result_dir / "pal"),
        "save_interval": given.progress_save_interval,
        "generator": {
            "kernel": "pal.compat.kernels:Generator",
            "walkers": given.gene_process,
            "options": {
                "module": files["generator"],
                "result_dir": folder,
                "rank": ranks["generator"],
                "save_interval": given.progress_save_interval,
            },
        },
        "model": {
            "kernel": "pal.compat.kernels:Model",
            "members": given.pred_process,
            "predictors": _predictors(given),
            "replicas": 1,
            "trainers": max(1, trainers),
            "train": trainers > 0,
            "weights_every": 1,
            "device": "all",
            "train_device": "all",
            "options": {
                "module": files["model"],
                "result_dir": folder,
                "rank": ranks["prediction"],
                "train_rank": ranks["learning"],
                "gpu_pred": list(given.gpu_pred),
                "gpu_ml": list(given.gpu_ml),
                "shared": 0 < trainers < given.pred_process,
            },
        },
        "oracle": _oracle(given, files, folder, ranks["oracle"]),
        "selector": {
            "kernel": "pal.compat.kernels:Selector",
            "rerank": given.dynamic_oracle_list,
            "options": {"module": files["utils"], "adjust": given.dynamic_oracle_list},
        },
        "exchange": {"batching": "all"},
        "initial": {"labels": 0},
        "queue": {"capacity": QUEUE, "when_full": "drop_new"},
        "training": {"retrain_size": max(1, given.retrain_size)},
        "stop": {"final_training": 0.0},
    }
    placement = _placement(given)
    return {**data, "placement": placement} if placement else data


def _oracle(given: Published, files: Mapping[str, str], folder: str, rank: int) -> dict[str, Any]:
    if not given.orcl_process:
        return {"kernel": "pal.compat.kernels:Oracle", "enabled": False}
    return {
        "kernel": "pal.compat.kernels:Oracle",
        "workers": given.orcl_process,
        "options": {
            "module": files["oracle"],
            "result_dir": folder,
            "rank": rank,
            "count": given.orcl_process,
            "total": given.total,
        },
    }


def _predictors(given: Published) -> int:
    """How many processes predict: one for each model where there are cores for them.

    On few cores the exchange itself holds all of them, which spares two messages a round. Inputs
    of several sizes must reach a model in one list, as only the exchange can hand them over.
    """
    fixed = given.designate_task_number and given.task_per_node.get("prediction") is not None
    if fixed:
        return given.pred_process
    roomy = (os.cpu_count() or 1) >= 2 * given.pred_process
    return given.pred_process if given.fixed_size_data and roomy else 1


def _placement(given: Published) -> dict[str, Any]:
    """Return the nodes' shares where the settings designate them."""
    if not given.designate_task_number:
        return {}
    counts = {
        "prediction": given.pred_process,
        "generator": given.gene_process,
        "oracle": given.orcl_process,
        "learning": given.ml_process,
    }
    found: dict[str, Any] = {}
    for name, tasks in given.task_per_node.items():
        if tasks is None:
            continue
        if sum(tasks) != counts[name]:
            raise SettingsError(
                f"task_per_node: {name} = {tasks} sums to {sum(tasks)}, but there are "
                f"{counts[name]} processes of it"
            )
        if name == "prediction" and sum(map(bool, tasks)) > 1:
            raise SettingsError(
                f"task_per_node: prediction = {tasks}: PAL keeps the models that predict together "
                "on one node, where they share memory with the controller; put all of them on one"
            )
        found["training" if name == "learning" else name] = tasks
    return found
