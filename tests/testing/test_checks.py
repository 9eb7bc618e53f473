"""Each check accepts an honest kernel and names what a dishonest one does."""

import numpy as np
import pytest

from pal.errors import ContractError, KernelError, NotFiniteError, ShapeError
from pal.records import Batch, Feedback, LabelledSample, Ranking, Selection
from pal.roles import STOP
from pal.testing.checks import (
    check_generator,
    check_model,
    check_oracle,
    check_selector,
    predicted,
)

DATA = [LabelledSample(k, np.array([float(k)]), np.array([2.0 * k])) for k in range(6)]
SAMPLES = Batch([item.sample for item in DATA])


def answer(sample):
    return Feedback(2 * sample, sample, 0.0, True, 0)


class Drifter:
    """An honest walker."""

    def __init__(self):
        self.place = np.zeros(2)

    def step(self, feedback):
        if feedback is not None:
            self.place = self.place + 0.1 * feedback.mean + 1
        return self.place

    def get_state(self):
        return self.place

    def set_state(self, state):
        self.place = state


class Line:
    """An honest model: label = slope * sample."""

    def __init__(self):
        self.slope = np.zeros(1)

    def predict(self, samples):
        return np.asarray(samples) * self.slope

    def train(self, dataset):
        for _ in range(5):
            self.slope = self.slope + 0.5 * (2.0 - self.slope)
            yield {"loss": float(abs(2.0 - self.slope[0]))}

    def get_weights(self):
        return {"slope": self.slope}

    def set_weights(self, weights):
        self.slope = weights["slope"]


class Doubler:
    """An honest oracle."""

    def label(self, sample):
        return 2 * sample


class Chooser:
    """An honest selector."""

    def select(self, samples, prediction):
        size = len(samples)
        return Selection([size - 1], np.ones(size), np.ones(size, bool))

    def rank(self, queue, prediction):
        return Ranking([2, 0], np.ones(len(queue)))


def but(kind, **methods):
    """An honest kernel, except for these methods."""
    return type("Dishonest", (kind,), methods)


def prediction():
    return predicted([Line(), Line()], SAMPLES)


def test_honest_kernels_pass():
    check_generator(Drifter, answer)
    check_generator(but(Drifter, step=lambda self, feedback: STOP), answer)
    check_model(Line, DATA)
    check_oracle(Doubler, np.ones(3))
    check_oracle(Doubler, np.ones(3))
    check_selector(Chooser, SAMPLES, [prediction()])


def test_predicted_is_mean_and_deviation_of_the_members():
    one, other = Line(), Line()
    one.slope, other.slope = np.array([1.0]), np.array([3.0])
    result = predicted([one, other], SAMPLES)
    np.testing.assert_allclose(np.asarray(result.mean), 2 * np.asarray(SAMPLES))
    np.testing.assert_allclose(result.deviation[1], [2**0.5])


@pytest.mark.parametrize("role", [check_generator, check_model, check_oracle, check_selector])
def test_a_missing_method_is_named(role):
    arguments = {
        check_generator: (answer,),
        check_model: (DATA,),
        check_oracle: (np.ones(1),),
        check_selector: (SAMPLES, [prediction()]),
    }[role]
    with pytest.raises(KernelError, match=r"needs the methods? .*object has none"):
        role(object, *arguments)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, ContractError, "returned NoneType"),
        (3.0, ContractError, r"expected a numpy array.* or pal\.STOP"),
        (np.array([]), ContractError, "not empty"),
        (np.array([np.nan]), NotFiniteError, "NaN"),
    ],
)
def test_bad_samples(value, error, words):
    with pytest.raises(error, match=words):
        check_generator(but(Drifter, step=lambda self, feedback: value), answer)


def test_a_walker_that_forgets():
    def forget(self, state):
        self.place = np.zeros(2)

    with pytest.raises(ContractError, match="must return the present sample again"):
        check_generator(but(Drifter, set_state=forget), answer)

    class Erratic(Drifter):
        """Keeps its place, but not its random numbers."""

        def __init__(self):
            super().__init__()
            self.random = np.random.default_rng()

        def step(self, feedback):
            if feedback is not None:
                self.place = self.place + self.random.normal(size=2)
            return self.place

    with pytest.raises(ContractError, match="must go on as the first one"):
        check_generator(Erratic, answer)


def test_bad_labels_of_a_model():
    with pytest.raises(ShapeError, match="2 labels for 6 samples"):
        check_model(but(Line, predict=lambda self, samples: np.zeros((2, 1))), DATA)
    with pytest.raises(ShapeError, match="expected those of the dataset"):
        check_model(but(Line, predict=lambda self, samples: np.zeros((6, 4))), DATA)
    with pytest.raises(NotFiniteError, match=r"samples \[0, 1, 2, 3, 4\]"):
        check_model(but(Line, predict=lambda self, samples: np.full((6, 1), np.inf)), DATA)


def test_a_model_may_predict_some_of_the_labels_but_no_others():
    data = [
        LabelledSample(i.identity, i.sample, {"energy": i.label, "cost": np.ones(())})
        for i in DATA
    ]

    def under(name):
        return lambda self, samples: {name: Line.predict(self, samples)}

    check_model(but(Line, predict=under("energy")), data)
    with pytest.raises(ShapeError, match="or some of them"):
        check_model(but(Line, predict=under("enthalpy")), data)


def test_bad_training():
    def train_tuple(self, dataset):
        yield 1.0, 2.0

    def train_nan(self, dataset):
        yield {"loss": float("nan")}

    def train_text(self, dataset):
        yield {"loss": "small"}

    with pytest.raises(ContractError, match="train yielded tuple"):
        check_model(but(Line, train=train_tuple), DATA)
    with pytest.raises(NotFiniteError, match="metric 'loss' is nan"):
        check_model(but(Line, train=train_nan), DATA)
    with pytest.raises(ContractError, match="metric 'loss' is str"):
        check_model(but(Line, train=train_text), DATA)


