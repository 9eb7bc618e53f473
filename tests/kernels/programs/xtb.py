"""Stands in for the program xtb: two atoms on a spring, told in xtb's files.

It writes down its arguments and threads, begins with `xtbrestart` where there is one, and fails
as the variable STAND_IN says.
"""

import os
import sys
from pathlib import Path

import numpy as np

how = os.environ.get("STAND_IN", "")
begun = Path("xtbrestart").exists()
with Path(os.environ["STAND_IN_DIARY"]).open("a") as diary:
    threads = f"{os.environ['OMP_NUM_THREADS']}/{os.environ['MKL_NUM_THREADS']}"
    diary.write(f"{' '.join(sys.argv[1:])} threads={threads} restart={begun}\n")
print("iterations ...")
if how == "unconverged" or (how == "misled" and begun):
    print("-1- scf: Self consistent charge iterator did not converge")
    print("abnormal termination of xtb", file=sys.stderr)
    sys.exit(1)
words = Path("coord").read_text().split("\n")[1:-2]
positions = np.array([[float(x) for x in line.split()[:3]] for line in words])
difference = positions[1] - positions[0]
energy, slope = 0.05 * difference @ difference, 0.1 * difference
lines = ["$grad", f"  cycle =      1    SCF energy = {energy:18.11f}   |dE/dxyz| =  0.1"]
lines += words
for row in (-slope, slope):
    lines.append(" ".join(f"{x:.13E}".replace("E", "D") for x in row))
if how != "silent":
    Path("gradient").write_text("\n".join(lines[:3] if how == "cut" else [*lines, "$end"]))
Path("xtbrestart").write_text("charges")
print("normal termination of xtb")
