"""Labels a second of each oracle, against the library or program that it wraps, used directly.

    OMP_NUM_THREADS=1 python benchmarks/kernels_oracles.py            # all
    OMP_NUM_THREADS=1 python benchmarks/kernels_oracles.py xtb pyscf  # some

Each row is a function that returns two others, ours and the bare library's, which make a label
of the sample they are given; both get the same samples in turn, of a molecule that jitters.
Labels a second are by the clock; what ours costs is told by processor time (of children, too),
which others on the machine hardly change. An oracle whose program is not installed is left out.
"""

from __future__ import annotations

import itertools
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ase.build import molecule
from ase.data import chemical_symbols
from ase.units import Bohr

from pal.kernels.atoms import to_sample
from pal.records import Sample
from pal.roles import Context
from pal.testing.bench import machine

SECONDS = 5.0
Labeller: TypeAlias = Callable[[Mapping[str, Any]], object]
Pair: TypeAlias = tuple[Labeller, Labeller]


def context() -> Context:
    return Context("oracle", 0, 1, 0, Path.cwd(), "cpu", int(os.environ.get("OMP_NUM_THREADS", 1)))


def jittering(name: str, size: float = 0.03) -> Iterator[dict[str, Any]]:
    sample = to_sample(molecule(name))
    rng = np.random.default_rng(0)
    while True:
        shift = size * rng.normal(size=sample["positions"].shape)
        yield {**sample, "positions": sample["positions"] + shift}


def xtb() -> Pair:
    return _tblite(restart=False)


def xtb_restarts() -> Pair:
    return _tblite(restart=True)


def _tblite(restart: bool) -> Pair:
    from tblite.interface import Calculator

    from pal.kernels.oracles.xtb import Xtb

    oracle = Xtb(context(), restart=restart)
    last = None

    def bare(sample: Mapping[str, Any]) -> object:
        nonlocal last
        calculator = Calculator("GFN2-xTB", sample["numbers"], sample["positions"] / Bohr)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint(last)
        last = result if restart else None
        return result.get("energy"), result.get("gradient")

    return oracle.label, bare


def xtb_program() -> Pair:
    from pal.kernels.oracles.xtb_program import XtbProgram

    oracle = XtbProgram(context(), restart=False)

    def bare(sample: Mapping[str, Any]) -> object:
        lines = [
            f"{chemical_symbols[z]} {x} {y} {w}"
            for z, (x, y, w) in zip(sample["numbers"], sample["positions"], strict=True)
        ]
        Path("geometry.xyz").write_text("\n".join([str(len(lines)), "", *lines, ""]))
        command = ["xtb", "geometry.xyz", "--grad", "--norestart"]
        subprocess.run(command, check=True, capture_output=True)
        return Path("gradient").read_text()

    return oracle.label, bare


def pyscf() -> Pair:
    return _pyscf(states=1)


def pyscf_tda() -> Pair:
    return _pyscf(states=3)


def _pyscf(states: int) -> Pair:
    import pyscf

    from pal.kernels.oracles.pyscf import EXTRA_ROOTS, PySCF

    options: dict[str, Any] = {"functional": "B3LYP", "basis": "6-31G*", "restart": False}
    oracle = PySCF(context(), states=states, **options)

    def bare(sample: Mapping[str, Any]) -> object:
        symbols = [chemical_symbols[z] for z in sample["numbers"]]
        atom = list(zip(symbols, sample["positions"], strict=True))
        field = pyscf.M(atom=atom, basis="6-31G*", verbose=0).RKS(xc="B3LYP").run()
        gradients = [field.nuc_grad_method().kernel()]
        if states > 1:
            response = field.TDA().run(nstates=states - 1 + EXTRA_ROOTS)
            method = response.nuc_grad_method()
            gradients += [method.kernel(state=state) for state in range(1, states)]
        return field.e_tot, gradients

    return oracle.label, bare


def ase_lennard_jones() -> Pair:
    from ase import Atoms
    from ase.calculators.lj import LennardJones

    from pal.kernels.oracles.ase_calculator import AseCalculator

    options = {"sigma": 1.0, "rc": 6.0}
    oracle = AseCalculator(context(), calculator="lj", options=options, max_force=1e6)
    calculator = LennardJones(**options)

    def bare(sample: Mapping[str, Any]) -> object:
        atoms = Atoms(sample["numbers"], sample["positions"], calculator=calculator)
        return atoms.get_forces(), atoms.get_potential_energy()

    return oracle.label, bare


