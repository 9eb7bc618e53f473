"""What is this campaign's own: where its molecule starts, and what it is judged by.

Walkers, models and oracle come with PAL (`pal kernels` lists them). A kernel of your own is a
class in this file, named in pal.toml as "kernels:YourClass"; `pal init --template toy` shows one
of each kind.

`OMP_NUM_THREADS=1 python kernels.py` writes start.xyz and heldout.extxyz anew.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import pal
from pal.kernels.atoms import read_samples, to_atoms, to_sample, write_labelled
from pal.kernels.generators.dynamics import Dynamics
from pal.kernels.oracles.xtb import Xtb
from pal.records import LabelledSample, Sample

HERE = Path(__file__).parent
START = HERE / "start.xyz"
"""Ethanol; any other small molecule will do."""


def first(count: int = 20, spread: float = 0.05) -> Iterator[Sample]:
    """Yield the geometries that are labelled before there is any model.

    Hydroxyl and methyl group are turned to any angle, and each coordinate shaken by `spread` Å:
    what is soft goes far, what is stiff a little.
    """
    random = np.random.default_rng(0)
    for _ in range(count):
        atoms = to_atoms(read_samples(START)[0])
        atoms.rotate_dihedral(0, 1, 2, 3, random.uniform(0, 360), indices=[3])
        atoms.rotate_dihedral(2, 1, 0, 6, random.uniform(0, 360), indices=[6, 7, 8])
        atoms.positions += random.normal(0.0, spread, atoms.positions.shape)
        yield to_sample(atoms)


def relaxed() -> Sample:
    """Return ethanol with the oracle's forces relaxed, by plain steps along them."""
    from ase.build import molecule

    atoms, oracle = molecule("CH3CH2OH"), Xtb()
    for _ in range(500):
        atoms.positions += 0.02 * oracle.label(to_sample(atoms))["forces"]
    return to_sample(atoms)


def heldout(count: int = 50, every: int = 100, kelvin: float = 400.0) -> Iterator[LabelledSample]:
    """Yield geometries, with labels, from the oracle's own dynamics: nobody trains on them."""
    context = pal.Context("generator", 0, 1, 1, HERE)
    dynamics, oracle = Dynamics(context, start=START, temperatures_K=[kelvin]), Xtb()
    sample = dynamics.step(None)
    for step in range(count * every):
        if sample is pal.STOP:
            return
        label = oracle.label(sample)
        if step % every == every - 1:
            yield LabelledSample(step // every, sample, label)
        sample = dynamics.step(pal.Feedback(label, label, 0.0, trusted=True, version=0))


if __name__ == "__main__":
    from ase.io import write

    write(START, to_atoms(relaxed()), format="extxyz")
    write_labelled(HERE / "heldout.extxyz", heldout())
