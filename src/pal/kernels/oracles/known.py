"""Labels that somebody made before, and new ones for all other samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pal.building import nested
from pal.errors import LabelFailure
from pal.kernels.atoms import atomic, start_frames, to_label, to_sample
from pal.records import Label, Sample
from pal.roles import Context, Oracle


class Known:
    """Labels from a file for the samples in it, from another oracle for all others.

    For a data set that was calculated before: its samples begin the campaign through
    `initial.kernel = "frames"`, which reads the same file, and cost nothing again. So the models
    are trained on it before the walkers start, and what it taught stands in the ledger beside
    the rest. A sample is known only if it is the same to the last digit.

    Options:
        data: file of labelled geometries, of any format in which ASE finds energies and forces,
            such as extended xyz.
        oracle: the oracle of what is not in it, a name or a table { kernel, options }; without
            one, such samples are refused.

    Example:
        [oracle]
        kernel = "known"

        [oracle.options]
        data = "pre-training.extxyz"
        oracle = { kernel = "pyscf", options = { functional = "PBE0" } }

        [initial]
        kernel = "frames"
        options = { start = "pre-training.extxyz" }
    """

    def __init__(
        self,
        context: Context,
        *,
        data: Path | str,
        oracle: str | Mapping[str, Any] | None = None,
    ) -> None:
        frames = start_frames(data, "known", "data")
        self._labels = {_key(to_sample(atoms)): to_label(atoms) for atoms in frames}
        self._data = data
        self._other: Oracle | None = (
            None if oracle is None else nested("oracle", oracle, context, "known: oracle")
        )

    def label(self, sample: Sample) -> Label:
        """Return the known label, or ask.

        Raises:
            LabelFailure: the sample is not known and there is nobody to ask, or who was asked
                raised it.
        """
        known = self._labels.get(_key(sample))
        if known is not None:
            return known
        if self._other is None:
            raise LabelFailure(
                f"known: {self._data} does not hold this sample; name who labels others "
                "(oracle option oracle)"
            )
        return self._other.label(sample)

    def get_state(self) -> Any:
        """Return the state of the other oracle."""
        other: Any = self._other
        return other.get_state() if hasattr(other, "get_state") else None

    def set_state(self, state: Any) -> None:
        """Give it back."""
        other: Any = self._other
        if state is not None and hasattr(other, "set_state"):
            other.set_state(state)


def _key(sample: Sample) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((name, array.tobytes()) for name, array in atomic(sample).items()))
