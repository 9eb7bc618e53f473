"""Checkpoints of the nequip framework, made by the framework, and what it says of a molecule."""

import numpy as np
import torch
from ase.neighborlist import neighbor_list
from nequip.data import AtomicDataDict

from pal.kernels.atoms import to_atoms
from pal.kernels.models.parts.nequip_library import library

NAMES = ["O", "H", "C"]
COMMON = {
    "seed": 1,
    "model_dtype": "float64",
    "type_names": NAMES,
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 1,
    "parity": False,
    "avg_num_neighbors": 6.0,
    "per_type_energy_scales": {"H": 1.5, "C": 1.2, "O": 1.1},
    "per_type_energy_shifts": {"H": -13.0, "C": -1030.0, "O": -2041.0},
}


def write(path, **options):
    """Write a checkpoint as the framework's training does; return its model."""
    import lightning
    from nequip.train import EMALightningModule
    from nequip.utils import get_current_code_versions

    info = {
        "versions": get_current_code_versions(verbose=False),
        "training_module": {"_target_": "nequip.train.EMALightningModule"},
    }
    with library():
        module = EMALightningModule(
            model=COMMON | options,
            num_datasets={"train": 1, "val": 0, "test": 0, "predict": 0},
            optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3},
            info_dict=info,
        )
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return module.model["sole_model"]


def framework_says(model, sample):
    """Return energy and forces as the framework computes them."""
    atoms = to_atoms(sample)
    i, j = neighbor_list("ij", atoms, 4.0)
    types = torch.tensor([NAMES.index(symbol) for symbol in atoms.get_chemical_symbols()])
    data = {
        AtomicDataDict.POSITIONS_KEY: torch.tensor(atoms.positions),
        AtomicDataDict.EDGE_INDEX_KEY: torch.tensor(np.array([i, j])),
        AtomicDataDict.ATOM_TYPE_KEY: types,
    }
    result = model(data)
    energy = float(result[AtomicDataDict.TOTAL_ENERGY_KEY].detach())
    return energy, result[AtomicDataDict.FORCE_KEY].detach().numpy()
