"""Each method of the published interface: when it is called, with what, and what it may return."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pal.compat import contract
from pal.compat.kernels import Generator, Model, Oracle, Request, Selector
from pal.errors import InterfaceError, KernelImportError
from pal.records import Batch, Feedback, LabelledSample, Prediction
from pal.roles import STOP, Context

NUMBERS = np.arange(3.0)


@pytest.fixture
def user(tmp_path: Path) -> Callable[[str], str]:
    """Write a user's file and return its path; each has a name of its own, as modules are kept."""
    count = iter(range(100))

    def write(text: str) -> str:
        path = tmp_path / f"user_{next(count)}_{tmp_path.name.replace('-', '_')}.py"
        path.write_text(f"import numpy as np\n{text}")
        return str(path)

    return write


def context(role: str = "generator", index: int = 0, **more: Any) -> Context:
    return replace(Context(role, index, 4, 0, Path()), **more)


def gene(module: str, index: int = 0, interval: float = 60.0) -> Generator:
    return Generator(context(index=index), module, "results", 4, interval)


def model(module: str, training: bool = False, index: int = 0, **more: Any) -> Model:
    where = context("model", index, training=training, news=more.pop("news", lambda: False))
    return Model(where, module, "results", 2, 10, **more)


def feedback(values: Any) -> Feedback:
    return Feedback(np.array(values), np.zeros(1), 0.0, True, 0)


GENE = """
class UserGene:
    def __init__(self, rank, result_dir):
        self.rank, self.heard, self.saved, self.ended = rank, [], 0, 0
    def generate_new_data(self, data_to_gene):
        self.heard.append(data_to_gene)
        return {answer}
    def save_progress(self):
        self.saved += 1
    def stop_run(self):
        self.ended += 1
"""


def test_a_generator_first_hears_none_then_what_the_check_returned(user: Any) -> None:
    walker = gene(user(GENE.format(answer="False, np.ones(3) * self.rank")), index=2)
    assert np.array_equal(walker.step(None), [6, 6, 6])
    walker.step(feedback([1.0, 2.0]))
    first, second = walker._gene.heard
    assert first is None
    assert second.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("flag", ["True", "np.bool_(True)"])
def test_a_generator_ends_the_workflow(user: Any, flag: str) -> None:
    assert gene(user(GENE.format(answer=f"{flag}, None"))).step(None) is STOP


def test_integers_are_data_too(user: Any) -> None:
    walker = gene(user(GENE.format(answer="np.bool_(False), np.arange(3)")))
    assert np.array_equal(walker.step(None), [0, 1, 2])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("np.ones(3)", "generate_new_data returned an array of shape (3,)"),
        ("False, [1.0]", "generate_new_data returned a list of 1 as data_to_pred"),
        ("False, np.ones((2, 2))", "an array of shape (2, 2)"),
        ("False, np.array(['a'])", "dtype <U1"),
        ("0, np.ones(3)", "generate_new_data returned 0 (int) as stop_run; expected a bool"),
    ],
)
def test_what_a_generator_must_not_return(user: Any, answer: str, words: str) -> None:
    with pytest.raises(InterfaceError) as error:
        gene(user(GENE.format(answer=answer))).step(None)
    assert words in str(error.value)


def test_progress_is_saved_after_the_interval_and_not_before(user: Any) -> None:
    text = GENE.format(answer="False, np.ones(3)")
    patient, eager = gene(user(text)), gene(user(text), interval=0.0)
    for walker in (patient, eager):
        walker.step(None)
        walker.get_state()
    assert (patient._gene.saved, eager._gene.saved) == (0, 1)


def test_a_generator_without_save_progress_and_stop_run(user: Any) -> None:
    text = GENE.format(answer="False, np.ones(3)").split("    def save_progress")[0]
    walker = gene(user(text), interval=0.0)
    walker.step(None)
    walker.get_state()
    walker.close()


def test_the_end_is_told(user: Any) -> None:
    walker = gene(user(GENE.format(answer="False, np.ones(3)")))
    walker.close()
    assert (walker._gene.ended, walker._gene.saved) == (1, 0)


def test_a_generator_goes_on_where_it_stood(user: Any) -> None:
    module = user(GENE.format(answer="False, np.ones(3) * len(self.heard)"))
    walker = gene(module)
    walker.step(None)
    walker.step(feedback([1.0]))
    state = walker.get_state()
    again = gene(module)
    again.set_state(state)
    assert np.array_equal(again.step(None), [2, 2, 2]), "the sample that waits for its answer"
    assert np.array_equal(again.step(feedback([1.0])), [3, 3, 3])


