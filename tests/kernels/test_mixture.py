"""A mixture hands each walker to one generator, as if that generator's walkers were alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from toy_molecule import NUMBERS, RELAXED
from walking import answer

from pal.building import build_ensemble
from pal.errors import ContractError, KernelImportError
from pal.kernels.generators.batched_dynamics import BatchedDynamics
from pal.kernels.generators.mixture import mixture
from pal.records import Feedbacks
from pal.testing.checks import check_generator


class Named:
    """Says who it is."""

    def __init__(self, context, *, name="one"):
        self.name, self.context = name, context

    def step(self, feedback):
        return np.zeros(1)


ENTRIES = [
    {"kernel": Named, "share": 2, "options": {"name": "many"}},
    {"kernel": Named, "options": {"name": "few"}},
    Named,
]


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.xyz"
    write(path, Atoms(NUMBERS, RELAXED), format="extxyz")
    return str(path)


def walkers(context, count, entries=ENTRIES):
    return [
        mixture(replace(context(index), count=count), entries=entries) for index in range(count)
    ]


def test_walkers_are_shared_out_in_turn(context):
    found = [walker.name for walker in walkers(context, 6)]
    assert found == ["many", "many", "few", "one", "many", "many"]


def test_each_entry_counts_its_own_walkers(context):
    for name, count in (("many", 4), ("few", 1), ("one", 1)):
        own = [w.context for w in walkers(context, 6) if w.name == name]
        assert [c.index for c in own] == list(range(count))
        assert {c.count for c in own} == {count}


def test_random_numbers_and_folders_stay_the_walkers_own(context):
    for index, walker in enumerate(walkers(context, 5)):
        assert walker.context.seed == context(index).seed
        assert walker.context.directory == context(index).directory


def test_every_walker_keeps_the_contract_of_its_generator(context, start):
    entries = [
        {"kernel": "dynamics", "options": {"start": start}},
        {"kernel": "displacement", "options": {"start": start}},
        {"kernel": "relaxation", "options": {"start": start}},
    ]
    for index in range(3):
        own = replace(context(index), count=3)
        check_generator(partial(mixture, own, entries=entries), answer)


def test_walkers_of_one_class_move_together(context, start):
    entries = [
        {"kernel": "batched_dynamics", "options": {"start": start, "temperatures_K": [kelvin]}}
        for kelvin in (100.0, 900.0)
    ]
    made = walkers(context, 4, entries)
    assert {type(walker) for walker in made} == {BatchedDynamics}
    ensemble = build_ensemble(made)
    assert ensemble is not None
    rows = np.arange(4)
    first = ensemble.step(rows, None)
    second = ensemble.step(rows, Feedbacks.of([answer(sample) for sample in first]))
    moved = np.linalg.norm(second["positions"] - first["positions"], axis=(1, 2))
    assert moved[[1, 3]].mean() > moved[[0, 2]].mean()
    other = [*walkers(context, 2, ["pal.kernels.generators.frames:Frames"] and ENTRIES), *made]
    assert build_ensemble(other) is None


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "expected a list of entries"),
        ("dynamics", "expected a list of entries"),
        ([{"kernel": Named, "share": 0}], r"entries\[0\].*whole number"),
        ([Named, {"kernel": Named, "share": 1.5}], r"entries\[1\].*whole number"),
        ([{"kernel": Named, "shares": 2}], r"entries\[0\]: expected a kernel's name"),
    ],
)
def test_wrong_entries_are_refused(context, entries, told):
    with pytest.raises(ContractError, match=told):
        mixture(context(), entries=entries)


def test_a_wrong_option_names_the_entry(context):
    with pytest.raises(KernelImportError, match="nam"):
        mixture(context(), entries=[{"kernel": Named, "options": {"nam": "x"}}])
