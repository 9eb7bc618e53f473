"""The four published kernels as PAL's: each class here drives one of the user's objects.

Generator drives `UserGene`, Model `UserModel`, Oracle `UserOracle`, and Selector the functions of
`utils`. Options come from `pal.compat.settings`; `rank` is the first rank of the kernel, as the
published program numbers its processes: 0 and 1 its controllers, then prediction, generators,
oracles, training.
"""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pal.building import Members
from pal.compat import contract, modules
from pal.errors import InterfaceError
from pal.records import (
    BARE,
    Array,
    Batch,
    Dataset,
    Feedback,
    Metrics,
    Prediction,
    Ranking,
    Selection,
    Weights,
    named,
)
from pal.roles import STOP, Context, Stop

SLICE = 10.0
"""Seconds that a member trains while others of its process wait for their turn."""


class Generator:
    """A walker: one `UserGene`.

    Options:
        module: the file that defines `UserGene`.
        result_dir: the folder it is told to write into.
        rank: of the first generator.
        save_interval: seconds between two calls of `save_progress`.
    """

    def __init__(
        self, context: Context, module: str, result_dir: str, rank: int, save_interval: float
    ) -> None:
        self._gene = _made(module, "UserGene", rank + context.index, result_dir)
        self._interval = save_interval
        self._saved_at = time.monotonic()
        self._last: Array | None = None
        """The sample whose prediction it waits for."""
        self._resumed = False

    def step(self, feedback: Feedback | None) -> Array | Stop:
        """Have the next sample made; after a restart, send the last one again."""
        if feedback is None and self._resumed and self._last is not None:
            return self._last
        answer = self._gene.generate_new_data(None if feedback is None else feedback.mean)
        if type(answer) is not tuple or len(answer) != 2:
            answer = contract.pair(answer, "generate_new_data", "stop_run and data_to_pred")
        stop, data = answer
        if stop is not False and contract.flag(stop, "generate_new_data"):
            return STOP
        if type(data) is not np.ndarray or data.ndim != 1 or data.dtype.kind != "f":
            data = contract.array(data, "generate_new_data", "data_to_pred")
        self._last = data
        return self._last

    def get_state(self) -> tuple[bytes, Array | None] | None:
        """Have the progress saved if it is time; return the object and what it waits for."""
        now = time.monotonic()
        # The runtime's own interval is the same; a quarter of it is room for its jitter.
        if now - self._saved_at > 0.75 * self._interval:
            self._saved_at = now
            save = getattr(self._gene, "save_progress", None)
            if save is not None:
                save()
        frozen = modules.frozen(self._gene)
        return None if frozen is None else (frozen, self._last)

    def set_state(self, state: tuple[bytes, Array | None] | None) -> None:
        """Take up the object of before."""
        gene = None if state is None else modules.thawed(state[0])
        if state is not None and gene is not None:
            self._gene, self._last, self._resumed = gene, state[1], True

    def close(self) -> None:
        """Tell it that the workflow shuts down."""
        _stop_run(self._gene)


