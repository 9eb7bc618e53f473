"""A walker in direct style is led back to where it stood, and nothing is done twice."""

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from toy_molecule import NUMBERS, RELAXED

from pal.errors import ContractError
from pal.kernels.calculator import CommitteeCalculator
from pal.kernels.generators.parts import bounds as bounds_module
from pal.kernels.generators.parts.bounds import Bounds
from pal.kernels.generators.parts.caution import Caution
from pal.kernels.generators.parts.guard import Guard, Lost
from pal.kernels.generators.parts.journal import Journal, fingerprint
from pal.records import Feedback
from pal.roles import STOP


def reply(sample):
    return Feedback({"forces": np.zeros((5, 3)), "energy": sample * 2.0}, "much", 0.0, True, 0)


class Sums:
    """An algorithm that asks for doubles, sums them up, and marks after every fourth."""

    def __init__(self, end=11, step=1.0):
        self.done = []
        self.end, self.step = end, step
        self.journal = Journal(self.run, {"number": 0, "sum": 0.0})

    def run(self, mark, ask):
        number, total = mark["number"], mark["sum"]
        while number < self.end:
            total += float(ask(np.array([total + self.step])).mean["energy"][0])
            number += 1
            if len(self.journal) >= 4:
                self.done.append(number)
                self.journal.mark({"number": number, "sum": total})


def walk(journal, steps, feedback=None):
    sample = journal.step(feedback)
    for _ in range(steps):
        sample = journal.step(reply(sample))
    return sample


@pytest.mark.parametrize("steps", range(11))
def test_a_restored_algorithm_asks_the_same_and_goes_on(steps):
    one, other = Sums(), Sums()
    present = walk(one.journal, steps)
    other.journal.set_state(pickle.loads(pickle.dumps(one.journal.get_state())))
    again = other.journal.step(None)
    assert np.array_equal(present, again)
    for _ in range(4):
        present, again = one.journal.step(reply(present)), other.journal.step(reply(again))
        assert (present is STOP) == (again is STOP)
        if present is STOP:
            break
        assert np.array_equal(present, again)
    assert one.done[len(one.done) - len(other.done) :] == other.done


def test_asking_again_does_nothing_twice():
    sums = Sums()
    present = walk(sums.journal, 10)
    assert sums.done == [4, 8]
    assert np.array_equal(sums.journal.step(None), present)
    assert sums.done == [4, 8]
    assert len(sums.journal) == 2


def test_states_are_small():
    sums = Sums(end=1000)
    walk(sums.journal, 500)
    state = sums.journal.get_state()
    assert len(state["answers"]) < 4
    assert all(answer.deviation == {} for _, answer in state["answers"])


def test_an_algorithm_that_goes_another_way_drops_the_rest_of_its_answers():
    """Another version of a library: answers to other questions would be wrong answers."""
    one, other = Sums(), Sums(step=1.5)
    walk(one.journal, 7)
    other.journal.set_state(one.journal.get_state())
    mark = pickle.loads(one.journal.get_state()["mark"])
    assert other.journal.step(None)[0] == mark["sum"] + 1.5
    assert len(other.journal) == 0


def test_fingerprints_tell_samples_apart():
    sample = {"positions": RELAXED, "numbers": NUMBERS}
    moved = {**sample, "positions": RELAXED + 1e-12}
    assert fingerprint(sample) == fingerprint(dict(sample))
    assert fingerprint(sample) != fingerprint(moved)


def test_the_first_answer_after_a_return_is_not_judged():
    atoms = Atoms(NUMBERS, RELAXED)
    bounds = Bounds(atoms, "test", min_distance=0.5)
    caution = Caution("home", patience=1, max_force=1.0)

    def doubt(sample):
        return Feedback({"forces": np.zeros((5, 3))}, {}, 0.0, False, 0)

    guard = Guard(doubt, caution, bounds, lambda here: here)
    guard({"positions": RELAXED})
    with pytest.raises(Lost) as caught:
        guard({"positions": RELAXED})
    assert caught.value.place == "home"


def test_the_committee_is_asked_once_for_each_geometry():
    asked = []

    def ask(sample):
        asked.append(sample)
        return Feedback({"forces": np.ones((5, 3)), "energy": np.array(1.0)}, {}, 0.0, True, 0)

    atoms = Atoms(NUMBERS, RELAXED)
    atoms.calc = CommitteeCalculator(ask)
    atoms.get_forces()
    assert atoms.get_potential_energy() == 1.0
    assert len(asked) == 1
    atoms.positions[0, 0] += 1e-15
    atoms.get_forces()
    atoms.info["charge"] = 1.0
    atoms.get_forces()
    assert len(asked) == 3
    atoms.calc.recall(atoms, {"forces": np.zeros((5, 3))})
    assert not atoms.get_forces().any()
    assert len(asked) == 3


def test_atoms_beyond_their_bounds():
    atoms = Atoms("H3", [[0, 0, 0], [0.8, 0, 0], [1.6, 0, 0]])
    bounds = Bounds(atoms, "test", min_distance=0.5, max_distance=1.0)
    near, far, lost = (atoms.positions.copy() for _ in range(3))
    near[1, 0], far[2, 0], lost[0, 0] = 0.2, 2.0, np.nan
    assert bounds.hold(atoms.positions)
    assert not any(bounds.hold(positions) for positions in (near, far, lost))
    assert Bounds(Atoms("H"), "test", min_distance=0.5, max_distance=1.0).hold(np.zeros((1, 3)))
    with pytest.raises(ContractError, match="test: the geometry H3 in `start`"):
        Bounds(atoms, "test", min_distance=0.5, max_distance=0.5)


def test_bounds_are_kept_along_any_path_and_across_blocks(monkeypatch):
    """What is remembered from step to step never changes the answer."""
    monkeypatch.setattr(bounds_module, "BLOCK", 2)
    rng = np.random.default_rng(0)
    atoms = Atoms(NUMBERS, RELAXED)
    walked = Bounds(atoms, "test", min_distance=0.6, max_distance=1.8)
    positions, seen = RELAXED.copy(), set()
    for _ in range(400):
        positions = positions + rng.normal(0, 0.03, positions.shape)
        distances = Atoms(NUMBERS, positions).get_all_distances() + 1e9 * np.eye(5)
        radii = covalent_radii[NUMBERS]
        inside = bool(
            (distances >= 0.6 * (radii[:, None] + radii)).all() and distances.min(0).max() <= 1.8
        )
        assert walked.hold(positions) is inside
        seen.add(inside)
        if not inside:
            positions = RELAXED.copy()
    assert seen == {True, False}
