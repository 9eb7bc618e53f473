"""Toy kernels of pure numpy, each with one twist that a test can turn on by its options.

Workers import this file by its name, so nothing here may need more than PAL and numpy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pal import STOP, Batch, Context, LabelFailure, Prediction, Ranking, Selection
from pal.errors import ContractError
from pal.records import Array, Dataset, Feedback, Feedbacks, Label, Metrics, Sample, Weights


def first_time(flag: str | Path) -> bool:
    """Whether nobody asked this before, in any process."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def suicide() -> None:
    """Die as a process does that the kernel kills for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Never come back."""
    while True:
        time.sleep(1)


class Walk:
    """A random walker of two coordinates. `trace`: folder for a record of all it met."""

    def __init__(self, context: Context, trace: str = "", pause: float = 0.0) -> None:
        self.index = context.index
        self.rng = np.random.default_rng(context.seed)
        self.steps = 0
        self.pause = pause
        self.trace = Path(trace) / f"walker-{self.index}" if trace else None

    def step(self, feedback: Feedback | None) -> Sample | Any:
        if self.pause:
            time.sleep(self.pause)
        self.steps += 1
        sample = self.rng.uniform(-2, 2, size=2)
        if feedback is not None:
            sample += 0.01 * np.tanh(np.asarray(feedback.mean)[0])
        if self.trace is not None:
            self.note(feedback, sample)
        return sample

    def note(self, feedback: Feedback | None, sample: Array) -> None:
        heard: Array = np.zeros(2)
        if feedback is not None:
            heard = np.array([np.asarray(feedback.mean)[0], np.asarray(feedback.deviation)[0]])
        assert self.trace is not None
        with self.trace.open("ab") as file:
            file.write(np.concatenate([sample, heard]).tobytes())


class Stateful(Walk):
    """A walker that remembers its steps, and notes them with its process."""

    def __init__(self, context: Context, log: str, pause: float = 0.0) -> None:
        super().__init__(context, pause=pause)
        self.log = Path(log) / f"steps-{context.index}"

    def step(self, feedback: Feedback | None) -> Sample | Any:
        sample = super().step(feedback)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {self.steps}\n")
        return sample

    def get_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "rng": self.rng.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.rng.bit_generator.state = state["rng"]


class Informed(Walk):
    """Notes each version of the weights by which it is answered."""

    def __init__(self, context: Context, log: str, pause: float = 0.0) -> None:
        super().__init__(context, pause=pause)
        self.log = Path(log) / f"versions-{context.index}"
        self.version = -1

    def step(self, feedback: Feedback | None) -> Sample | Any:
        if feedback is not None and feedback.version != self.version:
            self.version = feedback.version
            with self.log.open("a") as file:
                file.write(f"{self.version}\n")
        return super().step(feedback)


class Finite(Walk):
    """Asks to stop after some steps; `only`: just this walker does."""

    def __init__(self, context: Context, steps: int, only: int = -1, trace: str = "") -> None:
        super().__init__(context, trace)
        self.limit = steps if only in (-1, self.index) else None

    def step(self, feedback: Feedback | None) -> Sample | Any:
        if self.limit is not None and self.steps >= self.limit:
            return STOP
        return super().step(feedback)


class Once(Walk):
    """Does something bad at its tenth step, once in a campaign: walker `who` alone."""

    def __init__(self, context: Context, flag: str, deed: str, who: int = 0) -> None:
        super().__init__(context)
        self.flag, self.deed, self.who = flag, deed, who

    def step(self, feedback: Feedback | None) -> Sample | Any:
        sample = super().step(feedback)
        if self.index == self.who and self.steps == 10 and first_time(self.flag):
            if self.deed == "raise":
                raise RuntimeError("the walker stumbles")
            if self.deed == "die":
                suicide()
            return np.array([np.nan, 0.0])
        return sample


class HangOnce(Walk):
    """Does not come back from its tenth step, once in a campaign: walker `who` alone."""

    def __init__(self, context: Context, flag: str, who: int = 1) -> None:
        super().__init__(context)
        self.flag, self.who = flag, who

    def step(self, feedback: Feedback | None) -> Sample | Any:
        if self.index == self.who and self.steps == 10 and first_time(self.flag):
            hang()
        return super().step(feedback)