class Model:
    """A member: one `UserModel`, in mode "predict" or, in a trainer, "train".

    Options:
        module: the file that defines `UserModel`.
        result_dir: the folder it is told to write into.
        rank: of the first prediction process.
        train_rank: of the first training process.
        gpu_pred: indices handed out as `i_device` to prediction; empty: 0 for all.
        gpu_ml: the same for training.
        shared: whether a training process has several models, which then train in turn.
    """

    def __init__(
        self,
        context: Context,
        module: str,
        result_dir: str,
        rank: int,
        train_rank: int,
        gpu_pred: Sequence[int] = (),
        gpu_ml: Sequence[int] = (),
        shared: bool = False,
    ) -> None:
        self._trains = context.training
        first, devices = (train_rank, gpu_ml) if self._trains else (rank, gpu_pred)
        device = devices[context.index % len(devices)] if devices else 0
        mode = "train" if self._trains else "predict"
        self._model = _made(module, "UserModel", first + context.index, result_dir, device, mode)
        self._news = context.news
        self._slice = SLICE if shared else math.inf
        self._seen: set[int] = set()
        self._size = None if self._trains else self._weight_size()
        self._pending: Array | None = None

    def _weight_size(self) -> int | None:
        method = getattr(self._model, "get_weight_size", None)
        return None if method is None else contract.integer(method(), "get_weight_size")

    # Prediction ----------------------------------------------------------------------------

    def predict(self, samples: Batch) -> list[Array]:
        """Ask the model for all generators at once."""
        if samples.uniform:
            given = list(samples.columns[BARE].copy())
        else:
            given = [np.array(sample) for sample in samples]
        answer = self._model.predict(given)
        return contract.arrays(answer, "predict", "data_to_gene_list", len(given))

    @classmethod
    def committee(cls, models: Sequence[Model]) -> Committee:
        """Join the models of one process."""
        return Committee(models)

    def set_weights(self, weights: Weights) -> None:
        """Hand the model the weights of its counterpart in training."""
        flat = np.array(weights["weights"])
        if self._size is not None and flat.size != self._size:
            raise InterfaceError(
                f"get_weight returned {flat.size} numbers, but get_weight_size of the model in "
                f"prediction says {self._size}; both must be the same"
            )
        if self._trains:
            self._pending = flat
        else:
            self._model.update(flat)

    # Training --------------------------------------------------------------------------------

    def train(self, dataset: Dataset) -> Iterator[Metrics]:
        """Add what is new to its training set, and let it retrain until it has had enough."""
        self._take_pending()
        new = [item for item in dataset if item.identity not in self._seen]
        if new:
            self._seen.update(item.identity for item in new)
            points = [[np.array(item.sample), np.array(item.label)] for item in new]
            self._model.add_trainingset(points)
            self._save(False)
        while True:
            request = Request(self._news, self._slice)
            stop = contract.flag(self._model.retrain(request), "retrain")
            self._save(stop)
            yield {"stop": 1.0} if stop else {}
            if not request.sliced:
                return

    def _save(self, stop: bool) -> None:
        save = getattr(self._model, "save_progress", None)
        if save is not None:
            save(stop) if _takes_argument(save) else save()

    def _take_pending(self) -> None:
        """In training, weights are taken up only where the object of before is lost."""
        if self._pending is not None:
            try:
                self._model.update(self._pending)
            except Exception as error:
                print(f"update in mode 'train' raised {error!r}: it trains from its own weights")
            self._pending = None

    def get_weights(self) -> Weights:
        """Return the model's weights as it flattens them."""
        return {"weights": contract.array(self._model.get_weight(), "get_weight", "weight_array")}

    def get_state(self) -> tuple[bytes, set[int]] | None:
        """Return the object in training, and which labels it has."""
        frozen = modules.frozen(self._model) if self._trains else None
        return None if frozen is None else (frozen, self._seen)

    def set_state(self, state: tuple[bytes, set[int]] | None) -> None:
        """Take up the object of before."""
        model = None if state is None else modules.thawed(state[0])
        if state is not None and model is not None:
            self._model, self._seen, self._pending = model, state[1], None

    def close(self) -> None:
        """Tell it that the workflow shuts down."""
        _stop_run(self._model)


class Committee(Members):
    """The models of one process: what they predict is put together in one go."""

    def predict(self, samples: Batch) -> Any:
        """Ask each model; return an array (members, n, size), or lists where sizes differ."""
        answers = super().predict(samples)
        joined = _joined([row for answer in answers for row in answer])
        if joined is None:
            return answers
        return joined.reshape(len(answers), len(samples), joined.shape[1])


class Request:
    """What `retrain` gets as `req_data`: whether it should return now."""

    def __init__(self, news: Callable[[], bool], slice_: float) -> None:
        self._news = news
        self._end = time.monotonic() + slice_
        self.sliced = False
        """Whether it was told to return for no other reason than to let others train."""

    def Test(self) -> bool:  # noqa: N802 - the name of MPI's method
        """Whether new data have come, or the end; from then on it stays so."""
        if not self.sliced and time.monotonic() > self._end and not self._news():
            self.sliced = True
        return self.sliced or self._news()

    test = Test


class Oracle:
    """An oracle: one `UserOracle`.

    Options:
        module: the file that defines `UserOracle`.
        result_dir: the folder it is told to write into.
        rank: of the first oracle.
        count: oracles that the settings asked for.
        total: processes in all; oracles added later are numbered from there.
    """

    def __init__(
        self, context: Context, module: str, result_dir: str, rank: int, count: int, total: int
    ) -> None:
        index = context.index
        own = rank + index if index < count else total + index - count
        self._oracle = _made(module, "UserOracle", own, result_dir)
        self._folder = os.getcwd()

    def label(self, sample: Array) -> Array:
        """Run one calculation, in the folder where the oracle itself was last."""
        os.chdir(self._folder)
        try:
            answer = self._oracle.run_calc(sample)
        finally:
            self._folder = os.getcwd()
        return contract.array(answer, "run_calc", "orcl_calc_res")

    def close(self) -> None:
        """Tell it that the workflow shuts down."""
        os.chdir(self._folder)
        _stop_run(self._oracle)