def ase_nwchem() -> Pair:
    from ase import Atoms
    from ase.calculators.nwchem import NWChem

    from pal.kernels.oracles.ase_calculator import AseCalculator

    options = {"theory": "scf", "basis": "sto-3g"}
    oracle = AseCalculator(context(), calculator="nwchem", options=options, keep=[])

    def bare(sample: Mapping[str, Any]) -> object:
        calculator = NWChem(**options)
        atoms = Atoms(sample["numbers"], sample["positions"], calculator=calculator)
        return atoms.get_forces(), atoms.get_potential_energy()

    return oracle.label, bare


def command() -> Pair:
    from pal.kernels.oracles.command import Command

    # The shortest of programs: what is seen is what starting and reading one costs.
    program = ["awk", "{ s += $1 * $1 } END { print s }"]
    oracle = Command(
        context(),
        command=shlex.join([*program, "input.txt"]).replace("{", "{{").replace("}", "}}"),
        inputs={"input.txt": "{positions}"},
        results={"energy": {"pattern": r"(\S+)"}},
    )

    def bare(sample: Mapping[str, Any]) -> object:
        np.savetxt("bare.txt", sample["positions"])
        with open("bare.out", "wb") as output, open("bare.err", "wb") as errors:
            subprocess.run([*program, "bare.txt"], check=True, stdout=output, stderr=errors)
        return float(Path("bare.out").read_text())

    return oracle.label, bare


def teacher() -> Pair:
    from pal.kernels.models.distance_network import DistanceNetwork
    from pal.kernels.oracles.teacher import Teacher
    from pal.records import Batch, LabelledSample

    model = DistanceNetwork(context())
    samples = itertools.islice(jittering("CH3CH2OH"), 4)
    lessons = [
        LabelledSample(n, sample, {"energy": np.asarray(0.1 * n), "forces": np.zeros((9, 3))})
        for n, sample in enumerate(samples)
    ]
    next(iter(model.train(lessons)))
    np.savez("weights.npz", **model.get_weights())
    oracle = Teacher(context(), model="distance_network", weights="weights.npz", max_force=1e9)
    return oracle.label, lambda sample: model.predict(Batch([sample]))


ROWS: dict[str, tuple[Callable[[], Pair], str]] = {
    "xtb": (xtb, "CH3CH2OH"),
    "xtb, larger": (xtb, "C6H6"),
    "xtb, restarts": (xtb_restarts, "CH3CH2OH"),
    "xtb_program": (xtb_program, "CH3CH2OH"),
    "pyscf, B3LYP": (pyscf, "H2CO"),
    "pyscf, TDA of 3 states": (pyscf_tda, "H2O"),
    "ase, Lennard-Jones": (ase_lennard_jones, "CH3CH2OH"),
    "ase, NWChem": (ase_nwchem, "H2O"),
    "command": (command, "CH3CH2OH"),
    "teacher, distance_network": (teacher, "CH3CH2OH"),
}
"""What each row is called, how it is made, and the molecule it labels."""
PROGRAMS = {"xtb_program": "xtb", "ase, NWChem": "nwchem", "command": "awk"}


def measure(pair: Pair, samples: Iterator[Sample]) -> tuple[float, float, float]:
    """Return median seconds of a label, ours and the bare library's; and the ratio of costs."""
    for label in pair:
        label(next(samples))  # the first call builds caches
    seconds: tuple[list[float], list[float]] = ([], [])
    costs: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    for turn in itertools.count():
        sample = next(samples)
        for who in (0, 1) if turn % 2 else (1, 0):
            start, cost = time.perf_counter(), _processor()
            pair[who](sample)
            seconds[who].append(time.perf_counter() - start)
            costs[who].append(_processor() - cost)
        if time.perf_counter() > end and turn >= 1:
            break
    ours, bare = (statistics.median(times) for times in seconds)
    return ours, bare, sum(costs[0]) / sum(costs[1])


def _processor() -> float:
    """Seconds of processor time, to the microsecond, of this process and its children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main(words: list[str]) -> None:
    print(machine())
    print("| oracle | molecule | labels/s | of the bare library | cost, times the bare one |")
    print("|---|---|---|---|---|")
    for name, (make, formula) in ROWS.items():
        if words and not any(name.startswith(word) for word in words):
            continue
        if shutil.which(PROGRAMS.get(name, "sh")) is None:
            print(f"| {name} | {formula} | the program {PROGRAMS[name]} is not installed | | |")
            continue
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            ours, bare, ratio = measure(make(), jittering(formula))
        print(
            f"| {name} | {formula} | {1 / ours:.3g} | {1 / bare:.3g} | {ratio:.3f} |", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
