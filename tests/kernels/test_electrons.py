"""Charge and spin are counted before any program starts."""

import numpy as np
import pytest
from ase.build import molecule

from pal.errors import ContractError, LabelFailure
from pal.kernels.oracles.parts.electrons import Recent, composition, isolated


@pytest.mark.parametrize(
    ("name", "charge", "spin", "info", "expected"),
    [
        ("H2O", 0, None, {}, (0, 0)),
        ("H2O", 1.0, None, {}, (1, 1)),
        ("OH", 0, None, {}, (0, 1)),
        ("O2", 0, 2, {}, (0, 2)),
        ("O2", 0, 2, {"spin": 0.0}, (0, 0)),
        ("O2", 0, None, {"charge": np.array(-1.0), "spin": np.array(3)}, (-1, 3)),
    ],
)
def test_the_sample_wins_over_options_and_spin_is_the_lowest(name, charge, spin, info, expected):
    atoms = molecule(name)
    atoms.info.update(info)
    found = composition(atoms.numbers, atoms.info, charge, spin, "me")
    assert (found.charge, found.spin) == expected
    assert found.numbers == tuple(atoms.numbers)


@pytest.mark.parametrize(
    ("charge", "spin", "message"),
    [
        (0, 1, r"me: H2O with charge 0 has 10 electrons, of which 1 cannot be unpaired"),
        (0, 12, r"12 cannot be unpaired"),
        (0, -2, r"-2 cannot be unpaired"),
        (11, None, r"has -1 electrons"),
        (0.5, None, r"me: charge is 0.5; expected an integer"),
        (0, 0.3, r"me: spin is 0.3; expected an integer"),
    ],
)
def test_what_does_not_add_up_is_refused(charge, spin, message):
    with pytest.raises(LabelFailure, match=message):
        composition(molecule("H2O").numbers, {}, charge, spin, "me")


def test_crystals_are_told_from_molecules():
    isolated(molecule("H2O"), "me")
    crystal = molecule("H2O", cell=[9, 9, 9], pbc=[True, True, False])
    with pytest.raises(ContractError, match=r"me calculates isolated.*\[True, True, False\]"):
        isolated(crystal, "me")


def test_keeps_the_latest_only():
    recent = Recent(2)
    molecules = [molecule(name) for name in ("H2", "H2O", "NH3")]
    keys = [composition(atoms.numbers, {}, 0, None, "me") for atoms in molecules]
    for key in (keys[0], keys[1], keys[0], keys[2]):
        recent[key] = key.numbers
    assert [key for key, _ in recent] == [keys[0], keys[2]]
    assert recent.take(keys[0]) == (1, 1)
    assert recent.take(keys[0]) is None
    none = Recent(0)
    none[keys[0]] = 1
    assert list(none) == []
