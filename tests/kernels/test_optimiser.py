"""The optimiser finds what the committee predicts to be best, alone or as a swarm."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import pal
from pal.errors import ContractError
from pal.kernels.generators.optimiser import Optimiser
from pal.kernels.generators.parts.best_designs import FILE, BestDesigns, Found
from pal.records import Feedback, Feedbacks
from pal.roles import STOP
from pal.testing.checks import check_generator

LOWER, UPPER = [-2.0, 0.0, 10.0], [2.0, 1.0, 30.0]
BEST = np.array([0.5, 0.25, 14.0])


def answer(sample, trusted=True, version=0, deviation=0.1):
    """A bumpy bowl (Rastrigin's function in a cube) around BEST; the least is 0."""
    away = 2 * (sample - BEST) / (np.array(UPPER) - LOWER)
    value = np.array((10 * away**2 + 0.5 - 0.5 * np.cos(6 * np.pi * away)).sum())
    return Feedback(value, np.array(deviation), deviation, trusted, version)


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return Optimiser(context(index), **{"lower": LOWER, "upper": UPPER} | options)

    return build


def walk(walker, steps, reply=answer):
    """Return the designs, and the values heard about them."""
    designs, feedback = [], None
    for _ in range(steps):
        sample = walker.step(feedback)
        if sample is STOP:
            break
        feedback = reply(sample)
        designs.append(np.copy(sample))
    return np.array(designs)


def swarm_walk(swarm, count, steps, reply=answer):
    rows, heard, designs = np.arange(count), None, []
    for _ in range(steps):
        samples = swarm.step(rows, heard)
        designs.extend(samples)
        heard = Feedbacks.of([reply(sample) for sample in samples])
    return np.array(designs)


def values(designs):
    return np.array([answer(design).mean for design in designs])


@pytest.mark.parametrize(
    "algorithm", ["PSO", "DE", "OnePlusOne", pytest.param("CMA", marks=pytest.mark.slow)]
)
def test_finds_the_minimum_better_than_chance(make, algorithm):
    """Of a bumpy bowl in six dimensions, where chance needs long."""

    def reply(sample):
        return answer(sample.reshape(2, 3))

    options = {"lower": 2 * LOWER, "upper": 2 * UPPER, "algorithm": algorithm, "budget": 500}
    found = np.array([reply(design).mean for design in walk(make(**options), 500, reply)])
    rng = np.random.default_rng(0)
    random = np.array([reply(rng.uniform(2 * LOWER, 2 * UPPER)).mean for _ in range(500)])
    assert found.min() < 0.6 * random.min()
    assert np.median(found[-100:]) < 0.3 * np.median(random)


def test_stays_in_its_box(make):
    designs = walk(make(), 150)
    assert (designs >= LOWER).all()
    assert (designs <= UPPER).all()
    assert (np.ptp(designs, axis=0) > 0.5 * (np.array(UPPER) - LOWER)).all()


@pytest.mark.parametrize("algorithm", ["PSO", "DE", "CMA"])
def test_keeps_the_contract(make, algorithm):
    check_generator(lambda: make(algorithm=algorithm), answer, 45, independent=False)
    check_generator(lambda: make(algorithm=algorithm, budget=15), answer, independent=False)


def test_the_same_seed_gives_the_same_designs(make):
    one, same, other = (walk(make(index), 100) for index in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.isclose(one, other).all(axis=1).any()


def test_a_swarm_learns_from_all_its_particles(make):
    """Eight walkers of one search converge in as many designs as one; eight searches do not."""
    together = Optimiser.ensemble([make(index) for index in range(8)])
    shared = values(swarm_walk(together, 8, 60))
    apart = np.array([values(walk(make(index), 60)) for index in range(8)])
    assert np.median(shared[-80:]) < 0.5 * np.median(apart[:, -10:])


def test_some_of_a_swarm_may_move_while_others_wait(make):
    swarm = Optimiser.ensemble([make(index) for index in range(3)])
    first = swarm.step(np.arange(3), None)
    second = swarm.step(np.array([1]), Feedbacks.of([answer(first[1])]))
    again = swarm.step(np.arange(3), None)
    np.testing.assert_array_equal(again, [first[0], second[0], first[2]])


def test_a_swarm_goes_on_where_it_stood(make):
    swarm = Optimiser.ensemble([make(index) for index in range(4)])
    swarm_walk(swarm, 4, 20)
    states = [pickle.loads(pickle.dumps(swarm.get_state(row))) for row in range(4)]
    walkers = [make(index) for index in range(4)]
    for walker, state in zip(walkers, states, strict=True):
        walker.set_state(state)
    restored = Optimiser.ensemble(walkers)
    np.testing.assert_array_equal(swarm_walk(restored, 4, 30), swarm_walk(swarm, 4, 30))


def test_one_particle_taken_back_does_not_take_the_swarm_back(make):
    swarm = Optimiser.ensemble([make(index) for index in range(3)])
    swarm_walk(swarm, 3, 5)
    old = [swarm.get_state(row) for row in range(3)]
    swarm_walk(swarm, 3, 5)
    told = swarm.get_state(0)["search"]["told"]
    rows = np.arange(3)
    before = swarm.step(rows, None)
    swarm.set_state(0, old[0])
    after = swarm.step(rows, None)
    assert swarm.get_state(0)["search"]["told"] == told
    np.testing.assert_array_equal(after[0], old[0]["asked"].design)
    np.testing.assert_array_equal(after[1:], before[1:])
    swarm_walk(swarm, 3, 5)


def test_a_particle_of_a_swarm_may_go_on_alone(make):
    swarm = Optimiser.ensemble([make(index) for index in range(2)])
    swarm_walk(swarm, 2, 5)
    alone = make(1)
    alone.set_state(swarm.get_state(1))
    assert np.array_equal(alone.step(None), swarm.step(np.array([1]), None)[0])
    assert len(walk(alone, 20)) == 20


def read(tmp_path):
    return json.loads((tmp_path / FILE).read_text())


def test_the_best_are_written_down_with_their_deviation(make, tmp_path):
    designs = walk(make(keep=5), 200)
    best = read(tmp_path)
    heights = np.sort(values(designs[:-1]))
    assert [each["objectives"][""] for each in best["designs"]] == pytest.approx(heights[:5])
    first = best["designs"][0]
    assert first["deviation"] == {"": 0.1}
    assert first["uncertainty"] == 0.1
    assert answer(np.array(first["parameters"])).mean == pytest.approx(heights[0])


def test_the_course_of_the_search_is_written_down(make, tmp_path):
    walk(make(), 300)
    best = read(tmp_path)
    told, losses = zip(*best["course"], strict=True)
    assert list(told) == sorted(set(told))
    assert list(losses) == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(best["designs"][0]["objectives"][""])
    assert losses[-1] < losses[0]


def test_untrusted_designs_are_not_kept(make, tmp_path):
    walk(make(), 60, lambda sample: answer(sample, trusted=bool(sample[0] < 0)))
    assert all(each["parameters"][0] < 0 for each in read(tmp_path)["designs"])


def test_new_models_are_asked_about_the_best_again(make, tmp_path):
    walker = make(keep=3)
    walk(walker, 80)
    old = [each["parameters"] for each in read(tmp_path)["designs"]]
    sample = walker.step(None)
    asked = []
    for _ in range(4):
        sample = walker.step(answer(sample, version=2, trusted=list(sample) != old[1]))
        asked.append(list(sample))
    assert asked[:3] == old
    after = read(tmp_path)["designs"]
    assert old[1] not in [each["parameters"] for each in after]
    assert [e["version"] for e in after if e["parameters"] in old] == [2, 2]


def test_after_its_budget_it_begins_anew_or_stops(make, tmp_path):
    designs = walk(make(budget=200), 240)
    early, late, again = (np.median(values(designs[at : at + 40])) for at in (0, 160, 200))
    assert late < 0.6 * early
    assert again > 1.5 * late
    walker = make(budget=60, at_end="stop")
    assert len(walk(walker, 200)) == 60
    assert walker.step(None) is STOP
    swarm = Optimiser.ensemble([make(index, budget=10, at_end="stop") for index in range(4)])
    rows, samples, rounds = np.arange(4), swarm.step(np.arange(4), None), 0
    while STOP not in [each for each in samples if not isinstance(each, np.ndarray)]:
        samples = swarm.step(rows, Feedbacks.of([answer(sample) for sample in samples]))
        rounds += 1
    assert rounds == 3


def test_a_search_that_nobody_trusts_begins_anew(make):
    def lost(sample):
        return answer(sample, trusted=False)

    patient, hasty = walk(make(), 200, lost), walk(make(patience=50), 200, lost)
    np.testing.assert_array_equal(patient[:50], hasty[:50])
    assert np.median(values(patient[-40:])) < 0.6 * np.median(values(hasty[-50:-10]))


def test_exploration_goes_where_little_is_known(make):
    """The deviation grows with the first parameter; so do the designs."""

    def reply(sample):
        return answer(sample, deviation=float(sample[0] - LOWER[0]))

    known = walk(make(), 200, reply)[-50:, 0].mean()
    curious = walk(make(exploration=30.0), 200, reply)[-50:, 0].mean()
    assert curious > known + 0.5


def two_goals(sample):
    """Distances from two points: the front is the line between them."""
    x = sample["x"]
    goals = np.array([((x - 0.2) ** 2).sum(), ((x - 0.8) ** 2).sum()])
    label = {"drag": goals[0], "profit": np.array([7.0, -goals[1]])}
    return Feedback(label, {name: 0 * array for name, array in label.items()}, 0.0, True, 0)


TWO = {
    "lower": [0.0, 0.0],
    "upper": [1.0, 1.0],
    "name": "x",
    "objective": ["drag", "profit[1]"],
    "maximise": ["profit[1]"],
}


def test_several_objectives_make_a_pareto_front(context, tmp_path):
    feedback, walker = None, Optimiser(context(), algorithm="DE", keep=15, **TWO)
    for _ in range(500):
        feedback = two_goals(walker.step(feedback))
    designs = read(tmp_path)["designs"]
    front = np.array([list(each["objectives"].values()) for each in designs]) * [1, -1]
    assert len(front) == 15
    for one in front:
        assert not ((front <= one).all(axis=1) & (front < one).any(axis=1)).any()
    x = np.array([each["parameters"] for each in designs])
    assert np.abs(x[:, 0] - x[:, 1]).mean() < 0.15
    assert np.ptp(front[:, 0]) > 0.3
    random = np.random.default_rng(0).uniform(size=(15, 2))
    goals = np.stack([((random - 0.2) ** 2).sum(1), ((random - 0.8) ** 2).sum(1)], axis=1)
    beaten = [((front <= goal).all(axis=1)).any() for goal in goals]
    assert np.mean(beaten) > 0.7


def test_weights_join_objectives_to_one(context, tmp_path):
    feedback, walker = None, Optimiser(context(), weights=[1.0, 3.0], **TWO)
    for _ in range(200):
        feedback = two_goals(walker.step(feedback))
    best = read(tmp_path)["designs"][0]["parameters"]
    np.testing.assert_allclose(best, 0.65, atol=0.08)


def test_of_a_front_the_crowded_designs_go_first():
    best = BestDesigns(3, 2)
    for x in (0.0, 1.0, 0.5, 0.45, 2.0):
        loss = np.array([x, 1 - x]) if x < 2 else np.array([2.0, 2.0])
        best.consider(Found(np.array([x]), loss, loss, loss, 0.0, 0), trusted=True)
    assert [found.design[0] for found in best] in ([0.0, 0.5, 1.0], [0.0, 0.45, 1.0])
    better = np.array([-1.0, -1.0])
    best.consider(Found(np.array([9.0]), better, better, better, 0.0, 0), trusted=True)
    assert [found.design[0] for found in best] == [9.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "PS0"}, "did you mean 'PSO'"),
        ({"algorithm": "Cobyla"}, "cannot be saved"),
        ({"algorithm": "LHSSearch"}, "learns nothing"),
        ({"at_end": "never"}, "at_end = 'never'"),
        ({"budget": 0}, "budget, patience and keep >= 1"),
        ({"exploration": -1.0}, "exploration >= 0"),
        ({"objective": []}, "expected as objective"),
        ({"objective": ["a", "a"]}, "each once"),
        ({"objective": "a[x]"}, "energies\\[1\\]"),
        ({"maximise": ["b"]}, "must be among"),
        ({"weights": [1.0, 2.0]}, "a weight for each of 1"),
        ({"upper": [1.0]}, "got 3 and 1"),
    ],
)
def test_bad_options_are_refused(make, options, message):
    with pytest.raises(ContractError, match=message):
        make(**options)


