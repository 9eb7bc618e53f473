"""A model as oracle: its labels are its predictions."""

import numpy as np
import pytest
from toy_molecule import batch_of, stretched

from pal.errors import ContractError, KernelImportError, LabelFailure
from pal.kernels.models.distance_network import DistanceNetwork
from pal.kernels.oracles.teacher import Teacher
from pal.records import Batch
from pal.runtime.weights import store
from pal.testing.checks import check_oracle

OPTIONS = {"hidden": [8], "averaging": 0.0}
TABLE = {"kernel": "distance_network", "options": OPTIONS}
SET = stretched(6)
SAMPLE = SET[0].sample


class Sum:
    """A model of bare arrays with one weight."""

    def __init__(self):
        self.factor = 1.0

    def predict(self, samples):
        return self.factor * np.asarray(samples).sum(1, keepdims=True)

    def get_weights(self):
        return {"factor": np.array(self.factor)}

    def set_weights(self, weights):
        self.factor = float(weights["factor"])


@pytest.fixture
def members(context):
    """Two models that have learned a little."""
    models = [DistanceNetwork(context(index), **OPTIONS) for index in range(2)]
    for model in models:
        for epoch, _ in enumerate(model.train(SET)):
            if epoch == 3:
                break
    return models


@pytest.fixture
def run(tmp_path, members):
    """The directory of a campaign, with an older version and one that was not finished."""
    folder = tmp_path / "run"
    weights = {k: model.get_weights() for k, model in enumerate(members)}
    store(folder / "models" / "v000001", {0: weights[1], 1: weights[0]}, {"version": 1})
    store(folder / "models" / "v000002", weights, {"version": 2})
    (folder / "models" / "v000003").mkdir()
    return folder


def predicted(model, sample):
    return {name: array[0] for name, array in model.predict(Batch([sample])).items()}


def test_keeps_the_contract(context, run):
    check_oracle(lambda: Teacher(context(), model=TABLE, weights=run), SAMPLE)


def test_the_label_is_the_mean_of_the_newest_members(context, run, members):
    label = Teacher(context(), model=TABLE, weights=run).label(SAMPLE)
    for name in ("energy", "forces"):
        mean = np.mean([predicted(model, SAMPLE)[name] for model in members], axis=0)
        np.testing.assert_allclose(label[name], mean, rtol=1e-12)


@pytest.mark.parametrize("where", [".", "models", "models/v000002"])
def test_or_the_prediction_of_one_member_bit_for_bit(context, run, members, where):
    label = Teacher(context(), model=TABLE, weights=run / where, member=1).label(SAMPLE)
    for name, array in predicted(members[1], SAMPLE).items():
        np.testing.assert_array_equal(label[name], array)


def test_one_file_of_weights_will_do(context, run, members):
    file = run / "models" / "v000002" / "member-0.npz"
    teacher = Teacher(context(), model=TABLE, weights=str(file), fields=["forces"])
    label = teacher.label(SAMPLE)
    assert set(label) == {"forces"}
    np.testing.assert_array_equal(label["forces"], predicted(members[0], SAMPLE)["forces"])


def test_forces_are_the_negative_gradient(context, run):
    teacher = Teacher(context(), model=TABLE, weights=run, fields=["energy", "forces"])
    step = np.zeros((5, 3))
    step[2, 1] = 1e-3
    plus, minus = (
        float(teacher.label({**SAMPLE, "positions": SAMPLE["positions"] + s})["energy"])
        for s in (step, -step)
    )
    forces = teacher.label(SAMPLE)["forces"]
    assert -(plus - minus) / 2e-3 == pytest.approx(forces[2, 1], abs=2e-2)


def test_models_of_bare_arrays_with_and_without_weights(context, tmp_path):
    sample = np.array([1.0, 2.0, 4.0])
    teacher = Teacher(context(), model=f"{__name__}:Sum")
    np.testing.assert_array_equal(teacher.label(sample), [7.0])
    np.savez(tmp_path / "w.npz", factor=3.0)
    teacher = Teacher(context(), model=f"{__name__}:Sum", weights=tmp_path / "w.npz")
    np.testing.assert_array_equal(teacher.label(sample), [21.0])
    check_oracle(lambda: teacher, sample)


def test_a_model_learns_from_its_teacher(context, run):
    """Distillation: what is learned is what the teacher says."""
    teacher = Teacher(context(), model=TABLE, weights=run)
    from pal.records import LabelledSample

    lessons = [LabelledSample(n, item.sample, teacher.label(item.sample)) for n, item in
               enumerate(stretched(20))]  # fmt: skip
    pupil = DistanceNetwork(context(3), hidden=[16], averaging=0.0)

    def error():
        forces = pupil.predict(batch_of(lessons))["forces"]
        return np.abs(forces - [item.label["forces"] for item in lessons]).mean()

    before = error()
    for epoch, _ in enumerate(pupil.train(lessons)):
        if epoch == 60:
            break
    assert error() < 0.5 * before


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"weights": "absent"}, KernelImportError, "weights = 'absent' holds none; expected"),
        ({"member": 7}, ContractError, r"member = 7; the weights are of members \[0, 1\]"),
        ({"model": {"options": {}}}, ContractError, "teacher: model: expected a kernel's name"),
        (
            {"model": {"kernel": "distance_network", "options": {"hidden": [9]}}},
            ContractError,
            "the weights do not fit the model .*; give the kernel and options",
        ),
    ],
)
def test_bad_options_are_refused_at_the_start(context, run, options, kind, message):
    with pytest.raises(kind, match=message):
        Teacher(context(), **{"model": TABLE, "weights": run, **options})


def test_damaged_weights_are_named(context, tmp_path):
    (tmp_path / "w.npz").write_text("nothing")
    with pytest.raises(KernelImportError, match=r"w.npz' cannot be read"):
        Teacher(context(), model=TABLE, weights=tmp_path / "w.npz")


def test_what_the_model_does_not_predict_is_told(context, run):
    with pytest.raises(ContractError, match=r"predicts \['energy', 'forces'\]; .*\['dipole'\]"):
        Teacher(context(), model=TABLE, weights=run, fields=["dipole"]).label(SAMPLE)


def test_too_large_forces_are_refused(context, run):
    with pytest.raises(LabelFailure, match="max_force"):
        Teacher(context(), model=TABLE, weights=run, max_force=1e-6).label(SAMPLE)