def test_a_generator_that_cannot_be_kept_begins_anew(user: Any, capsys: Any) -> None:
    text = GENE.replace("self.heard, self", "self.file, self.heard, self").replace(
        "rank, [], 0", "rank, (x for x in ()), [], 0"
    )
    module = user(text.format(answer="False, np.ones(3) * len(self.heard)"))
    walker = gene(module)
    walker.step(None)
    state = walker.get_state()
    assert state is None
    assert "UserGene cannot be pickled" in capsys.readouterr().out
    again = gene(module)
    again.set_state(state)
    assert np.array_equal(again.step(None), [1, 1, 1])


MODEL = """
class UserModel:
    def __init__(self, rank, result_dir, i_device, mode):
        self.rank, self.i_device, self.mode = rank, i_device, mode
        self.calls, self.weights, self.points = [], np.ones(2), []
    def predict(self, list_data_to_pred):
        self.given = list_data_to_pred
        return {predicted}
    def update(self, weight_array):
        self.weights = weight_array
    def get_weight_size(self):
        return {size}
    def get_weight(self):
        return {weight}
    def add_trainingset(self, datapoints):
        self.points += datapoints
    def retrain(self, req_data):
        self.calls.append(req_data.Test())
        return {stop}
    def save_progress(self{argument}):
        self.calls.append(("saved", {value}))
    def stop_run(self):
        self.calls.append("stop_run")
"""
FINE = {
    "predicted": "[x[:2] * 2 for x in list_data_to_pred]",
    "size": "2",
    "weight": "self.weights",
    "stop": "False",
    "argument": "",
    "value": "None",
}


def text(**parts: str) -> str:
    return MODEL.format(**{**FINE, **parts})


def labelled(*numbers: int) -> list[LabelledSample]:
    return [LabelledSample(n, np.full(3, float(n)), np.full(2, float(n))) for n in numbers]


@pytest.mark.parametrize(
    ("training", "rank", "device", "mode"), [(False, 3, 7, "predict"), (True, 11, 9, "train")]
)
def test_a_model_hears_its_rank_device_and_mode(
    user: Any, training: bool, rank: int, device: int, mode: str
) -> None:
    found = model(user(text()), training, index=1, gpu_pred=[5, 7], gpu_ml=[9])._model
    assert (found.rank, found.i_device, found.mode) == (rank, device, mode)


def test_a_model_predicts_for_all_generators_in_their_order(user: Any) -> None:
    member = model(user(text()))
    answer = member.predict(Batch.stacked(np.arange(12.0).reshape(4, 3)))
    assert [row.tolist() for row in answer] == [[0, 2], [6, 8], [12, 14], [18, 20]]
    assert isinstance(member._model.given, list)


def test_inputs_of_several_sizes_come_in_one_list(user: Any) -> None:
    member = model(user(text()))
    member.predict(Batch([np.ones(3), np.ones(5)]))
    assert [len(x) for x in member._model.given] == [3, 5]


def test_a_model_may_write_into_what_it_gets(user: Any) -> None:
    predicted = "[x.__imul__(0)[:2] for x in list_data_to_pred]"
    samples = Batch.stacked(np.ones((2, 3)))
    model(user(text(predicted=predicted))).predict(samples)
    assert (samples.columns[""] == 1).all()


@pytest.mark.parametrize(
    ("predicted", "words"),
    [
        ("[np.ones(2)]", "predict returned 1 arrays as data_to_gene_list; expected 4"),
        ("None", "predict returned NoneType as data_to_gene_list; expected a list"),
        ("[1.0] * 4", "predict returned 1.0 (float) as data_to_gene_list[0]"),
        ("[np.ones((1, 2))] * 4", "an array of shape (1, 2)"),
    ],
)
def test_what_predict_must_not_return(user: Any, predicted: str, words: str) -> None:
    with pytest.raises(InterfaceError) as error:
        model(user(text(predicted=predicted))).predict(Batch.stacked(np.ones((4, 3))))
    assert words in str(error.value)


def test_new_weights_reach_update_as_a_flat_array_of_its_own(user: Any) -> None:
    trainer, member = model(user(text()), training=True), model(user(text()))
    weights = trainer.get_weights()
    member.set_weights(weights)
    member._model.weights += 1
    assert trainer._model.weights.tolist() == [1, 1]


def test_weights_of_another_size_are_refused(user: Any) -> None:
    with pytest.raises(InterfaceError, match="get_weight returned 2 numbers, but get_weight_size"):
        model(user(text(size="3"))).set_weights({"weights": np.ones(2)})


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("size", "2.0", "get_weight_size returned 2.0 (float); expected an int"),
        ("weight", "[1.0]", "get_weight returned a list of 1 as weight_array"),
        ("stop", "None", "retrain returned NoneType as stop_run; expected a bool"),
    ],
)
def test_what_training_methods_must_not_return(
    user: Any, part: str, value: str, words: str
) -> None:
    module = user(text(**{part: value}))

    def all_of_it() -> None:
        member = model(module, training=part != "size")
        list(member.train(labelled(1)))
        member.get_weights()

    with pytest.raises(InterfaceError) as error:
        all_of_it()
    assert words in str(error.value)