class Herd(Walk):
    """Walks alone as in its herd. `deed` of the herd, or of walker 1, at its tenth step."""

    def __init__(
        self, context: Context, trace: str = "", deed: str = "", flag: str = "", log: str = ""
    ) -> None:
        super().__init__(context, trace)
        self.deed, self.flag, self.log = deed, flag, log

    @classmethod
    def ensemble(cls, walkers: Sequence[Herd]) -> Herded:
        return Herded(walkers)

    def get_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "rng": self.rng.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.rng.bit_generator.state = state["rng"]


class Herded:
    """The ensemble of a herd; notes how many moved in each call, and how far the first is."""

    def __init__(self, walkers: Sequence[Herd]) -> None:
        self.walkers = walkers

    def step(self, rows: Array, feedback: Feedbacks | None) -> Any:
        heard = [None] * len(rows) if feedback is None else feedback
        pairs = list(zip([self.walkers[row] for row in rows], heard, strict=True))
        samples: list[Any] = [walker.step(each) for walker, each in pairs]
        first = self.walkers[0]
        if first.log:
            with open(first.log, "a") as file:
                file.write(f"{len(rows)} {first.steps}\n")
        due = [walker.index == 1 and walker.steps == 10 for walker, _ in pairs]
        if first.deed and any(due) and first_time(first.flag):
            if first.deed == "raise":
                raise RuntimeError("the herd stumbles")
            place = due.index(True)
            samples[place] = STOP if first.deed == "stop" else np.full(2, np.nan)
            return samples
        return Batch.stacked(np.array(samples))

    def get_state(self, row: int) -> Any:
        return self.walkers[row].get_state()

    def set_state(self, row: int, state: Any) -> None:
        self.walkers[row].set_state(state)


class Broken(Walk):
    """Always raises."""

    def step(self, feedback: Feedback | None) -> Sample | Any:
        raise RuntimeError("this walker cannot walk")


class Sizes(Walk):
    """Samples of named arrays whose size and elements change from step to step."""

    def step(self, feedback: Feedback | None) -> Sample | Any:
        self.steps += 1
        if feedback is not None:
            assert isinstance(feedback.mean, dict)
            assert len(feedback.mean["forces"]) == 1 + (self.index + self.steps - 1) % 3
        atoms = 1 + (self.index + self.steps) % 3
        return {
            "symbols": np.array(["H"] * atoms),
            "positions": self.rng.normal(size=(atoms, 3)),
        }


class Bulky(Walk):
    """Samples of a megabyte, one number throughout each."""

    def step(self, feedback: Feedback | None) -> Sample | Any:
        self.steps += 1
        return np.full(1 << 17, self.steps + 1000.0 * self.index)


class Quadratic:
    """A member: a polynomial of degree two, fitted by gradient descent."""

    def __init__(
        self, context: Context, epochs: int = 30, asks: int = 0, rate: float = 0.05
    ) -> None:
        self.weights = np.random.default_rng(context.seed).normal(size=6)
        self.epochs, self.asks, self.rate = epochs, asks, rate

    def features(self, x: Array) -> Array:
        a, b = x[:, 0], x[:, 1]
        return np.stack([np.ones_like(a), a, b, a * a, a * b, b * b], 1)

    def predict(self, samples: Batch) -> Any:
        return (self.features(np.asarray(samples)) @ self.weights)[:, None]

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        x = self.features(np.array([item.sample for item in dataset]))
        y = np.array([np.asarray(item.label)[0] for item in dataset])
        for epoch in range(self.epochs):
            residue = x @ self.weights - y
            self.weights = self.weights - self.rate * x.T @ residue / len(y)
            stop = {"stop": 1.0} if self.asks and epoch + 1 >= self.asks else {}
            yield {"loss": float(np.mean(residue**2)), **stop}

    def get_weights(self) -> Weights:
        return {"w": self.weights}

    def set_weights(self, weights: Weights) -> None:
        self.weights = np.asarray(weights["w"])


class Census(Quadratic):
    """Notes of what its training sets consist, and how new each training is."""

    def __init__(self, context: Context, log: str) -> None:
        super().__init__(context, epochs=2)
        self.log = Path(log) / f"member-{context.index}"

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        with self.log.open("a") as file:
            file.write(" ".join(str(item.identity) for item in dataset) + "\n")
        yield from super().train(dataset)


