"""When a campaign ends, and how far its end has come."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pal.controller.rules import Rules


@dataclass(frozen=True, slots=True)
class Progress:
    """What the stop rules look at. Counts and times are over all sessions, times in seconds.

    `quiet` is how long walkers have explored without an uncertain sample and without a label
    on its way. `barren`: the initial samples are done and not one of them has a label.
    """

    elapsed: float = 0.0
    labels: int = 0
    epochs: int = 0
    samples: int = 0
    quiet: float = 0.0
    failures: int = 0
    last_failure: str = ""
    barren: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The campaign ends, for this reason; `failed` when something is broken.

    `continued`: it ends for now, and the next batch job goes on with it.
    """

    reason: str
    failed: bool = False
    continued: bool = False


def judge(rules: Rules, progress: Progress) -> Verdict | None:
    """Apply the stop rules: the first one met decides."""
    last = f" The last one: {progress.last_failure}" if progress.last_failure else ""
    if rules.failures is not None and progress.failures >= rules.failures:
        return Verdict(
            f"{progress.failures} labels failed in a row (stop.failures = {rules.failures}): "
            f"look at the oracle.{last}",
            failed=True,
        )
    if progress.barren:
        return Verdict(
            "not one of the initial samples could be labelled, so there is nothing to train on: "
            f"look at the oracle and the initial samples.{last}",
            failed=True,
        )
    limits = (
        ("labels", progress.labels, rules.labels, ""),
        ("epochs", progress.epochs, rules.epochs, ""),
        ("samples", progress.samples, rules.samples, ""),
        ("after", progress.elapsed, rules.after, " s"),
        ("quiet", progress.quiet, rules.quiet, " s"),
    )
    for name, reached, limit, unit in limits:
        if limit is not None and reached >= limit:
            return Verdict(f"stop.{name} = {limit:g}{unit} reached")
    return None


class Step(StrEnum):
    """The steps of an orderly end."""

    LABELS = "finishing labels"
    TRAINING = "final training"
    WEIGHTS = "collecting weights"


@dataclass(slots=True)
class Ending:
    """How far the end has come: its present step may last `until` a time in seconds."""

    verdict: Verdict
    until: float
    step: Step = Step.LABELS
    hurried: bool = False

    def enter(self, step: Step, until: float) -> None:
        """Go on to the next step."""
        self.step, self.until = step, until

    @property
    def trains(self) -> bool:
        """Whether the models are to learn the last labels; in the next job they would anyway."""
        return not (self.hurried or self.verdict.continued)

    def replace(self, verdict: Verdict) -> None:
        """End for another reason: what was to be continued is not any more."""
        self.verdict = verdict

    def hurry(self, now: float) -> None:
        """End the present step at once, and leave out the final training."""
        self.until, self.hurried = now, True
