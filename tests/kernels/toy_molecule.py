"""A toy molecule: atoms on springs, whose energy and forces are known exactly."""

import numpy as np

from pal.records import Array, Batch, LabelledSample

ATOMS = 5
STIFFNESS = 4.0  # eV/Å^2
NUMBERS = np.array([6, 1, 1, 1, 8])


def springs(positions: Array) -> tuple[Array, Array]:
    """Energy () in eV and forces (atoms, 3) in eV/Å of springs between all pairs."""
    vectors = positions[:, None] - positions[None]
    lengths = np.sqrt((vectors**2).sum(-1)) + np.eye(ATOMS)
    rest = np.sqrt(((RELAXED[:, None] - RELAXED[None]) ** 2).sum(-1)) + np.eye(ATOMS)
    stretch = lengths - rest
    energy = 0.25 * STIFFNESS * (stretch**2).sum()
    forces = -STIFFNESS * ((stretch / lengths)[..., None] * vectors).sum(1)
    return np.asarray(energy), forces


RELAXED = np.array(
    [[0.0, 0, 0], [1.1, 0, 0], [-0.4, 1.0, 0], [-0.4, -0.5, 0.9], [-0.5, -0.6, -1.1]]
)


def stretched(count: int, seed: int = 0, spread: float = 0.08) -> list[LabelledSample]:
    """Return distorted molecules with their labels."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        positions = RELAXED + rng.normal(0, spread, RELAXED.shape)
        energy, forces = springs(positions)
        sample = {"positions": positions, "numbers": NUMBERS}
        items.append(LabelledSample(number, sample, {"energy": energy, "forces": forces}))
    return items


def batch_of(items: list[LabelledSample]) -> Batch:
    return Batch([item.sample for item in items])
