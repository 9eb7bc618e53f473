"""ASE `Atoms` and PAL's named arrays, both ways.

The names: `positions` (atoms, 3) in Å, `numbers` (atoms,) nuclear charges, `charge` () total
charge in e, `spin` () number of unpaired electrons; for periodic systems `cell` (3, 3) in Å and
`pbc` (3,). Labels: `energy` () in eV, `forces` (atoms, 3) in eV/Å; of several electronic states
`energies` (states,) in eV, lowest first, and `state_forces` (states, atoms, 3) in eV/Å.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from pal.errors import ContractError, KernelImportError
from pal.records import Array, Label, LabelledSample, Sample

SCALARS: Final = ("charge", "spin")
"""What a sample may say of its electrons; `Atoms.info` holds the same."""


def to_sample(atoms: Atoms) -> dict[str, Array]:
    """Return the sample that these atoms are; the arrays are copies."""
    sample = {
        "positions": np.array(atoms.positions, dtype=float),
        "numbers": np.array(atoms.numbers, dtype=np.int64),
    }
    for name in SCALARS:
        if name in atoms.info:
            sample[name] = np.asarray(atoms.info[name], dtype=float)
    if atoms.pbc.any():
        sample["cell"] = np.array(atoms.cell, dtype=float)
        sample["pbc"] = np.array(atoms.pbc, dtype=bool)
    return sample


def to_label(atoms: Atoms) -> dict[str, Array]:
    """Return energy and forces, as the atoms' calculator gives them."""
    return {
        "energy": np.asarray(atoms.get_potential_energy(), dtype=float),
        "forces": np.array(atoms.get_forces(), dtype=float),
    }


def atomic(sample: Sample) -> Mapping[str, Array]:
    """Return a sample that is one of atoms.

    Raises:
        ContractError: it lacks positions or numbers.
    """
    if isinstance(sample, Mapping) and {"positions", "numbers"} <= sample.keys():
        return sample
    came = sorted(sample) if isinstance(sample, Mapping) else f"a bare {type(sample).__name__}"
    raise ContractError(
        f"a sample of atoms needs the arrays 'positions' and 'numbers'; got {came}. "
        "Return pal.kernels.atoms.to_sample(atoms) from the generator"
    )


def to_atoms(sample: Sample, label: Label | None = None) -> Atoms:
    """Return a sample as `Atoms`; a label becomes its `SinglePointCalculator`.

    Raises:
        ContractError: the sample lacks positions or numbers.
    """
    arrays = atomic(sample)
    atoms = Atoms(
        numbers=arrays["numbers"],
        positions=arrays["positions"],
        cell=arrays.get("cell"),
        pbc=arrays.get("pbc"),
    )
    for name in SCALARS:
        if name in arrays:
            atoms.info[name] = float(arrays[name])
    if isinstance(label, Mapping):
        results: dict[str, Any] = {}
        if "energy" in label:
            results["energy"] = float(label["energy"])
        if "forces" in label:
            results["forces"] = np.array(label["forces"], dtype=float)
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def read_samples(path: Path | str) -> list[dict[str, Array]]:
    """Read all frames of a file that ASE can read."""
    return [to_sample(atoms) for atoms in _frames(path)]


def starts(path: Path | str, kernel: str) -> list[dict[str, Array]]:
    """Read the geometries that walkers begin with: all frames of the option `start`.

    Raises:
        KernelImportError: naming `kernel` and the file, which cannot be read or holds none.
    """
    return [to_sample(atoms) for atoms in start_frames(path, kernel)]


def start_frames(path: Path | str, kernel: str, option: str = "start") -> list[Atoms]:
    """Read the frames of an option, `start` mostly, with all that the file tells of them.

    Raises:
        KernelImportError: naming `kernel` and the file, which cannot be read or holds none.
    """
    try:
        frames = _frames(path)
    except Exception as error:
        # ASE's readers raise whatever the file's content leads to.
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise KernelImportError(
            f"{kernel}: cannot read {option} = '{path}': {reason}; name a file with one or more "
            "geometries, such as extended xyz"
        ) from error
    if not frames:
        raise KernelImportError(f"{kernel}: {option} = '{path}' holds no geometry")
    return frames


def write_labelled(path: Path | str, dataset: Iterable[LabelledSample]) -> None:
    """Write samples with their labels as one extended xyz file."""
    frames = [to_atoms(item.sample, item.label) for item in dataset]
    write(Path(path), frames, format="extxyz")


def _frames(path: Path | str) -> list[Atoms]:
    frames: list[Atoms] = read(Path(path), index=":")
    return frames
