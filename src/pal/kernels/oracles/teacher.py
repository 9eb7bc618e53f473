"""A trained model as the source of truth."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pal.building import nested
from pal.errors import ContractError, KernelImportError
from pal.kernels.oracles.parts.sanity import sane
from pal.records import Array, Batch, Label, Sample, Weights, as_batch, named, unnamed
from pal.roles import Context, Model


class Teacher:
    """A trained model, or a whole committee, whose prediction is the label.

    For distillation of a slow model into a fast one (Hinton, Vinyals, Dean, arXiv:1503.02531
    (2015)), for foundation models as oracle, and to try a campaign without its expensive oracle.
    The label is the mean of the members, or the prediction of one. It computes on the oracle's
    device and threads.

    Options:
        model: the model, a name or a table like the section [model]: { kernel, options }. Its
            options must be those it was trained with.
        weights: where its weights are: the directory of a finished campaign, whose newest are
            taken, a folder of one version in its folder models, or one .npz file of named
            arrays. None for models that bring their own.
        member: label with this member only, counted from 0; by default with the mean of all.
        fields: the predicted arrays that make the label; by default all.
        max_force: in eV/Å; labels with a larger force component are refused.

    Example:
        [oracle]
        kernel = "teacher"
        options.model = { kernel = "distance_network", options = { hidden = [64, 64] } }
        options.weights = "../first-campaign/run"
    """

    def __init__(
        self,
        context: Context,
        *,
        model: Mapping[str, Any] | str,
        weights: str | Path | None = None,
        member: int | None = None,
        fields: Sequence[str] | None = None,
        max_force: float = 50.0,
    ) -> None:
        found = {0: None} if weights is None else _weights(Path(weights))
        if member is not None:
            if member not in found:
                raise ContractError(
                    f"teacher: member = {member}; the weights are of members {sorted(found)}"
                )
            found = {member: found[member]}
        self._members = [
            _member(replace(context, role="model", index=k, count=len(found)), model, arrays)
            for k, arrays in sorted(found.items())
        ]
        self._fields = fields
        self._max_force = max_force

    def label(self, sample: Sample) -> Label:
        """Return what the model predicts, under its names.

        Raises:
            LabelFailure: not finite, or forces beyond `max_force`.
            ContractError: it does not predict one of `fields`.
        """
        labels = [named(self._predicted(member, sample)) for member in self._members]
        mean = {name: _mean([label[name] for label in labels]) for name in labels[0]}
        if self._fields is not None:
            missing = sorted(set(self._fields) - mean.keys())
            if missing:
                raise ContractError(
                    f"teacher: the model predicts {sorted(mean)}; fields asks for {missing}"
                )
            mean = {name: mean[name] for name in self._fields}
        return unnamed(sane(mean, self._max_force, "teacher"))

    def _predicted(self, member: Model, sample: Sample) -> Label:
        return as_batch(member.predict(Batch([sample])), 1, "teacher: the model")[0]


def _member(context: Context, table: Mapping[str, Any] | str, weights: Weights | None) -> Model:
    model: Model = nested("model", table, context, "teacher: model")
    if weights is None:
        return model
    try:
        model.set_weights(weights)
    except Exception as error:
        raise ContractError(
            f"teacher: the weights do not fit the model {table!r}: {type(error).__name__}: "
            f"{error}; give the kernel and options with which it was trained"
        ) from error
    return model


def _mean(arrays: Sequence[Array]) -> Array:
    """Return the mean, or of one array itself, bit for bit."""
    return np.asarray(arrays[0] if len(arrays) == 1 else np.mean(arrays, axis=0))


def _weights(path: Path) -> dict[int, Weights | None]:
    """Read the weights of each member; see the option `weights`.

    Raises:
        KernelImportError: there are none, or they cannot be read.
    """
    if path.is_file():
        return {0: _arrays(path)}
    for folder in (path, path / "models"):
        # As the runtime stores them: a folder for each version, a file for each member. A
        # version is whole where its facts are.
        versions = sorted(item.parent for item in folder.glob("v*/facts.json"))
        files = sorted((versions[-1] if versions else folder).glob("member-*.npz"))
        if files:
            return {int(file.stem.removeprefix("member-")): _arrays(file) for file in files}
    raise KernelImportError(
        f"teacher: weights = '{path}' holds none; expected the directory of a campaign, a folder "
        "with member-<k>.npz, or an .npz file"
    )


def _arrays(path: Path) -> Weights:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise KernelImportError(f"teacher: weights '{path}' cannot be read: {error}") from error
