"""What the tests of walkers share: a committee of springs, and a way to walk."""

import pickle

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from toy_molecule import NUMBERS, RELAXED, springs

from pal.records import Feedback
from pal.roles import STOP

STIFFNESS = 5.0  # eV/Å^2


def tied(positions):
    """Energy and forces of atoms bound to their places harmonically, one by one."""
    away = positions - RELAXED
    return 0.5 * STIFFNESS * (away**2).sum(), -STIFFNESS * away


def coupled(positions):
    """Energy and forces of the toy molecule, its atoms bound to their places, too."""
    energy, forces = springs(positions)
    more, pull = tied(positions)
    return float(energy) + more, forces + pull


def answer(sample, potential=tied, trusted=True, forces=None):
    """Feedback of a committee that predicts this potential exactly."""
    energy, exact = potential(sample["positions"])
    mean = {"energy": np.array(float(energy)), "forces": exact if forces is None else forces}
    return Feedback(mean, {}, 0.0, trusted, 0)


def lost(sample):
    return answer(sample, trusted=False)


def walk(walker, steps, reply=answer, feedback=None):
    """Return the samples of so many steps."""
    samples = []
    for _ in range(steps):
        samples.append(walker.step(feedback))
        if samples[-1] is STOP:
            break
        feedback = reply(samples[-1])
    return samples


def follow(walker, other, reply=answer, steps=30):
    """Carry the state of one walker over to another, in the midst; both must go on alike."""
    other.set_state(pickle.loads(pickle.dumps(walker.get_state())))
    present = other.step(None)
    mine, theirs = (walk(each, steps, reply, reply(present)) for each in (walker, other))
    for one, same in zip(mine, theirs, strict=True):
        assert (one is STOP) == (same is STOP)
        assert one is STOP or np.array_equal(one["positions"], same["positions"])


class Exact(Calculator):
    """A potential of positions as an ASE calculator."""

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, potential):
        super().__init__()
        self._potential = potential

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, forces = self._potential(self.atoms.positions)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def toy():
    return Atoms(NUMBERS, RELAXED)
