"""Stands in for ORCA: springs to the origin, in ORCA's input and output formats.

Energy 0.5 * sum(r^2) - charge + 0.1 * multiplicity (Hartree, Bohr). Two atoms closer than 0.3 Å
do not converge; with orbitals of an earlier run it says so.
"""

import os
import re
import sys
from pathlib import Path

BOHR = 0.529177210903

text = Path(sys.argv[1]).read_text()
name = sys.argv[1].removesuffix(".inp")
charge, multiplicity = map(int, re.search(r"\*xyz\s+(-?\d+)\s+(\d+)", text).groups())
rows = [line.split() for line in re.search(r"\*xyz.*\n([^*]*)\*", text)[1].splitlines()]
atoms = [(row[0], [float(value) / BOHR for value in row[1:4]]) for row in rows]
nprocs = re.search(r"nprocs (\S+)", text)[1]

print("                                 * O   R   C   A *")
print(f"NPROCS {nprocs} THREADS {os.environ['OMP_NUM_THREADS']}")
if os.path.exists(name + ".gbw"):
    print("INITIAL GUESS: MOREAD")
    if Path(name + ".gbw").read_text() == "poisoned":
        sys.exit("orbitals of another planet")
print(f"Number of atoms                         ...     {len(atoms)}")
print("---------------------------------\nCARTESIAN COORDINATES (ANGSTROEM)")
print("---------------------------------")
for symbol, place in atoms:
    print(f"  {symbol:2s}" + "".join(f"{x * BOHR:14.6f}" for x in place))
near = min(
    sum((x - y) ** 2 for x, y in zip(a[1], b[1], strict=True)) ** 0.5
    for i, a in enumerate(atoms)
    for b in atoms[:i]
)
if near * BOHR < 0.3:
    print("                     SCF NOT CONVERGED AFTER 125 CYCLES")
    print("[file orca_main/run.cpp]: Error: The SCF has not converged")
    print("ORCA finished by error termination in SCF")
    sys.exit(0)  # as ORCA does
energy = 0.5 * sum(x * x for _, place in atoms for x in place) - charge + 0.1 * multiplicity
print(f"\nFINAL SINGLE POINT ENERGY   {energy:20.12f}")
if "EnGrad" in text:
    with open(name + ".engrad", "w") as file:
        file.write(f"#\n# Number of atoms\n#\n {len(atoms)}\n")
        file.write(f"#\n# The current total energy in Eh\n#\n{energy:21.12f}\n")
        file.write("#\n# The current gradient in Eh/bohr\n#\n")
        file.writelines(f"{x:21.12f}\n" for _, place in atoms for x in place)
        file.write("#\n# The atomic numbers and current coordinates in Bohr\n#\n")
        for _, place in atoms:
            file.write("   1 " + "".join(f"{x:13.7f}" for x in place) + "\n")
with open(name + ".gbw", "w") as file:
    file.write(text)
print("\n                             ****ORCA TERMINATED NORMALLY****")
