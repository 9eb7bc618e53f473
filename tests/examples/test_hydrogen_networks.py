"""One line of the hydrogen transfer example's settings chooses the network, and each learns."""

from itertools import islice
from pathlib import Path

import pytest

from pal.building import KernelSpec
from pal.ledger.export import read_labelled
from pal.roles import Context
from pal.settings import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "hydrogen_transfer"
PACKAGES = {
    "schnet": "torch_geometric",
    "nequip": "nequip",
    "allegro": "allegro",
    "mace": "mace",
}
QUICK = {
    "batch_size": 4,
    "learning_rate": 1e-2,
    "energy_weight": 10.0,
    "averaging": 0.9,
    "patience": 20,
}
"""To learn the forces in seconds, which the example learns in minutes."""
FILES = {"schnet": "schnet", "nequip": "pal", "allegro": "allegro", "mace": "mace"}


@pytest.mark.parametrize("kernel", FILES)
def test_every_network_learns_radicals(kernel, tmp_path):
    pytest.importorskip(PACKAGES[kernel], exc_type=ImportError)
    section = load(EXAMPLE / f"{FILES[kernel]}.toml").model
    assert section.kernel == kernel
    options = {name: value for name, value in section.options.items() if name != "checkpoint"}
    model = KernelSpec.of("model", kernel, {**options, **QUICK}).build(
        Context("model", 0, 1, 0, tmp_path, training=True)
    )
    dataset = [
        item
        for item in read_labelled(EXAMPLE / "heldout.extxyz")
        if len(item.sample["numbers"]) < 14
    ]
    errors = [metrics["force_mae"] for metrics in islice(model.train(dataset), 20)]
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize("kernel", [name for name in FILES if name != "nequip"])
def test_nothing_but_the_network_differs(kernel):
    base, other = load(EXAMPLE / "pal.toml"), load(EXAMPLE / f"{kernel}.toml")
    differing = {
        name for name in type(base).model_fields if getattr(base, name) != getattr(other, name)
    }
    assert differing == {"model", "directory"}