def test_an_algorithm_for_one_design_at_a_time_makes_no_swarm(make):
    assert len(walk(make(algorithm="BO"), 2)) == 2
    with pytest.raises(ContractError, match="one design at a time"):
        Optimiser.ensemble([make(index, algorithm="BO") for index in range(2)])


def test_the_largest_is_found_as_well(make, tmp_path):
    walk(make(maximise=True), 150)
    assert read(tmp_path)["designs"][0]["objectives"][""] > 50


@pytest.mark.parametrize("objective", ["drag", "profit", "profit[2]", "[0]", "drag[0]"])
def test_an_objective_that_is_not_one_predicted_number_is_named(context, objective):
    walker = Optimiser(context(), **{**TWO, "objective": objective, "maximise": False})
    sample = walker.step(None)
    reply = two_goals(sample)
    if objective == "drag":
        del reply.mean["drag"]
    with pytest.raises(ContractError, match="is not one number of what the models predict"):
        walker.step(reply)


def test_nothing_is_said_on_import():
    command = "import pal.kernels.generators.optimiser"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", command], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout == done.stderr == ""


class Knowing:
    """A member that knows the bowl."""

    def predict(self, samples):
        return [answer(sample).mean for sample in np.asarray(samples)]


@pytest.mark.parametrize(
    "place", [{"hosts": 1}, pytest.param({"placement": "committee"}, marks=pytest.mark.slow)]
)
def test_the_walkers_of_one_process_are_one_swarm_in_a_campaign(tmp_path, place):
    summary = pal.Campaign(
        generator={
            "kernel": "optimiser",
            "walkers": 6,
            "options": {"lower": LOWER, "upper": UPPER, "budget": 400, "at_end": "stop"},
            **place,
        },
        model={"kernel": Knowing, "members": 2, "train": False},
        oracle={"kernel": answer, "enabled": False},
        selector={"kernel": "deviation", "options": {"threshold": 0.1}},
        directory=tmp_path / "run",
        stop={"final_training": 0, "after": 60},
    ).run()
    assert "asked to stop" in summary.reason
    (found,) = (tmp_path / "run").rglob(FILE)
    best = json.loads(found.read_text())
    assert 400 <= best["evaluations"] <= 406
    assert best["designs"][0]["objectives"][""] < 2.0
