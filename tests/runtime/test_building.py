"""From what the settings name to kernels that play their roles, or an error that says why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rig import TOYS

from pal.building import KernelSpec, Members, build_committee, nested
from pal.errors import ContractError, KernelImportError, foreseen
from pal.roles import Context

CONTEXT = Context("oracle", 0, 1, 5, Path("."))


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel adds to the import path is gone after each test."""
    monkeypatch.setattr(sys, "path", list(sys.path))


class Plain:
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def label(self, sample: Any) -> Any:
        return sample * self.factor


class Aware(Plain):
    def __init__(self, context: Context, factor: float = 1.0) -> None:
        super().__init__(factor)
        self.context = context


def factory(factor: float) -> Plain:
    return Plain(factor)


def build(kernel: Any, role: str = "oracle", **options: Any) -> Any:
    return KernelSpec.of(role, kernel, options, (TOYS,)).build(CONTEXT)


def test_a_class_is_built_with_its_options() -> None:
    assert build(Plain, factor=3.0).factor == 3.0


def test_a_kernel_that_asks_for_its_context_gets_it() -> None:
    assert build(Aware, factor=2.0).context is CONTEXT


def test_an_object_is_used_as_it_is() -> None:
    assert build(Plain(4.0)).factor == 4.0


def test_a_function_is_an_oracle() -> None:
    assert build(lambda sample: sample + 1).label(1) == 2
    np.testing.assert_array_equal(build("toys:truth").label(np.ones(2)), [2.0])


def test_elsewhere_a_function_makes_the_kernel() -> None:
    class Walker:
        def step(self, feedback: Any) -> int:
            return 7

    assert build(lambda: Walker(), role="generator").step(None) == 7


def test_a_name_is_imported_from_the_paths_of_the_settings() -> None:
    assert type(build("toys:Slow", seconds=0.0)).__name__ == "Slow"


def test_a_class_within_a_class_is_found() -> None:
    assert type(build(Nest.Egg)).__name__ == "Egg"


class Nest:
    class Egg(Plain):
        pass


@pytest.mark.parametrize(
    ("kernel", "options", "words"),
    [
        ("no_such_module:Thing", {}, "No module named 'no_such_module'"),
        ("toys:NoSuchThing", {}, "has no attribute 'NoSuchThing'"),
        ("toys:Slow", {"second": 3}, "unknown option 'second'; did you mean 'seconds'"),
        ("xbt", {}, "no known short name .*; did you mean 'xtb'"),
        ("no-short-name", {}, "no known short name .*known: .*xtb"),
        ("toys:Slow", {"minutes": 3}, "unknown option 'minutes'; known here: seconds"),
        ("toys:OnceOracle", {}, "the option 'flag' is missing"),
    ],
)
def test_what_cannot_be_built_says_why(kernel: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(KernelImportError, match=words) as caught:
        build(kernel, **options)
    assert kernel in str(caught.value)


class Choosy(Plain):
    def __init__(self, *, size: int) -> None:
        if size < 0:
            raise ContractError(f"size is {size}; expected 0 or more")
        super().__init__(1.0 / size)


@pytest.mark.parametrize(
    ("options", "plain"), [({"size": -1}, True), ({"sice": 1}, True), ({"size": 0}, False)]
)
def test_what_a_kernel_refuses_itself_needs_no_traceback(
    options: dict[str, Any], plain: bool
) -> None:
    with pytest.raises(KernelImportError) as caught:
        build(Choosy, **options)
    assert foreseen(caught.value) == plain
    with pytest.raises(KernelImportError) as outer:
        build(lambda: nested("oracle", {"kernel": Choosy, "options": options}, CONTEXT, "it"), "x")
    assert foreseen(outer.value) == plain
    assert str(caught.value) in str(outer.value)


def test_a_module_that_breaks_as_it_is_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "breaks_on_import.py").write_text("1 / 0")
    spec = KernelSpec.of("oracle", "breaks_on_import:Thing", {}, (str(tmp_path),))
    with pytest.raises(KernelImportError, match="ZeroDivisionError: division by zero"):
        spec.load()


