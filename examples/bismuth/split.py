"""Split what label.py made into pre-training.extxyz and heldout-dft.extxyz.

    python split.py labelled.extxyz

Also prints how many of each there are, by size and charge.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from ase import Atoms
from ase.io import read, write

HERE = Path(__file__).parent
FILES = {"pre-training": "pre-training.extxyz", "held out": "heldout-dft.extxyz"}
NOTES = ("number", "purpose", "temperature_K")
"""What is no part of the sample would be one of the label."""

if __name__ == "__main__":
    frames = sorted(read(sys.argv[1], index=":"), key=lambda atoms: int(atoms.info["number"]))
    chosen: dict[str, list[Atoms]] = {name: [] for name in FILES.values()}
    for atoms in frames:
        chosen[FILES[atoms.info["purpose"]]].append(atoms)
        for note in NOTES:
            del atoms.info[note]
    for name, kept in chosen.items():
        write(HERE / name, kept, format="extxyz")
        print(name, len(kept), dict(Counter(f"{a.symbols}{a.info['charge']:+d}" for a in kept)))
