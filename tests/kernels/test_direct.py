"""An algorithm that calls for forces runs as a walker, errors and all."""

import traceback

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import BFGS
from toy_molecule import NUMBERS, RELAXED, springs

from pal.errors import ContractError
from pal.kernels.atoms import to_sample
from pal.kernels.calculator import CommitteeCalculator
from pal.kernels.direct import Direct
from pal.records import Feedback
from pal.roles import STOP


def feedback(mean):
    return Feedback(mean, mean, 0.0, True, 0)


def test_questions_come_out_of_step_and_answers_go_in():
    heard = []

    def run(ask):
        heard.extend(float(ask(np.array([number])).mean[0]) for number in range(3))

    walker = Direct(run)
    sample, sent = walker.step(None), []
    while sample is not STOP:
        sent.append(int(sample[0]))
        sample = walker.step(feedback(10.0 * sample))
    assert (sent, heard) == ([0, 1, 2], [0.0, 10.0, 20.0])
    assert walker.step(feedback(sent)) is STOP


def test_an_exception_leaves_step_with_its_own_traceback():
    def run(ask):
        ask(np.zeros(1))
        raise_deep_inside()

    def raise_deep_inside():
        raise ZeroDivisionError("here")

    walker = Direct(run)
    walker.step(None)
    with pytest.raises(ZeroDivisionError, match="here") as caught:
        walker.step(feedback(np.zeros(1)))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "raise_deep_inside" in names
    assert walker.step(feedback(np.zeros(1))) is STOP


def test_step_without_feedback_begins_anew():
    walker = Direct(lambda ask: [ask(np.array([n])) for n in range(5)])
    walker.step(None)
    assert walker.step(feedback(np.zeros(1)))[0] == 1
    assert walker.step(None)[0] == 0


def test_many_walkers_take_turns():
    walkers = [
        Direct(lambda ask, k=k: [ask(np.array([k, n])) for n in range(3)]) for k in range(4)
    ]
    for _ in range(3):
        samples = [w.step(None) for w in walkers]
        assert [s[0] for s in samples] == [0, 1, 2, 3]


def test_an_ase_optimiser_runs_unchanged():
    found = []

    def run(ask):
        atoms = Atoms(NUMBERS, RELAXED + np.random.default_rng(0).normal(0, 0.1, RELAXED.shape))
        atoms.calc = CommitteeCalculator(ask)
        BFGS(atoms, logfile=None).run(fmax=0.01)
        found.append(atoms)

    walker = Direct(run)
    sample = walker.step(None)
    while sample is not STOP:
        energy, forces = springs(sample["positions"])
        sample = walker.step(feedback({"energy": energy, "forces": forces}))
    assert found[0].get_potential_energy() == pytest.approx(0, abs=1e-3)
    assert np.abs(springs(found[0].positions)[1]).max() < 0.01


def test_a_model_without_forces_is_named():
    atoms = Atoms(NUMBERS, RELAXED)
    atoms.calc = CommitteeCalculator(lambda sample: feedback({"energy": np.zeros(())}))
    with pytest.raises(ContractError, match=r"'forces'.*got \['energy'\]"):
        atoms.get_forces()


def test_the_calculator_keeps_the_whole_answer():
    atoms = Atoms(NUMBERS, RELAXED)
    answer = Feedback({"forces": np.ones((5, 3))}, {}, 0.7, False, 12)
    asked = []
    atoms.calc = CommitteeCalculator(lambda sample: asked.append(sample) or answer)
    assert np.array_equal(atoms.get_forces(), np.ones((5, 3)))
    assert atoms.calc.feedback is answer
    assert np.array_equal(asked[0]["positions"], to_sample(atoms)["positions"])