class Selector:
    """The controller's part: `prediction_check`, and `adjust_input_for_oracle` where wanted.

    Options:
        module: the file that defines them.
        adjust: whether to order the queue by `adjust_input_for_oracle`.
    """

    by_members = True

    def __init__(self, module: str, adjust: bool = False) -> None:
        self._check = modules.member(Path(module), "prediction_check")
        self._adjust = modules.member(Path(module), "adjust_input_for_oracle") if adjust else None

    def select(self, samples: Batch, prediction: Prediction) -> Selection:
        """Let the user's function choose what is labelled and what generators hear."""
        count = len(samples)
        inputs: list[Any] = list(samples.columns[BARE] if samples.uniform else samples)
        answer = self._check(inputs, _by_sample(prediction))
        wanted, checked = contract.pair(
            answer, "prediction_check", "list_input_to_orcl and list_data_to_gene_checked"
        )
        wanted = contract.arrays(wanted, "prediction_check", "list_input_to_orcl")
        checked = contract.arrays(checked, "prediction_check", "list_data_to_gene_checked", count)
        candidates = _rows(wanted, inputs) if wanted else np.empty(0, np.intp)
        trusted = np.ones(count, bool)
        trusted[candidates] = False
        doubt = np.zeros(count)
        if wanted:  # of the others nobody asks
            doubt[candidates] = _doubt(prediction.take(candidates))
        joined = _joined(checked)
        told = Batch(checked) if joined is None else Batch.stacked(joined)
        return Selection(candidates, doubt, trusted, wanted or None, told)

    def rank(self, queue: Batch, prediction: Prediction) -> Ranking:
        """Let the user's function order the samples that wait, or leave some of them out."""
        doubt = _doubt(prediction)
        if self._adjust is None:
            return Ranking(np.arange(len(queue)), doubt)
        waiting = [np.array(sample) for sample in queue]
        predictions = [list(member) for member in prediction.members]
        answer = self._adjust(list(waiting), predictions)
        kept = contract.arrays(answer, "adjust_input_for_oracle", "to_orcl_buffer")
        return Ranking(_places(kept, waiting), doubt)


def _by_sample(prediction: Prediction) -> list[Array]:
    """Return for each sample an array (members, size), as `prediction_check` expects."""
    members = prediction.members
    try:
        if all(batch.uniform for batch in members):
            return list(np.stack([batch.columns[BARE] for batch in members], axis=1))
        return [np.stack(rows) for rows in zip(*members, strict=True)]
    except ValueError as error:
        sizes = [sorted({named(row)[BARE].size for row in batch}) for batch in members]
        raise InterfaceError(
            f"predict of the models returned arrays of different sizes for one input: {sizes}; "
            "expected the same from each model"
        ) from error


def _joined(rows: Sequence[Array]) -> Array | None:
    """Return 1-D arrays as the rows of one; None if they differ in size."""
    if len({row.size for row in rows}) != 1:
        return None
    return np.concatenate(rows).reshape(len(rows), -1)


def _doubt(prediction: Prediction) -> Array:
    """The largest standard deviation in each sample's prediction, for queue and monitor."""
    deviation = prediction.deviation
    if deviation.uniform and len(deviation):
        return np.max(deviation.columns[BARE], axis=1, initial=0.0)  # type: ignore[no-any-return]
    return np.array([np.max(named(item)[BARE], initial=0.0) for item in deviation])


def _rows(wanted: Sequence[Array], inputs: Sequence[Array]) -> Array:
    """Find the generator that each of the wanted arrays came from; the first where none did."""
    by_identity = {id(array): row for row, array in enumerate(inputs)}
    rows = [by_identity.get(id(array), -1) for array in wanted]
    if -1 in rows:
        by_value = {_key(array): row for row, array in reversed(list(enumerate(inputs)))}
        rows = [
            by_value.get(_key(array), 0) if row < 0 else row
            for row, array in zip(rows, wanted, strict=True)
        ]
    return np.array(rows, np.intp)


def _places(kept: Sequence[Array], waiting: Sequence[Array]) -> list[int]:
    """Find each array that was kept among those that waited."""
    places: dict[bytes, list[int]] = {}
    for place in reversed(range(len(waiting))):
        places.setdefault(_key(waiting[place]), []).append(place)
    found = []
    for array in kept:
        same = places.get(_key(array))
        if not same:
            raise InterfaceError(
                "adjust_input_for_oracle returned an array that was not in to_orcl_buffer, or "
                "one twice; expected the same arrays in another order, some left out"
            )
        found.append(same.pop())
    return found


def _key(array: Array) -> bytes:
    """The same for arrays of the same numbers, whatever their dtype."""
    kind = np.complex128 if array.dtype.kind == "c" else np.float64
    return array.astype(kind).tobytes()


def _made(module: str, name: str, rank: int, result_dir: str, *more: Any) -> Any:
    """Make one of the user's objects; the folder it is to write into is there."""
    Path(result_dir).mkdir(parents=True, exist_ok=True)
    return modules.member(Path(module), name)(rank, result_dir, *more)


def _stop_run(kernel: Any) -> None:
    stop = getattr(kernel, "stop_run", None)
    if stop is not None:
        stop()


def _takes_argument(method: Any) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters)
