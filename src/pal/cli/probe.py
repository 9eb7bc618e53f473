"""Trying one kernel, in a process of its own: build it and call it once, as a campaign would.

`pal check` starts this module with a folder that holds the task, and reads the findings from
there. Whatever the kernel does to this process, the command line lives on.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from pal.building import KernelSpec, build_committee
from pal.errors import ContractError, Failure, LabelFailure, foreseen
from pal.exchange.loop import checked
from pal.exchange.reduction import finite_rows, reduce
from pal.ledger.directory import write_atomically
from pal.records import (
    Batch,
    Feedback,
    Label,
    LabelledSample,
    Prediction,
    Sample,
    Weights,
    as_members,
    named,
    unnamed,
)
from pal.roles import STOP, Context
from pal.runtime.labels import check_label

TASK: Final = "task.pickle"
FINDINGS: Final = "findings.pickle"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Task:
    """What to try, and where: `count` is how many instances of the role the campaign has.

    `sample`, `label`, `prediction` and `feedback` come from the kernels tried before.
    `members`: how many models make the committee here. `train_first`: the campaign trains before
    it predicts, because it has initial samples. `seconds`: after so long the process shows where
    it is, and ends. `home` is the settings file's folder, where workers are at home, too.
    """

    spec: KernelSpec
    seed: int
    count: int
    threads: int
    device: str
    seconds: float
    home: Path
    sample: Sample | None = None
    label: Label | None = None
    prediction: Prediction | None = None
    feedback: Feedback | None = None
    members: int = 1
    training: bool = False
    train_first: bool = False
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call: what was called, how long it took, what it returned in words."""

    name: str
    seconds: float
    result: str = ""


@dataclass(slots=True)
class Findings:
    """What trying a kernel brought. `value` is what the kernels tried next need.

    `refusal`: the oracle said no to this sample, in good order.
    """

    calls: list[Call] = field(default_factory=list)
    value: Any = None
    refusal: str = ""
    failure: Failure | None = None


class Probe:
    """Calls a kernel's methods one after the other and keeps account."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task = task
        self.folder = folder
        self.findings = Findings()

    def run(self) -> Findings:
        """Try the kernel; an exception becomes the findings' failure."""
        task, found = self.task, self.findings
        try:
            found.value = getattr(self, f"_{task.spec.role}")()
        except LabelFailure as error:
            found.refusal = str(error)
        except Exception as error:
            found.failure = Failure(
                task.spec.role,
                0,
                type(error).__name__,
                str(error),
                traceback="" if foreseen(error) else _trace(error.__cause__ or error),
            )
        return found

    def _call(
        self, name: str, function: Callable[[], T], describe: Callable[[T], str] | None = None
    ) -> T:
        """Call and note; the call is on the list even if its result cannot be described."""
        start = time.perf_counter()
        result = function()
        call = Call(name, time.perf_counter() - start)
        self.findings.calls.append(call)
        if describe is not None:
            self.findings.calls[-1] = Call(name, call.seconds, describe(result))
        return result

    def _context(self, index: int = 0) -> Context:
        task = self.task
        folder = self.folder / f"{task.spec.role}-{index}"
        folder.mkdir(exist_ok=True)
        seed = task.seed + index
        return Context(task.spec.role, index, task.count, seed, folder, task.device, task.threads)

    def _build(self) -> Any:
        return self._call("build", lambda: self.task.spec.build(self._context()))

    def _generator(self) -> Sample:
        kernel, feedback = self._build(), self.task.feedback
        first = self._call("step(None)", lambda: _sample(kernel.step(None), "step"), shapes)
        if feedback is not None:
            self._call("step(feedback)", lambda: kernel.step(feedback), _move)
        return first

    def _initial(self) -> Sample:
        def first() -> Sample:
            return _sample(next(iter(self._build()), None), "the first item")

        return self._call("first sample", first, shapes)

    def _oracle(self) -> Label | None:
        kernel = self._build()
        sample = self.task.sample
        if sample is None:
            return None
        # A label is always made in a fresh folder.
        scratch = self.folder / "scratch"
        scratch.mkdir()
        os.chdir(scratch)
        return self._call("label", lambda: own(check_label(kernel.label(sample))), shapes)

    def _selector(self) -> Feedback | None:
        kernel = self._build()
        sample, prediction = self.task.sample, self.task.prediction
        if sample is None or prediction is None:
            return None
        found = self._call(
            "select",
            lambda: checked(kernel.select(Batch([sample]), prediction), 1),
            lambda s: (
                f"uncertainty {s.uncertainty[0]:.3g}, "
                f"{'' if s.trusted[0] else 'not '}trusted, {len(s.candidates)} of 1 chosen"
            ),
        )
        told = prediction.mean if found.feedback is None else found.feedback
        return Feedback(
            own(told[0]),
            own(prediction.deviation[0]),
            float(found.uncertainty[0]),
            bool(found.trusted[0]),
            version=1,
        )

    def _model(self) -> Any:
        task = self.task
        contexts = [self._context(index) for index in range(task.members)]
        name = f"build {task.members} members" if task.members > 1 else "build"
        committee = self._call(name, lambda: build_committee(task.spec, contexts, task.training))
        self._load(committee)
        if not task.train_first:
            self.findings.value = self._predict(committee)
        try:
            self._train(committee)
        except Exception:
            # What the model predicts may tell why it cannot learn this label.
            with suppress(Exception):
                self.findings.value = self._predict(committee)
            raise
        return self._predict(committee) if task.train_first else self.findings.value

    def _load(self, committee: Any) -> None:
        if self.task.weights is None:
            return
        from pal.runtime.weights import fetch

        for member, weights in fetch(self.task.weights).items():
            if member < self.task.members:
                committee.set_weights(member, weights)

    def _predict(self, committee: Any) -> Prediction | None:
        task = self.task
        if task.sample is None:
            return None
        batch = Batch([task.sample])

        def predict() -> Prediction:
            labels = as_members(committee.predict(batch), task.members, 1, "the committee")
            return reduce([Batch([own(labels_of[0])]) for labels_of in labels])

        prediction = self._call("predict", predict, lambda p: shapes(p.mean[0]))
        if finite_rows(prediction.mean) is not None:
            raise ContractError("predict returned NaN or infinity; expected finite numbers")
        return prediction

    def _train(self, committee: Any) -> None:
        task = self.task
        if not task.training or task.sample is None or task.label is None:
            return
        trainer = self._trainer()
        dataset = [LabelledSample(0, task.sample, task.label)]
        training = iter(trainer.train([dataset] * task.members))
        self._call("train one epoch", lambda: next(training, None), _metrics)
        if hasattr(training, "close"):
            training.close()
        weights = self._call("get_weights", trainer.get_weights, _size)

        def hand_over() -> None:
            for member, arrays in enumerate(weights):
                committee.set_weights(member, arrays)

        self._call("set_weights", hand_over)

    def _trainer(self) -> Any:
        """Build the members anew, as a trainer has them; who looks for news is told at once."""
        contexts = [
            replace(self._context(index), training=True, news=lambda: True)
            for index in range(self.task.members)
        ]
        trainer = build_committee(self.task.spec, contexts, training=True)
        self._load(trainer)
        return trainer


