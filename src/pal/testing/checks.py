"""Does a kernel keep its contract? Checks to call from one's own tests.

Each takes a function that makes the kernel, because the contract speaks of several instances,
too: of a state that is carried over, of weights that travel. A broken contract raises a
`ContractError` that says what was expected and what came.

    check_model(lambda: MyModel(context, width=8), dataset)
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pal.building import build_ensemble
from pal.errors import ContractError, NotFiniteError, ShapeError
from pal.exchange.loop import checked
from pal.exchange.reduction import finite_rows, reduce
from pal.records import (
    Batch,
    Dataset,
    Feedback,
    Feedbacks,
    Prediction,
    Ranking,
    Sample,
    as_batch,
    as_members,
    named,
    signature,
)
from pal.roles import STOP, Ensemble, Generator, Model, Oracle, Selector, Stateful, Stop
from pal.runtime.labels import check_label

Answer: TypeAlias = Callable[[Sample], Feedback]
"""Plays the committee: what a walker hears about its sample."""


def check_generator(
    make: Callable[[], Generator], answer: Answer, steps: int = 20, independent: bool = True
) -> None:
    """Walk, from `step(None)` on; carry the state, if there is one, to a second instance.

    Where the class offers an `ensemble`, walkers in it must go the way they go one by one, to
    the bit. `independent = False` is for walkers that hear of each other, as a swarm does: with
    restored states, two ensembles must go the same way.

    Raises:
        ContractError: a step returned neither finite arrays nor STOP, or a walker with a
            restored state, or in an ensemble, went another way than the first one.
    """
    walker = make()
    _require(walker, "a generator", "step")
    sample = _walk(walker, None, answer, steps)
    if sample is STOP or not isinstance(walker, Stateful):
        return
    state = pickle.dumps(walker.get_state())
    other = make()
    if not isinstance(other, Stateful):
        raise ContractError("the second generator has no get_state and set_state; the first has")
    other.set_state(pickle.loads(state))
    again = _sample(other.step(None), "step(None) after set_state")
    _same(sample, again, "after set_state, step(None) must return the present sample again")
    _same(
        _walk(walker, answer(sample), answer, steps),
        _walk(other, answer(sample), answer, steps),
        f"a walker with a restored state must go on as the first one; {steps} steps later",
    )
    if hasattr(type(walker), "ensemble"):
        alone, joined = (lambda: OneByOne([make() for _ in range(_JOINED)])), partial(_join, make)
        pairs = ((alone, joined), (joined, alone)) if independent else ((joined, joined),)
        for first, second in pairs:
            _go_alike(first(), second(), answer, steps)


def check_model(make: Callable[[], Model], dataset: Dataset, epochs: int = 3) -> None:
    """Train for some epochs, predict, and send the weights, and the state, to other instances.

    Raises:
        ContractError: labels of wrong number or shape, metrics that are no numbers, or
            predictions that change when weights or state travel.
    """
    model = make()
    _require(model, "a model", "predict", "train", "get_weights", "set_weights")
    _train(model, dataset, epochs)
    samples = Batch([item.sample for item in dataset])
    labels = _labels(model, samples)
    expected, came = (_shapes(signature(label)) for label in (dataset[0].label, labels[0]))
    if not came.items() <= expected.items():
        raise ShapeError(
            f"predict returned labels {came}; expected those of the dataset, {expected}, or some "
            "of them"
        )
    other = make()
    other.set_weights(_travelled(model.get_weights()))
    _same_labels(labels, _labels(other, samples), "set_weights(get_weights())")
    if isinstance(model, Stateful) and isinstance(other, Stateful):
        other.set_state(pickle.loads(pickle.dumps(model.get_state())))
        _same_labels(labels, _labels(other, samples), "set_state(get_state())")
        _train(model, dataset, 1)
        _train(other, dataset, 1)
        _same_labels(
            _labels(model, samples), _labels(other, samples), "training from the same state"
        )
    _check_committee(make, dataset)


def check_oracle(make: Callable[[], Oracle], sample: Sample) -> None:
    """Label a sample twice, without touching it.

    Raises:
        ContractError: the label is no finite arrays, or the sample was changed.
    """
    oracle = make()
    _require(oracle, "an oracle", "label")
    before = {name: array.copy() for name, array in named(sample).items()}
    first, second = check_label(oracle.label(sample)), check_label(oracle.label(sample))
    _same(before, sample, "label must not change its sample")
    if signature(first) != signature(second):
        raise ShapeError(
            "two labels of one sample differ in names, dtypes or shapes: "
            f"{signature(first)} and {signature(second)}"
        )


def check_selector(
    make: Callable[[], Selector], samples: Batch, predictions: Sequence[Prediction]
) -> None:
    """Select from, and rank, the samples with each of the predictions.

    Raises:
        ContractError: indices out of range or repeated, or arrays of the wrong length.
    """
    selector = make()
    _require(selector, "a selector", "select")
    for prediction in predictions:
        selection = checked(selector.select(samples, prediction), len(samples))
        _distinct(selection.candidates, "select", len(samples))
        _finite(selection.uncertainty, "uncertainty")
        if hasattr(selector, "rank"):
            _check_ranking(selector.rank(samples, prediction), len(samples))


def predicted(models: Sequence[Model], samples: Batch) -> Prediction:
    """Return the prediction of these models together, as the exchange makes it."""
    result = [model.predict(samples) for model in models]
    return reduce(as_members(result, len(models), len(samples), "the committee"))


def _require(kernel: Any, role: str, *methods: str) -> None:
    missing = [name for name in methods if not callable(getattr(kernel, name, None))]
    if missing:
        raise ContractError(
            f"{role} needs the method{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"{type(kernel).__name__} has none; see pal.roles"
        )


def _sample(value: Any, source: str) -> Sample:
    if not isinstance(value, np.ndarray | Mapping) or not len(value):
        raise ContractError(
            f"{source} returned {type(value).__name__}; expected a numpy array, a mapping of "
            "names to arrays, not empty, or pal.STOP"
        )
    if finite_rows(Batch([value])) is not None:
        raise NotFiniteError(f"{source} returned a sample with NaN or infinity")
    return value


def _walk(
    walker: Generator, feedback: Feedback | None, answer: Answer, steps: int
) -> Sample | Stop:
    for _ in range(steps):
        value = walker.step(feedback)
        if isinstance(value, Stop):
            return value
        sample = _sample(value, "step(None)" if feedback is None else "step(feedback)")
        feedback = answer(sample)
    return sample


_JOINED = 3
"""Walkers in an ensemble that is checked; in turn, some of them move and others wait."""


class OneByOne:
    """Walkers moved one after the other, called like an ensemble; see `pal.roles.Ensemble`."""

    def __init__(self, walkers: Sequence[Any]) -> None:
        self._walkers = walkers

    def step(self, rows: NDArray[np.intp], feedback: Feedbacks | None) -> Sequence[Sample | Stop]:
        """Ask each of these walkers."""
        heard = [None] * len(rows) if feedback is None else feedback
        return [self._walkers[row].step(each) for row, each in zip(rows, heard, strict=True)]

    def get_state(self, row: int) -> Any:
        """Return the state of one walker."""
        return self._walkers[row].get_state()

    def set_state(self, row: int, state: Any) -> None:
        """Give one walker a state."""
        self._walkers[row].set_state(state)


def _join(make: Callable[[], Generator]) -> Ensemble:
    ensemble = build_ensemble([make() for _ in range(_JOINED)])
    assert ensemble is not None
    return ensemble


def _go_alike(first: Ensemble, second: Ensemble, answer: Answer, steps: int) -> None:
    """Walk with the first, until its walkers are apart; then with both, from the same states."""
    everyone: NDArray[np.intp] = np.arange(_JOINED)
    samples = _moved(first, everyone, None)
    for count in range(2 * _JOINED):
        rows = everyone[: 1 + count % _JOINED]
        if any(sample is STOP for sample in samples):
            return
        _put(samples, rows, _moved(first, rows, _answered(samples, rows, answer)))
    for row in everyone.tolist():
        second.set_state(row, pickle.loads(pickle.dumps(first.get_state(row))))
    rule = "walkers in an ensemble must go the same way as one by one, or from restored states"
    for mine, theirs in zip(samples, _moved(second, everyone, None), strict=True):
        _same(mine, theirs, f"{rule}; the present samples")
    for count in range(steps):
        rows = everyone[(everyone + count) % (_JOINED + 1) > 0]
        if any(sample is STOP for sample in samples):
            return
        heard = _answered(samples, rows, answer)
        one, other = _moved(first, rows, heard), _moved(second, rows, heard)
        for mine, theirs in zip(one, other, strict=True):
            _same(mine, theirs, f"{rule}; {count + 1} steps later")
        _put(samples, rows, one)


def _answered(samples: Sequence[Any], rows: NDArray[np.intp], answer: Answer) -> Feedbacks:
    return Feedbacks.of([answer(samples[row]) for row in rows])


def _put(samples: list[Any], rows: NDArray[np.intp], moved: Sequence[Any]) -> None:
    for row, sample in zip(rows, moved, strict=True):
        samples[row] = sample


def _moved(ensemble: Ensemble, rows: NDArray[np.intp], feedback: Feedbacks | None) -> list[Any]:
    """Move walkers and return their samples, or STOP."""
    moved = ensemble.step(rows, feedback)
    if not isinstance(moved, Sequence) or len(moved) != len(rows):
        raise ContractError(
            f"an ensemble's step returned {moved!r}; expected a Batch or a list with one sample "
            f"for each of {len(rows)} walkers"
        )
    return [each if each is STOP else _sample(each, "an ensemble's step") for each in moved]


def _train(model: Model, dataset: Dataset, epochs: int) -> None:
    """Train for some epochs and leave, as the runtime does when new labels have come."""
    training = iter(model.train(dataset))
    for _ in range(epochs):
        metrics = next(training, None)
        if metrics is None:
            break
        if not isinstance(metrics, Mapping):
            raise ContractError(
                f"train yielded {type(metrics).__name__}; expected a mapping of names to numbers"
            )
        for name, value in metrics.items():
            _finite(value, f"train's metric '{name}'")
    if hasattr(training, "close"):
        training.close()


def _labels(model: Model, samples: Batch) -> Batch:
    labels = as_batch(model.predict(samples), len(samples), "predict")
    rows = finite_rows(labels)
    if rows is not None:
        raise NotFiniteError(
            f"predict returned NaN or infinity for samples {np.flatnonzero(~rows)[:5].tolist()}"
        )
    return labels


def _travelled(weights: Any) -> dict[str, Any]:
    """Return weights as they arrive elsewhere: plain arrays, by name."""
    if not isinstance(weights, Mapping):
        raise ContractError(
            f"get_weights returned {type(weights).__name__}; expected a mapping of names to arrays"
        )
    wrong = [name for name, array in weights.items() if np.asarray(array).dtype.kind == "O"]
    if wrong:
        raise ContractError(f"get_weights returned {wrong} that are no arrays of numbers")
    return {name: np.array(array) for name, array in weights.items()}


def _check_committee(make: Callable[[], Model], dataset: Dataset) -> None:
    """A committee predicts what its members predict, up to rounding."""
    models = [make(), make()]
    build = getattr(type(models[0]), "committee", None)
    if build is None:
        return
    for model in models:
        _train(model, dataset, 1)
    samples = Batch([item.sample for item in dataset])
    one_by_one = [_labels(model, samples) for model in models]
    together = as_members(build(models).predict(samples), 2, len(samples), "the committee")
    for alone, joint in zip(one_by_one, together, strict=True):
        for mine, theirs in zip(alone, joint, strict=True):
            for name, array in named(mine).items():
                if not np.allclose(array, named(theirs)[name], rtol=1e-4, atol=1e-5):
                    raise ContractError(
                        f"the committee predicts another {name or 'label'} than its members do "
                        "one by one; expected the same up to rounding"
                    )


def _check_ranking(ranking: Ranking, size: int) -> None:
    if not isinstance(ranking, Ranking):
        raise ContractError(f"rank returned {type(ranking).__name__}; expected a pal.Ranking")
    _distinct(ranking.order, "rank", size)
    if np.shape(ranking.uncertainty) != (size,):
        raise ShapeError(
            f"rank returned uncertainty of shape {np.shape(ranking.uncertainty)}; "
            f"expected ({size},)"
        )


def _distinct(indices: Any, source: str, size: int) -> None:
    chosen = [int(index) for index in indices]
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(size)):
        raise ContractError(
            f"{source} returned the indices {chosen[:8]}; expected different ones from 0 to "
            f"{size - 1}"
        )


def _finite(value: Any, what: str) -> None:
    try:
        finite = bool(np.isfinite(np.asarray(value, dtype=float)).all())
    except (TypeError, ValueError):
        raise ContractError(f"{what} is {type(value).__name__}; expected finite numbers") from None
    if not finite:
        raise NotFiniteError(f"{what} is {value}; expected finite numbers")


def _same(one: Sample | Stop, other: Sample | Stop, rule: str) -> None:
    if isinstance(one, Stop) or isinstance(other, Stop):
        equal = one is other
    else:
        mine, theirs = named(one), named(other)
        equal = mine.keys() == theirs.keys() and all(
            np.array_equal(array, theirs[name]) for name, array in mine.items()
        )
    if not equal:
        raise ContractError(f"{rule}: expected equal arrays, got {one!r} and {other!r}")


def _same_labels(one: Batch, other: Batch, what: str) -> None:
    for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        _same(mine, theirs, f"{what} must predict bit for bit the same; label {index}")


def _shapes(names: Any) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, (_, shape) in sorted(names)}


__all__ = ["check_generator", "check_model", "check_oracle", "check_selector", "predicted"]
