"""What travels between a broker and the oracles beyond the job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pal.building import KernelSpec
from pal.errors import Failure
from pal.records import Label, Sample
from pal.runtime.labels import ANY, Sanity

Verdict: TypeAlias = Literal["labelled", "refused", "down", "unbuilt"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all labels of a campaign: the oracle, and what it finds around it.

    `key` tells campaigns apart, and the sessions of one. `directory` and `home` are the
    campaign's run directory and its workers' working directory, used where they can be seen.
    """

    key: str
    kernel: KernelSpec
    directory: Path
    home: Path | None
    seed: int
    count: int
    threads: int
    deadline: float | None
    sanity: Sanity = ANY


@dataclass(frozen=True, slots=True)
class Errand:
    """Label this sample, as the oracle of this number."""

    terms: Terms
    oracle: int
    identity: int
    sample: Sample
    attempt: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an errand.

    "refused": the oracle raised. "down": it died, or was killed at the deadline. "unbuilt": there
    is no oracle, because its kernel could not be built there.
    """

    verdict: Verdict
    host: str
    seconds: float = 0.0
    label: Label | None = None
    failure: Failure | None = None
