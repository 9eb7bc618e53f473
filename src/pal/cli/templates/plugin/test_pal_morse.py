"""Tests of the kernels: their contract with PAL, and their physics."""

import numpy as np
from pal_morse import Morse

from pal.testing.checks import check_oracle

SAMPLE = {
    "positions": np.array([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.2, 1.1, 0.3]]),
    "numbers": np.array([1, 1, 1]),
}


def test_keeps_the_contract() -> None:
    """Labels are finite arrays, the same each time; the sample is left alone."""
    check_oracle(Morse, SAMPLE)


def test_forces_are_minus_the_gradient() -> None:
    """By central differences of the energy."""
    label = Morse().label(SAMPLE)
    for index in np.ndindex(3, 3):
        energies = []
        for step in (1e-5, -1e-5):
            moved = SAMPLE["positions"].copy()
            moved[index] += step
            energies.append(Morse().label({**SAMPLE, "positions": moved})["energy"])
        np.testing.assert_allclose(
            label["forces"][index], (energies[1] - energies[0]) / 2e-5, atol=1e-6
        )