def test_numpy_scalars_pass_for_pythons(user: Any) -> None:
    module = user(text(size="np.int32(2)", stop="np.bool_(True)"))
    model(module)
    assert list(model(module, training=True).train(labelled(1))) == [{"stop": 1.0}]


def test_training_gets_what_is_new_saves_and_retrains(user: Any) -> None:
    member = model(user(text()), training=True)
    assert list(member.train(labelled(1, 2))) == [{}]
    assert list(member.train(labelled(1, 2, 3))) == [{}]
    points = member._model.points
    assert [[x[0], y[0]] for x, y in points] == [[1, 1], [2, 2], [3, 3]]
    saved = ("saved", None)
    assert member._model.calls == [saved, False, saved] * 2
    assert all(isinstance(point, list) for point in points)


def test_save_progress_may_take_the_flag(user: Any) -> None:
    module = user(text(argument=", stop_run", value="stop_run", stop="True"))
    member = model(module, training=True)
    list(member.train(labelled(1)))
    assert member._model.calls == [("saved", False), False, ("saved", True)]


def test_req_data_tells_of_news_as_soon_as_there_are_some() -> None:
    news = [False]
    request = Request(lambda: news[0], math.inf)
    assert request.Test() is False
    news[0] = True
    assert request.Test() is True
    assert not request.sliced


def test_models_of_one_process_train_in_turn() -> None:
    request = Request(lambda: False, 0.0)
    assert request.Test() is True
    assert request.sliced


def test_a_trainer_goes_on_where_it_stood(user: Any) -> None:
    module = user(text())
    member = model(module, training=True)
    list(member.train(labelled(1, 2)))
    again = model(module, training=True)
    again.set_weights(member.get_weights())
    again.set_state(member.get_state())
    list(again.train(labelled(1, 2, 3)))
    assert len(again._model.points) == 3


def test_a_trainer_whose_object_is_lost_takes_the_weights_up(user: Any) -> None:
    again = model(user(text()), training=True)
    again.set_weights({"weights": np.array([7.0, 8.0])})
    again.set_state(None)
    list(again.train(labelled(1)))
    assert again._model.weights.tolist() == [7.0, 8.0]


ORACLE = """
import os
class UserOracle:
    def __init__(self, rank, result_dir):
        self.rank = rank
        os.makedirs("own", exist_ok=True)
        os.chdir("own")
    def run_calc(self, input_for_orcl):
        self.where = os.getcwd()
        return {answer}
    def stop_run(self):
        self.ended = os.getcwd()
"""


def oracle(module: str, index: int = 0) -> Oracle:
    return Oracle(context("oracle", index), module, "results", 8, 2, 12)