class InPlace(Quadratic):
    """Trains one large array in place, as optimisers do; every entry is always the same."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.array = np.zeros(1 << 17)

    def predict(self, samples: Batch) -> Any:
        assert self.array.min() == self.array.max(), "weights are torn"
        return super().predict(samples)

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        for _ in range(100):
            self.array += 1.0
            yield {"loss": 0.0}

    def get_weights(self) -> Weights:
        return {"w": self.weights, "array": self.array}

    def set_weights(self, weights: Weights) -> None:
        super().set_weights(weights)
        self.array = np.array(weights["array"])


class Sick(Quadratic):
    """A member that misbehaves. `deed` happens at call number `call` of `method`, then goes on.

    With a `flag` it happens once in a campaign, without one each time.
    """

    def __init__(
        self,
        context: Context,
        deed: str,
        method: str = "predict",
        member: int = 0,
        call: int = 5,
        flag: str = "",
    ) -> None:
        super().__init__(context)
        self.deed, self.method, self.call, self.flag = deed, method, call, flag
        self.chosen = context.index == member
        self.calls = 0

    def due(self, method: str) -> bool:
        if not self.chosen or method != self.method:
            return False
        self.calls += 1
        return self.calls >= self.call and (not self.flag or first_time(self.flag))

    def act(self, result: Any = None) -> Any:
        if self.deed == "raise":
            raise RuntimeError("the model is ill")
        if self.deed == "die":
            suicide()
        if self.deed == "hang":
            hang()
        if self.deed == "diverge":
            self.weights = np.full(6, np.nan)
        if self.deed == "shape":
            return np.zeros((len(result) + 1, 1))
        if self.deed == "type":
            return "no array at all"
        return np.full_like(result, np.nan)

    def predict(self, samples: Batch) -> Any:
        result = super().predict(samples)
        return self.act(result) if self.due("predict") else result

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        for metrics in super().train(dataset):
            if self.due("train"):
                self.act(self.weights)
            yield metrics


class Explosive(Quadratic):
    """Member 1 gets weights by which its predictions overflow, in its second training.

    The features are twice those of `Quadratic`, so that they overflow at the origin too.
    """

    def __init__(self, context: Context, flag: str) -> None:
        super().__init__(context, rate=0.05 / 4)
        self.flag, self.chosen, self.trainings = flag, context.index == 1, 0

    def features(self, x: Array) -> Array:
        return 2 * super().features(x)

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        self.trainings += 1
        if self.chosen and self.trainings == 2 and first_time(self.flag):
            self.weights = np.full(6, 1.7e308) * np.array([1, 0, 0, 1, 0, 1])
            for _ in range(3):
                yield {"loss": 0.0}
            return
        yield from super().train(dataset)


class Mixed:
    """A member for `Sizes`: forces of as many rows as there are atoms."""

    def __init__(self, context: Context) -> None:
        self.scale = 1.0 + context.index

    def predict(self, samples: Batch) -> Any:
        return [
            {"forces": self.scale * sample["positions"]}  # type: ignore[call-overload]
            for sample in samples
        ]

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        for item in dataset:
            assert item.sample["positions"].shape == item.label["forces"].shape  # type: ignore[call-overload]
        yield {"loss": 0.0}

    def get_weights(self) -> Weights:
        return {"scale": np.array(self.scale)}

    def set_weights(self, weights: Weights) -> None:
        self.scale = float(weights["scale"])


class Mean:
    """A member for `Bulky`."""

    def __init__(self, context: Context) -> None:
        self.shift = float(context.index)

    def predict(self, samples: Batch) -> Any:
        return np.asarray(samples)[:, :1] + self.shift

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        yield {"loss": 0.0}

    def get_weights(self) -> Weights:
        return {"shift": np.array(self.shift)}

    def set_weights(self, weights: Weights) -> None:
        self.shift = float(weights["shift"])


class Threshold:
    """Candidates are the samples whose largest deviation exceeds `threshold`."""

    def __init__(self, threshold: float = 0.05) -> None:
        self.threshold = threshold

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        uncertainty = np.array([_largest(item) for item in prediction.deviation])
        trusted = uncertainty <= self.threshold
        return Selection(np.flatnonzero(~trusted), uncertainty, trusted)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        uncertainty = self.select(queue, prediction).uncertainty
        return Ranking(np.argsort(-uncertainty)[: max(1, len(queue) // 2)], uncertainty)


class Torn(Threshold):
    """Returns uncertainties of the wrong shape, but for the first ten batches."""

    batches = 0

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        self.batches += 1
        found = super().select(samples, prediction)
        if self.batches <= 10:
            return found
        return Selection(found.candidates, found.uncertainty[:, None], found.trusted)


def _largest(label: Label) -> float:
    arrays: Sequence[Array] = list(label.values()) if isinstance(label, dict) else [label]  # type: ignore[list-item]
    return float(max(np.max(array) for array in arrays))


def truth(sample: Array) -> Array:
    """Label a sample at once."""
    return np.array([1 + sample[0] * sample[1]])


def total(sample: Array) -> Array:
    """Label a bulky sample, after a look that it is whole."""
    assert sample.min() == sample.max(), "the sample is torn"
    return sample[:1].copy()


def spring(sample: dict[str, Array]) -> dict[str, Array]:
    """Label atoms tied to the origin."""
    return {"forces": -sample["positions"]}


class Slow:
    """Takes its time for a label."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds

    def label(self, sample: Array) -> Array:
        time.sleep(self.seconds)
        return truth(sample)


