"""Commands by which an operator changes a running campaign."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pal.cli.arguments import SETTINGS, overrides
from pal.cli.asking import NoWait, Samples, Where, ask, campaign_in, numbers
from pal.errors import SettingsError

if TYPE_CHECKING:
    from pal.records import Sample


class Pausable(StrEnum):
    """What may be paused."""

    GENERATOR = "generator"
    ORACLE = "oracle"
    TRAINING = "training"
    ALL = "all"


class Scalable(StrEnum):
    """What has workers. Not all can be scaled: the campaign says which, and why not."""

    GENERATOR = "generator"
    ORACLE = "oracle"
    PREDICTION = "prediction"
    TRAINING = "training"


def drop(samples: Samples, where: Where = SETTINGS, no_wait: NoWait = False) -> None:
    """Give up samples that wait for a label, or are being labelled."""
    ask(where, "drop", {"samples": numbers(samples)}, no_wait=no_wait)


def requeue(samples: Samples, where: Where = SETTINGS, no_wait: NoWait = False) -> None:
    """Have samples labelled that failed, were put under quarantine or dropped.

    They are next, with all their tries anew. One that is being labelled begins again.
    """
    ask(where, "requeue", {"samples": numbers(samples)}, no_wait=no_wait)


def label(
    sample: Annotated[int, typer.Argument(metavar="SAMPLE", help="Number of the sample.", min=0)],
    file: Annotated[
        Path,
        typer.Option(
            "--file", "-f", metavar="FILE", help="The label: .extxyz, .xyz, .npz, .npy or .json."
        ),
    ],
    where: Where = SETTINGS,
    no_wait: NoWait = False,
) -> None:
    """Give a sample its label by hand; it counts as an oracle's.

    Its arrays must have the names and shapes of the labels there are.
    """
    ask(where, "label", {"sample": sample}, _read_label(sample, file, where), no_wait)


def pause(
    kernel: Annotated[Pausable, typer.Argument(metavar="KERNEL", help="What is to rest.")],
    where: Where = SETTINGS,
    no_wait: NoWait = False,
) -> None:
    """Let walkers, labelling or training rest: generator, oracle, training or all.

    Walkers stop where they are; labels that are being made are finished, and no others started;
    trainers finish their epoch. It holds over restarts, until `pal resume`.
    """
    ask(where, "pause", {"kernel": kernel.value}, no_wait=no_wait)


def resume(
    kernel: Annotated[Pausable, typer.Argument(metavar="KERNEL", help="What is to go on.")],
    where: Where = SETTINGS,
    no_wait: NoWait = False,
) -> None:
    """Let go on what was paused: generator, oracle, training or all.

    Also labelling that has paused itself because the oracle failed too often.
    """
    ask(where, "resume", {"kernel": kernel.value}, no_wait=no_wait)


def set_(
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...", help="E.g. stop.labels=500; `none` takes a limit away."
        ),
    ],
    where: Where = SETTINGS,
    no_wait: NoWait = False,
) -> None:
    """Change settings of a running campaign: thresholds, limits, numbers of workers.

    A change holds over restarts, until the settings file says something new about it.
    """
    from pal.runtime.live import check_key

    wanted = {
        key: None if value == "none" else value
        for key, value in overrides(changes, "pal set").items()
    }
    for key in wanted:
        check_key(key)
    ask(where, "set", {"changes": wanted}, no_wait=no_wait)


def scale(
    kernel: Annotated[Scalable, typer.Argument(metavar="KERNEL", help="oracle or generator.")],
    count: Annotated[int, typer.Argument(metavar="N", help="How many from now on.", min=0)],
    where: Where = SETTINGS,
    no_wait: NoWait = False,
) -> None:
    """Start more oracles or walkers, or let some go, while the campaign runs.

    An oracle that goes finishes its label first; walkers save their states.
    """
    ask(where, "scale", {"kernel": kernel.value, "count": count}, no_wait=no_wait)


def move(
    count: Annotated[int, typer.Argument(metavar="N", help="How many.", min=1)],
    source: Annotated[Scalable, typer.Argument(metavar="FROM", help="oracle or generator.")],
    target: Annotated[Scalable, typer.Argument(metavar="TO", help="oracle or generator.")],
    where: Where = SETTINGS,
    no_wait: NoWait = False,
) -> None:
    """Let idle workers of one kernel go, and start as many of another."""
    arguments = {"count": count, "source": source.value, "target": target.value}
    ask(where, "move", arguments, no_wait=no_wait)


# Labels from files ----------------------------------------------------------------------------


def _read_label(sample: int, path: Path, where: Path) -> Sample:
    """Read a label.

    Raises:
        SettingsError: the file cannot be read, or holds the label of another structure.
    """
    readers = {".npz": _arrays, ".npy": _arrays, ".json": _plain, ".extxyz": None, ".xyz": None}
    if path.suffix not in readers:
        raise SettingsError(f"{path}: expected a file ending in {', '.join(readers)}")
    reader = readers[path.suffix]
    try:
        return _structure(sample, path, where) if reader is None else reader(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise SettingsError(f"{path} holds no label: {error}") from error


def _arrays(path: Path) -> Sample:
    import numpy as np

    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found as file:
        return {name.removeprefix("label/"): file[name] for name in file.files}


def _plain(path: Path) -> Sample:
    import numpy as np

    data: Any = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict):
        return {name: np.asarray(value, _kind(value)) for name, value in data.items()}
    return np.asarray(data, _kind(data))


def _kind(value: Any) -> Any:
    """Read whole numbers as numbers like all others: that is what labels are."""
    return str if isinstance(value, str) else float


def _structure(sample: int, path: Path, where: Path) -> Sample:
    """Read the label of one structure, and compare the structure with the sample."""
    import numpy as np

    from pal.ledger.export import read_labelled
    from pal.ledger.ledger import Ledger
    from pal.records import named

    frames = read_labelled(path)
    if len(frames) != 1:
        raise SettingsError(f"{path} holds {len(frames)} structures; expected one")
    with Ledger.open_readonly(campaign_in(where).path) as ledger:
        own = named(ledger.sample(sample))
    read = named(frames[0].sample)
    if "positions" in own:
        apart = read["positions"].shape != own["positions"].shape or not np.array_equal(
            read["numbers"], own["numbers"]
        )
        far = np.inf if apart else float(np.abs(read["positions"] - own["positions"]).max())
        if far > _NEAR:
            what = "other atoms" if apart else f"atoms up to {far:.3g} Å elsewhere"
            raise SettingsError(
                f"{path} is not the structure of sample {sample}: it has {what}; "
                f"`pal show {sample} --xyz FILE` writes the right one"
            )
    return frames[0].label


_NEAR = 1e-3
"""Å between the atoms of a file and those of its sample: what programs round away."""
