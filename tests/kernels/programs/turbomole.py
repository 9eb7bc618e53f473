"""Stands in for a program of Turbomole: it prints, and leaves, the recorded files.

The first argument is the program's name, the second the folder of the recordings. It notes what
it was told in `told.json`, as the real ones do in `control`. TURBOMOLE_FAILS names a program that
fails, and how.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

name, recorded = sys.argv[1], Path(sys.argv[2])
control = Path("control").read_text()
excited = re.search(r"\$exopt (\d+)", control)

told = Path("told.json")
notes = json.loads(told.read_text()) if told.exists() else []
notes.append(
    {
        "program": name,
        "threads": os.environ["PARNODES"],
        "control": control,
        "coord": Path("coord").read_text(),
        "orbitals": sorted(path.name for path in Path().glob("mos")),
    }
)
told.write_text(json.dumps(notes))

failing, _, how = os.environ.get("TURBOMOLE_FAILS", "").partition(" ")
if failing == name:
    print("   9  -113.9   0.2D-01\n")
    if how == "unconverged":
        print(" ATTENTION: dscf did not converge!\n Check your input for errors")
        sys.exit(0)
    if how == "abnormally":
        print(f"{name} ended abnormally", file=sys.stderr)
        sys.exit(0)
    if how == "problem":
        Path(f"{name}_problem").touch()
    if how == "silently":
        sys.exit(0)
    if how == "code":
        sys.exit("*** stack overflow ***")

print((recorded / f"{name}.out").read_text())
print(f"{name} ended normally", file=sys.stderr)
if name in ("dscf", "ridft"):
    shutil.copy(recorded / "energy", "energy")
    Path("mos").write_text("$scfmo\n$end\n")
    if "$scfmo" not in control:
        Path("control").write_text(control.replace("$end", "$scfmo file=mos\n$end"))
elif name == "egrad" and how != "no gradient":
    chosen = excited[1] if how != "another state" else "2"
    shutil.copy(recorded / f"gradient_{chosen}", "gradient")
elif name in ("grad", "rdgrad"):
    shutil.copy(recorded / "gradient", "gradient")