def test_what_cannot_travel_says_so() -> None:
    with pytest.raises(KernelImportError, match="cannot be sent to a worker process"):
        KernelSpec.of("oracle", Plain(sys.stdout), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "method"),
    [("generator", "step"), ("model", "predict"), ("oracle", "label"), ("selector", "select")],
)
def test_a_kernel_that_lacks_a_method_of_its_role(role: str, method: str) -> None:
    with pytest.raises(ContractError, match=f"has no method {method}"):
        build(Nest, role=role)


# Committees ------------------------------------------------------------------------------------


class Member:
    def __init__(self, context: Context) -> None:
        self.index, self.weights = context.index, float(context.index)

    def predict(self, samples: Any) -> Any:
        return np.full((len(samples), 1), self.weights)

    def train(self, dataset: Any) -> Iterator[dict[str, float]]:
        for epoch in range(len(dataset)):
            yield {"loss": 10.0 * self.index + epoch}

    def get_weights(self) -> Any:
        return {"w": np.array(self.weights)}

    def set_weights(self, weights: Any) -> None:
        self.weights = float(weights["w"])


class Batched(Member):
    @classmethod
    def committee(cls, models: Any) -> Any:
        return ("together", [model.index for model in models])


def contexts(*members: int) -> list[Context]:
    return [Context("model", index, 9, index, Path(".")) for index in members]


def test_members_are_asked_one_after_the_other() -> None:
    spec = KernelSpec.of("model", Member, {})
    committee = build_committee(spec, contexts(2, 5), training=True)
    np.testing.assert_array_equal(committee.predict([0, 0, 0]), [[[2.0]] * 3, [[5.0]] * 3])
    committee.set_weights(1, {"w": np.array(8.0)})
    assert [float(weights["w"]) for weights in committee.get_weights()] == [2.0, 8.0]


def test_a_model_that_can_do_so_is_asked_in_one_call() -> None:
    spec = KernelSpec.of("model", Batched, {})
    assert build_committee(spec, contexts(1, 2), training=True) == ("together", [1, 2])


def test_members_train_an_epoch_in_turn_until_the_last_is_done() -> None:
    """Who has finished keeps its last metrics."""
    members = Members([Member(context) for context in contexts(0, 1)])
    seen = [[m["loss"] for m in metrics] for metrics in members.train([[1] * 3, [1]])]  # type: ignore[list-item]
    assert seen == [[0.0, 10.0], [1.0, 10.0], [2.0, 10.0]]


def test_nothing_to_learn_is_no_epoch() -> None:
    members = Members([Member(context) for context in contexts(0, 1)])
    assert list(members.train([[], []])) == []


def test_states_of_members_that_have_one() -> None:
    class Remembers(Member):
        def get_state(self) -> Any:
            return self.index * 100

        def set_state(self, state: Any) -> None:
            self.index = state

    models = [Remembers(contexts(1)[0]), Member(contexts(2)[0])]
    members = Members(models)
    assert members.get_state() == [100, None]
    members.set_state([7, None])
    assert models[0].index == 7


def test_a_model_without_training_needs_no_methods_for_it() -> None:
    class Predicts:
        def predict(self, samples: Any) -> Any:
            return samples

    spec = KernelSpec.of("model", Predicts, {})
    build_committee(spec, contexts(0), training=False)
    with pytest.raises(ContractError, match=r"no method train, get_weights, set_weights"):
        build_committee(spec, contexts(0), training=True)


def test_a_kernel_whose_module_is_not_there_in_the_worker_is_named() -> None:
    pickled = b"cno_such_module\nThing\n."
    spec = KernelSpec("model", "Thing", pickled, {}, ("/some/folder",))
    message = r"model Thing cannot be made in this process: ModuleNotFoundError.*/some/folder"
    with pytest.raises(KernelImportError, match=message):
        spec.build(CONTEXT)
