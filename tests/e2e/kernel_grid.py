"""Settings of tiny campaigns, a piece for each kernel: those that fit together are a campaign."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

Section = Mapping[str, Any]

WATER = """3
Properties=species:S:1:pos:R:3 charge=0
O 0.000 0.000 0.117
H 0.000 0.760 -0.470
H 0.000 -0.760 -0.470
"""

MORSE = """import json, sys
import numpy as np
lines = open(sys.argv[1]).read().splitlines()[2:]
positions = np.array([line.split()[1:4] for line in lines if line.split()], float)
vectors = positions[:, None] - positions
lengths = np.sqrt((vectors**2).sum(-1)) + np.eye(len(positions))
decay = np.exp(-(lengths - 1.0))
slope = 4.0 * decay * (1 - decay) * (1 - np.eye(len(positions)))
forces = -((slope / lengths)[..., None] * vectors).sum(1)
energy = (2.0 * (1 - decay) ** 2)[np.triu_indices(len(positions), 1)].sum()
json.dump({"energy": energy, "forces": forces.tolist()}, open("out.json", "w"))
"""

BOWL = """import json, sys
import numpy as np
x = np.load(sys.argv[1])
json.dump({"cost": float(((x - 0.3) ** 2).sum())}, open("out.json", "w"))
"""

BRIEF = {"patience": 1, "batch_size": 4}
PROGRAM = {
    "results": {name: {"file": "out.json", "key": name} for name in ("energy", "forces")},
}
TREES = {
    "estimator": "sklearn.ensemble.ExtraTreesRegressor",
    "arguments": {"n_estimators": 5},
}

MODELS: dict[str, Section] = {
    "distance_network": {"hidden": [8], **BRIEF},
    "schnet": {"hidden": 8, "filters": 8, "interactions": 1, "gaussians": 8, **BRIEF},
    "nequip": {"layers": 1, "features": 4, "radial_width": 8, "elements": ["H", "O"], **BRIEF},
    "allegro": {"elements": ["H", "O"], **BRIEF},
    "scikit_learn": {**TREES, "descriptor": "inverse_distances"},
    "delta": {
        "model": {"kernel": "distance_network", "options": {"hidden": [8], **BRIEF}},
        "baseline": "xtb",
    },
}
"""Models of energy and forces."""

ORACLES: dict[str, Section] = {
    "xtb": {"method": "GFN1-xTB"},
    "pyscf": {"functional": "HF", "basis": "sto-3g"},
    "ase": {"calculator": "emt"},
    "command": {
        "command": f"{sys.executable} {{home}}/morse.py in.xyz",
        "sample_file": "in.xyz",
        **PROGRAM,
    },
    "teacher": {
        "model": {"kernel": "distance_network", "options": {"hidden": [8]}},
        "weights": "teacher.npz",
    },
    "fidelities": {
        "novelty": 0.01,
        "levels": [
            {"kernel": "xtb", "cost": 1.0},
            {"kernel": "pyscf", "options": {"functional": "HF", "basis": "sto-3g"}, "cost": 50.0},
        ],
    },
}
"""Oracles of energy and forces."""

START = {"start": "start.xyz"}
EXPLORERS: dict[str, Section] = {
    "dynamics": START,
    "batched_dynamics": START,
    "biased_dynamics": {
        "dynamics": START,
        "coordinate": "angle",
        "atoms": [1, 0, 2],
        "bias": "metadynamics",
        "height": 0.05,
        "width": 10.0,
    },
    "displacement": START,
    "normal_modes": {**START, "oracle": "xtb"},
    "relaxation": START,
    "saddle_search": START,
    "frames": {"start": "frames.xyz"},
}
"""Walkers that move atoms on energy and forces, or without."""

DEVIATION = {"kernel": "deviation", "options": {"threshold": 0.0}}
SELECTORS: dict[str, Section] = {
    "deviation": {"threshold": 0.0, "relative": 1.0},
    "random": {"threshold": 0.1, "every": 2},
    "adaptive": {"rate": 0.5},
    "calibrated": {"threshold": 0.0, "least": 1},
    "pipeline": {
        "stages": [
            DEVIATION,
            {"kernel": "physical", "options": {"max_force": 1e4}},
            {"kernel": "distinct", "options": {"distance": 1e-5}},
            {"kernel": "diversity", "options": {"count": 2}},
            {"kernel": "top_k", "options": {"count": 1}},
        ]
    },
}

INITIAL: dict[str, Section] = {
    "displacement": {**START, "count": 4},
    "normal_modes": {**START, "oracle": "xtb", "count": 4},
}

DESIGNS: dict[str, Section] = {
    "optimiser": {"lower": [0.0, 0.0], "upper": [1.0, 1.0], "objective": "cost"},
    "latin_hypercube": {"lower": [0.0, 0.0], "upper": [1.0, 1.0]},
    "uniform": {"lower": [0.0, 0.0], "upper": [1.0, 1.0]},
}
"""Walkers that propose designs; they are labelled by `BOWL`."""


def settings(folder: Path, labels: int, **kernels: tuple[str, Section]) -> dict[str, Any]:
    """Return the settings of a campaign that makes so many labels, four of them at first."""
    named = {
        role: {"kernel": name, "options": dict(options)}
        for role, (name, options) in kernels.items()
    }
    named["generator"] |= {"walkers": 2, "hosts": 1}
    named["model"] |= {"members": 2, "weights_every": 1}
    named["oracle"] |= {"grace": 5}
    return {
        "directory": str(folder / "run"),
        **named,
        "queue": {"capacity": 4},
        "training": {"retrain_size": 2},
        "stop": {"labels": labels, "after": 100, "final_training": 0},
    }


def prepare(folder: Path) -> None:
    """Write what the options name: a geometry, programs, a teacher's weights."""
    from pal.kernels.atoms import read_samples
    from pal.kernels.models.distance_network import DistanceNetwork
    from pal.records import Batch
    from pal.roles import Context

    (folder / "start.xyz").write_text(WATER)
    frames = [ase.io.read(folder / "start.xyz") for _ in range(20)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    ase.io.write(folder / "frames.xyz", frames)
    (folder / "morse.py").write_text(MORSE)
    (folder / "bowl.py").write_text(BOWL)
    teacher = DistanceNetwork(Context("model", 0, 1, 7, folder), hidden=[8])
    teacher.predict(Batch(read_samples(folder / "start.xyz")))
    np.savez(folder / "teacher.npz", **teacher.get_weights())


def write(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write a settings file."""
    path = folder / "pal.json"
    path.write_text(json.dumps(data))
    return path
