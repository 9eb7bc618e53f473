"""Any explorer, any model and any oracle that fit together run from settings alone.

The small grid has every pair of oracle and explorer, of model and oracle, and of model and
explorer, once at least; the whole grid is slow.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import kernel_grid as grid
import pytest
from rig import check_ledger, labels_in

from pal.errors import Failure
from pal.ledger.directory import RunDirectory
from pal.records import named
from pal.runtime.campaign import Campaign

LABELS = 7


def pick(table: Mapping[str, Any], index: int) -> tuple[str, Any]:
    names = list(table)
    name = names[index % len(names)]
    return name, table[name]


def combinations() -> list[tuple[Any, ...]]:
    found = []
    for place, (e, o) in enumerate(
        itertools.product(range(len(grid.EXPLORERS)), range(len(grid.ORACLES)))
    ):
        for m in range(len(grid.MODELS)):
            kernels = {
                "generator": pick(grid.EXPLORERS, e),
                "oracle": pick(grid.ORACLES, o),
                "model": pick(grid.MODELS, m),
                "selector": pick(grid.SELECTORS, place + m),
                "initial": pick(grid.INITIAL, place),
            }
            name = "-".join(kernels[role][0] for role in ("generator", "model", "oracle"))
            small = m == (e + o) % len(grid.MODELS)
            marks = () if small else (pytest.mark.slow,)
            found.append(pytest.param(kernels, id=name, marks=marks))
    return found


BOWL: dict[str, Any] = {
    "command": f"{grid.sys.executable} {{home}}/bowl.py in.npy",
    "sample_file": "in.npy",
    "results": {"cost": {"file": "out.json", "key": "cost"}},
}


def go(folder: Path, labels: int = LABELS, **kernels: Any) -> dict[str, Any]:
    """Run a campaign from a settings file; return a label it made."""
    path = grid.write(folder, grid.settings(folder, labels, **kernels))
    failures = [
        item
        for item in Campaign.from_file(path)
        # An oracle may well refuse what walkers find on an untrained potential.
        if isinstance(item, Failure) and item.kind != "LabelFailure"
    ]
    assert [str(failure) for failure in failures] == []
    check_ledger(folder / "run")
    made = labels_in(folder / "run")
    assert len(made) >= labels
    assert list((folder / "run" / "models").iterdir()), "no weights were made"
    return named(made[max(made)][1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    grid.prepare(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kernels", combinations())
def test_a_potential_is_learnt(kernels: dict[str, Any], folder: Path) -> None:
    assert {"energy", "forces"} <= go(folder, **kernels).keys()


@pytest.mark.parametrize("method", ["landau_zener", "curvature"])
def test_excited_states_are_learnt_while_walkers_hop(method: str, folder: Path) -> None:
    label = go(
        folder,
        generator=("surface_hopping", {**grid.START, "velocities": "thermal", "method": method}),
        model=("distance_network", {"hidden": [8], "states": 2, **grid.BRIEF}),
        oracle=("pyscf", {"functional": "HF", "basis": "sto-3g", "states": 2}),
        selector=("deviation", {"threshold": 0.0, "field": "state_forces"}),
        initial=("displacement", {**grid.START, "count": 4}),
    )
    assert label["energies"].shape == (2,)
    assert label["state_forces"].shape == (2, 3, 3)


@pytest.mark.parametrize("explorer", grid.DESIGNS)
def test_a_surrogate_is_learnt_while_designs_are_proposed(explorer: str, folder: Path) -> None:
    box = {"lower": [0.0, 0.0], "upper": [1.0, 1.0], "count": 4}
    label = go(
        folder,
        generator=(explorer, grid.DESIGNS[explorer]),
        model=("scikit_learn", grid.TREES),
        oracle=("command", BOWL),
        selector=("deviation", {"threshold": 0.0, "field": "cost"}),
        initial=("latin_hypercube", box),
    )
    assert label["cost"].shape == ()


def test_an_oracle_answers_walkers_itself(folder: Path) -> None:
    """A swarm finds the bottom of the bowl with the oracle in the committee's place."""
    swarm = {**grid.DESIGNS["optimiser"], "budget": 40, "at_end": "stop"}
    data = grid.settings(
        folder,
        LABELS,
        generator=("optimiser", swarm),
        model=("exact", {"kernel": "command", "options": BOWL, "workers": 2}),
        oracle=("command", BOWL),
        selector=("deviation", {"threshold": 1.0, "field": "cost"}),
    )
    data["model"] |= {"members": 1, "train": False}
    data["oracle"]["enabled"] = False
    summary = Campaign.from_file(grid.write(folder, data)).run()
    assert "asked to stop" in summary.reason
    assert summary.labels == 0
    (best,) = (folder / "run" / "work").rglob("best.json")
    assert json.loads(best.read_text())["designs"][0]["objectives"]["cost"] < 0.05


def test_a_selector_hears_of_labels_that_the_models_do_not_know(folder: Path) -> None:
    go(
        folder,
        generator=("displacement", grid.START),
        model=("distance_network", grid.MODELS["distance_network"]),
        oracle=("xtb", {}),
        selector=("calibrated", {"threshold": 0.0, "least": 1}),
        initial=("displacement", {**grid.START, "count": 4}),
    )
    pairs = RunDirectory(folder / "run").load_state("selector", 0)
    # The first four were labelled before there was any model to be judged by them.
    assert 1 <= len(pairs) <= len(labels_in(folder / "run")) - 4
    assert all(deviation > 0 and error > 0 for deviation, error in pairs)


def test_every_kernel_of_the_library_is_in_the_grid() -> None:
    here = {*grid.EXPLORERS, *grid.MODELS, *grid.ORACLES, *grid.DESIGNS, *grid.INITIAL}
    here |= {
        *grid.SELECTORS,
        "distinct",
        "diversity",
        "physical",
        "top_k",
        "surface_hopping",
        "exact",
    }
    elsewhere = {
        "mace": "in its own environment: tests/kernels/test_mace.py",
        "turbomole": "by stand-ins: tests/kernels/test_turbomole.py",
        "xtb_program": "where the program is installed: tests/kernels/test_xtb_program.py",
        "convolutional_network": "needs images: tests/examples/test_channel.py",
        "mixture": "of other explorers: tests/examples/test_hydrogen_transfer.py",
        "transfer": "needs two molecules: tests/examples/test_hydrogen_transfer.py",
        "known": "needs labels: tests/kernels/test_known.py",
    }
    registered = {
        entry.name
        for role in ("generator", "model", "oracle", "selector", "initial")
        for entry in entry_points(group=f"pal.{role}s")
    }
    assert registered == here | elsewhere.keys()
