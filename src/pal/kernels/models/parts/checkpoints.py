"""Weights from a file, for a model that does not start from scratch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pal.errors import KernelImportError
from pal.records import Array


def read_weights(kernel: str, path: Path, index: int) -> dict[str, Array]:
    """Read named arrays from an npz file, such as a campaign's `models/v000012/member-0.npz`.

    If `path` is a folder of them, member `index` takes its own, or where there are fewer the one
    that is its turn.

    Raises:
        KernelImportError: naming `kernel` and the file, which cannot be read.
    """
    if path.is_dir():
        files = sorted(path.glob("member-*.npz"), key=lambda file: (len(file.name), file.name))
        if not files:
            raise KernelImportError(
                f"{kernel}: checkpoint = '{path}' holds no member-<k>.npz; name such a file, or "
                "a folder like models/v000001 of a campaign"
            )
        path = files[index % len(files)]
    try:
        # numpy leaves a damaged file open that it has opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise KernelImportError(
            f"{kernel}: cannot read checkpoint = '{path}': {error}; name an npz file of weights, "
            "such as member-0.npz of a campaign"
        ) from error