_OURS: Final = tuple(str(Path(__file__).parents[1] / name) for name in ("cli", "runtime"))


def _trace(error: BaseException) -> str:
    """Return the traceback from the kernel's own code on; empty if it never got there."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = ("<frozen", importlib.__file__, *_OURS)
    kept = list(dropwhile(lambda frame: frame.filename.startswith(foreign), frames))
    text = "".join(traceback.format_list(kept))
    return text and f"Traceback (most recent call last):\n{text}" + "".join(
        traceback.format_exception_only(error)
    )


def _sample(value: Any, source: str) -> Sample:
    """Return a sample as plain arrays.

    Raises:
        ContractError: it is none, or not finite.
    """
    if value is STOP or value is None:
        raise ContractError(f"{source} was {value}; expected a sample, to begin with")
    arrays = named(value)
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            raise ContractError(
                f"{source} returned {name or type(value).__name__}, which is no array of "
                "numbers; expected a numpy array, or a mapping of names to arrays"
            )
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise ContractError(f"{source} returned {name or 'an array'} with NaN or infinity")
    return unnamed(arrays)


def _move(value: Any) -> str:
    return "asks to stop" if value is STOP else shapes(_sample(value, "step"))


def own(record: Sample) -> Sample:
    """Return a record as plain arrays, without anything else that came along."""
    return unnamed({name: np.array(array) for name, array in named(record).items()})


def shapes(record: Sample) -> str:
    """Write names, shapes and dtypes of a sample or label."""
    return ", ".join(
        f"{name} {array.shape} {array.dtype}".strip() for name, array in named(record).items()
    )


def _metrics(result: Sequence[Any] | None) -> str:
    if not result:
        return "nothing to learn"
    return ", ".join(f"{name} {float(value):.3g}" for name, value in dict(result[0]).items())


def _size(weights: Sequence[Weights]) -> str:
    total = sum(np.asarray(array).nbytes for array in weights[0].values())
    return f"{len(weights[0])} arrays, {total:,} bytes a member"


def main(name: str) -> None:
    """Try the kernel that the task in this folder names, and write the findings beside it."""
    folder = Path(name)
    faulthandler.enable()
    task: Task = pickle.loads((folder / TASK).read_bytes())
    faulthandler.dump_traceback_later(task.seconds, exit=True)
    findings = Probe(task, folder).run()
    write_atomically(folder / FINDINGS, pickle.dumps(findings))
