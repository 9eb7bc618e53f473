"""PAL: parallel active learning for science."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pal.errors import LabelFailure, PalError
from pal.monitor.metrics import Snapshot
from pal.records import Batch, Feedback, Feedbacks, LabelledSample, Prediction, Ranking, Selection
from pal.roles import STOP, Committee, Context, Ensemble, Generator, Model, Oracle, Selector

if TYPE_CHECKING:
    from pal.runtime.campaign import Campaign as Campaign

__version__ = "0.1.0"

__all__ = [
    "STOP",
    "Batch",
    "Campaign",
    "Committee",
    "Context",
    "Ensemble",
    "Feedback",
    "Feedbacks",
    "Generator",
    "LabelFailure",
    "LabelledSample",
    "Model",
    "Oracle",
    "PalError",
    "Prediction",
    "Ranking",
    "Selection",
    "Selector",
    "Snapshot",
]


def __getattr__(name: str) -> Any:
    # A worker needs the words above and not the whole runtime: it stays small and starts fast.
    if name == "Campaign":
        from pal.runtime.campaign import Campaign

        return Campaign
    raise AttributeError(f"module 'pal' has no attribute {name!r}")
