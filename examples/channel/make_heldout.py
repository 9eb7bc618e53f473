"""Write heldout.npz and heldout-small.npz: channels that no model ever learns from.

Half of them are anywhere in the box of designs. The others are what matters for the optimum: the
best designs of a swarm that asks CFD directly, each shaken a little. It takes about three minutes
on one core; the result is in the repository.
"""

from __future__ import annotations

from pathlib import Path

import nevergrad as ng
import numpy as np
from cfd import FiniteElements
from geometry import Array, sample
from scipy.stats import qmc

HERE = Path(__file__).parent
SHAKE = 0.05


def good_designs(oracle: FiniteElements, size: int, calls: int, count: int, seed: int) -> Array:
    """Return the best designs (count, size) that a particle swarm finds in so many CFD calls."""
    cube = ng.p.Array(init=np.full(size, 0.5)).set_bounds(0, 1, method="arctan")
    cube.random_state = np.random.RandomState(seed)
    swarm = ng.optimizers.registry["PSO"](parametrization=cube, budget=calls, num_workers=20)
    tried = []
    for _ in range(calls):
        candidate = swarm.ask()
        design = np.clip(candidate.value, 0, 1)
        drag, stanton = oracle.label(sample(design))["coefficients"]
        swarm.tell(candidate, drag / 3 - stanton)
        tried.append((drag / 3 - stanton, design))
    tried.sort(key=lambda pair: pair[0])
    return np.array([design for _, design in tried[:count]])


def write(path: Path, promoters: int, width: float, calls: int, count: int) -> None:
    rng = np.random.default_rng(77)
    oracle = FiniteElements(width=width)
    best = good_designs(oracle, 2 * promoters, calls, count // 2, seed=77)
    shaken = np.clip(best + rng.normal(0, SHAKE, best.shape), 0, 1)
    anywhere = qmc.LatinHypercube(2 * promoters, rng=rng).random(count - len(best))
    samples = [sample(design) for design in np.concatenate([anywhere, shaken])]
    labels = [oracle.label(each)["coefficients"] for each in samples]
    np.savez_compressed(
        path,
        **{
            "sample/promoters": np.array([each["promoters"] for each in samples]),
            "sample/picture": np.array([each["picture"].round(4) for each in samples]),
            "label/coefficients": np.array(labels).round(5),
        },
    )


if __name__ == "__main__":
    write(HERE / "heldout-small.npz", promoters=2, width=0.1, calls=80, count=60)
    write(HERE / "heldout.npz", promoters=6, width=0.07, calls=160, count=120)