def test_an_oracle_calculates_in_the_folder_of_its_choice(
    user: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = oracle(user(ORACLE.format(answer="input_for_orcl * 2")))
    monkeypatch.chdir(tmp_path)
    assert found.label(NUMBERS).tolist() == [0, 2, 4]
    assert found._oracle.where == str(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    found.close()
    assert found._oracle.ended == str(tmp_path / "own")


def test_ranks_of_oracles_that_come_later_are_new(
    user: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = user(ORACLE.format(answer="1"))
    ranks = []
    for index in (0, 1, 2, 3):
        monkeypatch.chdir(tmp_path)
        ranks.append(oracle(module, index)._oracle.rank)
    assert ranks == [8, 9, 12, 13]


def test_what_an_oracle_must_not_return(
    user: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InterfaceError, match=r"run_calc returned 1\.5 \(float\) as orcl_calc_res"):
        oracle(user(ORACLE.format(answer="1.5"))).label(NUMBERS)


UTILS = """
def prediction_check(list_data_to_pred, list_data_to_gene):
    prediction_check.given = list_data_to_pred, list_data_to_gene
    return {wanted}, {checked}
def adjust_input_for_oracle(to_orcl_buffer, pred_list):
    adjust_input_for_oracle.given = to_orcl_buffer, pred_list
    return {kept}
"""
ALL = "[p.mean(axis=0) for p in list_data_to_gene]"


def selector(module: str, adjust: bool = False) -> Selector:
    return Selector(module, adjust)


def check_of(user: Any, wanted: str = "[]", checked: str = ALL, kept: str = "[]") -> Selector:
    return selector(user(UTILS.format(wanted=wanted, checked=checked, kept=kept)), adjust=True)


def predicted(count: int = 3, members: int = 2, size: int = 4) -> tuple[Batch, Prediction]:
    values = np.arange(float(members * count * size)).reshape(members, count, size)
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
    batches = [Batch.stacked(value) for value in values]
    samples = Batch.stacked(np.arange(3.0 * count).reshape(count, 3))
    return samples, Prediction(batches, Batch.stacked(mean), Batch.stacked(deviation))


def test_the_check_sees_one_array_of_all_members_for_each_generator(user: Any) -> None:
    found = check_of(user)
    samples, prediction = predicted()
    found.select(samples, prediction)
    inputs, predictions = found._check.given
    assert [x.tolist() for x in inputs] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [p.shape for p in predictions] == [(2, 4)] * 3
    assert predictions[1][0].tolist() == [4, 5, 6, 7]
    assert predictions[1][1].tolist() == [16, 17, 18, 19]


def test_what_the_check_chooses_goes_to_oracles_and_generators(user: Any) -> None:
    found = check_of(user, wanted="[list_data_to_pred[2], list_data_to_pred[0].copy()]")
    samples, prediction = predicted()
    selection = found.select(samples, prediction)
    assert np.array_equal(selection.candidates, [2, 0])
    assert selection.trusted.tolist() == [False, True, False]
    assert [x.tolist() for x in selection.inputs or ()] == [[6, 7, 8], [0, 1, 2]]
    assert np.array_equal(
        selection.feedback or (), [p.mean(axis=0) for p in found._check.given[1]]
    )


def test_the_check_may_want_other_inputs_than_it_got_and_more_of_them(user: Any) -> None:
    selection = check_of(user, wanted="[np.ones(5)] * 7").select(*predicted())
    assert len(selection.inputs or ()) == len(selection.candidates) == 7


@pytest.mark.parametrize(
    ("wanted", "checked", "words"),
    [
        ("[]", "[np.ones(1)]", "returned 1 arrays as list_data_to_gene_checked; expected 3"),
        ("[]", "[1, 2, 3]", "returned 1 (int) as list_data_to_gene_checked[0]"),
        ("None", ALL, "returned NoneType as list_input_to_orcl"),
        ("[[1.0]]", ALL, "returned a list of 1 as list_input_to_orcl[0]"),
    ],
)
def test_what_the_check_must_not_return(user: Any, wanted: str, checked: str, words: str) -> None:
    with pytest.raises(InterfaceError) as error:
        check_of(user, wanted, checked).select(*predicted())
    assert f"prediction_check {words}" in str(error.value)


def test_the_queue_is_ordered_by_the_newest_models(user: Any) -> None:
    found = check_of(user, kept="[to_orcl_buffer[2], to_orcl_buffer[0]]")
    queue, prediction = predicted()
    ranking = found.rank(queue, prediction)
    assert list(ranking.order) == [2, 0]
    buffer, predictions = found._adjust.given  # type: ignore[union-attr]
    assert [x.tolist() for x in buffer] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert np.array(predictions).shape == (2, 3, 4), "members, inputs, outputs"


def test_the_order_may_be_of_other_numbers_types(user: Any) -> None:
    found = check_of(user, kept="list(np.array(to_orcl_buffer, dtype=float)[::-1])")
    _, prediction = predicted()
    queue = Batch.stacked(np.arange(9, dtype=np.int32).reshape(3, 3))
    assert list(found.rank(queue, prediction).order) == [2, 1, 0]


def test_equal_inputs_are_told_apart_by_their_number(user: Any) -> None:
    found = check_of(user, kept="to_orcl_buffer")
    _, prediction = predicted()
    queue = Batch.stacked(np.ones((3, 3)))
    assert sorted(found.rank(queue, prediction).order) == [0, 1, 2]


@pytest.mark.parametrize("kept", ["[np.zeros(3)]", "[to_orcl_buffer[0]] * 2"])
def test_inputs_that_did_not_wait_are_refused(user: Any, kept: str) -> None:
    with pytest.raises(InterfaceError, match="adjust_input_for_oracle returned an array that"):
        check_of(user, kept=kept).rank(*predicted())


@pytest.mark.parametrize("name", ["UserGene", "UserModel", "UserOracle"])
def test_what_a_file_lacks_is_named(user: Any, name: str) -> None:
    module = user("")
    make = {"UserGene": gene, "UserModel": model, "UserOracle": oracle}[name]
    with pytest.raises(KernelImportError, match=f"has no {name}"):
        make(module)  # type: ignore[operator]


def test_a_file_that_raises_says_so(user: Any) -> None:
    with pytest.raises(KernelImportError, match="ZeroDivisionError"):
        gene(user("1 / 0"))


def test_checks_name_the_value_that_came() -> None:
    with pytest.raises(
        InterfaceError, match=r"f returned a tuple of 1; expected two values, a, b"
    ):
        contract.pair((1,), "f", "a, b")