class Poisoned:
    """Misbehaves for samples with a first coordinate above `above`; fine for all others."""

    def __init__(self, deed: str, above: float = 1.5, helper: bool = False) -> None:
        self.deed, self.above, self.helper = deed, above, helper

    def label(self, sample: Array) -> Any:
        if sample[0] <= self.above:
            return truth(sample)
        if self.deed == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.deed == "refuse":
            raise LabelFailure("the cycles do not converge")
        if self.deed == "raise":
            raise ZeroDivisionError("a bug of the oracle")
        if self.deed == "hang":
            while True:
                time.sleep(1)
        return {"nan": np.array([np.nan]), "type": "a label", "none": None}[self.deed]


class Flagged:
    """Labels with an energy that falls with the first coordinate, and tells of convergence."""

    def label(self, sample: Array) -> dict[str, Any]:
        label = truth(sample)
        return {"energy": label, "slope": sample, "converged": sample[1] <= 1.0}


class Mendable:
    """Works only while a file is there."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def label(self, sample: Array) -> Array:
        if not self.file.exists():
            raise RuntimeError("the licence server is down")
        return truth(sample)


class OnceOracle:
    """Dies, or runs a helper process and waits for it, at the fifth label of a campaign."""

    def __init__(self, flag: str, deed: str = "die") -> None:
        self.flag, self.deed, self.count = flag, deed, 0

    def label(self, sample: Array) -> Array:
        self.count += 1
        if self.count == 5 and first_time(self.flag):
            if self.deed == "die":
                suicide()
            subprocess.run([sys.executable, "-c", "import time; time.sleep(100)"], check=True)
        return truth(sample)


class Counting(OnceOracle):
    """Remembers how many labels it has made, and writes each number down."""

    def label(self, sample: Array) -> Array:
        label = super().label(sample)
        with Path(f"{self.flag}.counts").open("a") as log:
            log.write(f"{self.count}\n")
        return label

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        self.count = state


def grid(count: int = 6) -> Iterator[Array]:
    """Yield initial samples."""
    for index in range(count):
        yield np.array([index / count, -index / count])


def late_grid(count: int = 6) -> Iterator[Array]:
    """Yield initial samples, but not before the other workers were built."""
    time.sleep(20)
    yield from grid(count)


class Unbuildable:
    """An oracle that knows from its options that it cannot work."""

    def __init__(self) -> None:
        raise ContractError("expected better options")

    def label(self, sample: Array) -> Array:
        return truth(sample)


def fragile_grid(flag: str, count: int = 6) -> Iterator[Array]:
    """Yield initial samples; the first process that does is killed half-way."""
    for index, sample in enumerate(grid(count)):
        if index == count // 2 and first_time(flag):
            suicide()
        yield sample
