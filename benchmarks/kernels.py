"""The kernel library against the libraries it joins: one table after the other, in Markdown.

    python benchmarks/kernels.py                    # all: half an hour
    python benchmarks/kernels.py models dynamics    # some: models, surrogates, oracles, dynamics

MACE is measured with the environment that `make test` makes for it, if that is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = ("models", "surrogates", "oracles", "dynamics")
MACE = HERE.parent / ".venv-mace" / "bin" / "python"


def run(part: str) -> None:
    """Run one part with one thread, as each is measured against its bare double."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    file = str(HERE / f"kernels_{part}.py")
    print(f"\n### {part.capitalize()}\n", flush=True)
    names = ["schnet", "nequip", "allegro"] if part == "models" else []
    subprocess.run([sys.executable, file, *names], env=environment, check=True)
    if part == "models" and MACE.exists():
        subprocess.run([str(MACE), file, "mace"], env=environment, check=True)


def main(wanted: list[str]) -> None:
    """Run the parts named, or all.

    Raises:
        SystemExit: there is no such part.
    """
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    for part in wanted or PARTS:
        run(part)


if __name__ == "__main__":
    main(sys.argv[1:])