def test_weights_that_do_not_travel():
    rounded = but(Line, get_weights=lambda self: {"slope": np.round(self.slope)})
    with pytest.raises(ContractError, match="must predict bit for bit the same"):
        check_model(rounded, DATA)
    with pytest.raises(ContractError, match="expected a mapping of names to arrays"):
        check_model(but(Line, get_weights=lambda self: [self.slope]), DATA)
    with pytest.raises(ContractError, match="no arrays of numbers"):
        check_model(but(Line, get_weights=lambda self: {"slope": object()}), DATA)


def test_a_model_whose_state_leaves_something_out():
    class Counting(Line):
        def __init__(self):
            super().__init__()
            self.epochs = 0

        def train(self, dataset):
            self.epochs += 1
            self.slope = self.slope + 1.0 / self.epochs
            yield {"loss": 0.0}

        def get_state(self):
            return self.slope

        def set_state(self, state):
            self.slope = state

    with pytest.raises(ContractError, match="training from the same state"):
        check_model(Counting, DATA)


def test_a_committee_that_is_not_its_members():
    class Proud(Line):
        @classmethod
        def committee(cls, models):
            return Together()

    class Together:
        def predict(self, samples):
            return np.ones((2, len(samples), 1))

    with pytest.raises(ContractError, match="another label than its members"):
        check_model(Proud, DATA)


def test_bad_labels_of_an_oracle():
    with pytest.raises(ContractError, match="label returned NoneType"):
        check_oracle(but(Doubler, label=lambda self, sample: None), np.ones(1))
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        check_oracle(but(Doubler, label=lambda self, sample: sample * np.nan), np.ones(1))

    def spoil(self, sample):
        sample += 1
        return sample

    with pytest.raises(ContractError, match="must not change its sample"):
        check_oracle(but(Doubler, label=spoil), np.ones(1))


@pytest.mark.parametrize("indices", [[6], [-1], [0.5]])
def test_candidates_out_of_range(indices):
    def select(self, samples, prediction):
        return Selection(indices, np.ones(6), np.ones(6, bool))

    with pytest.raises(ContractError, match="from 0 to 5"):
        check_selector(but(Chooser, select=select), SAMPLES, [prediction()])


def test_bad_selections_and_rankings():
    def twice(self, samples, prediction):
        return Selection([1, 1], np.ones(6), np.ones(6, bool))

    def short(self, samples, prediction):
        return Selection([], np.ones(5), np.ones(6, bool))

    def unsure(self, samples, prediction):
        return Selection([], np.full(6, np.nan), np.ones(6, bool))

    for select, words in [(twice, "different ones"), (short, r"\(6,\)"), (unsure, "finite")]:
        with pytest.raises(ContractError, match=words):
            check_selector(but(Chooser, select=select), SAMPLES, [prediction()])
    for result, words in [
        (None, "rank returned NoneType"),
        (Ranking([0, 0], np.ones(6)), "different ones"),
        (Ranking([0], np.ones(2)), "uncertainty of shape"),
    ]:
        dishonest = but(Chooser, rank=lambda self, queue, prediction, r=result: r)
        with pytest.raises(ContractError, match=words):
            check_selector(dishonest, SAMPLES, [prediction()])


class Wanderer(Drifter):
    """An honest walker that may move in an ensemble."""

    @classmethod
    def ensemble(cls, walkers):
        return Wanderers(walkers)


class Wanderers:
    def __init__(self, walkers):
        self.places = np.array([walker.place for walker in walkers])

    def step(self, rows, feedback):
        if feedback is not None:
            self.places[rows] = self.places[rows] + 0.1 * np.asarray(feedback.mean) + 1
        return Batch.stacked(self.places[rows])

    def get_state(self, row):
        return self.places[row]

    def set_state(self, row, state):
        self.places[row] = state


class Swarm(Wanderers):
    """Each hears of the others."""

    def step(self, rows, feedback):
        batch = super().step(rows, feedback)
        return Batch.stacked(np.asarray(batch) + self.places.mean(axis=0))


class Everyone(Wanderers):
    """Moves those that wait, too."""

    def step(self, rows, feedback):
        if feedback is not None:
            self.places += 0.01
        return super().step(rows, feedback)


def joining(kind):
    return but(Wanderer, ensemble=classmethod(lambda cls, walkers: kind(walkers)))


def test_an_honest_ensemble_passes():
    check_generator(Wanderer, answer)


def test_walkers_that_hear_of_each_other_pass_as_such():
    check_generator(joining(Swarm), answer, independent=False)
    with pytest.raises(ContractError, match="must go the same way as one by one"):
        check_generator(joining(Swarm), answer)


@pytest.mark.parametrize(
    "kind",
    [
        Everyone,
        type("Short", (Wanderers,), {"step": lambda self, rows, feedback: self.places[:1]}),
        type("Forgetful", (Wanderers,), {"set_state": lambda self, row, state: None}),
    ],
)
def test_a_dishonest_ensemble_is_found(kind):
    with pytest.raises(ContractError, match=r"same way as one by one|expected a Batch"):
        check_generator(joining(kind), answer)


def test_an_ensemble_without_states_is_named():
    lacking = type("Lacking", (), {"step": Wanderers.step, "__init__": Wanderers.__init__})
    with pytest.raises(ContractError, match="Lacking has no method get_state, set_state"):
        check_generator(joining(lacking), answer)
