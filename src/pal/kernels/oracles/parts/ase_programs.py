"""What ASE's calculators call the charge and the spin, and what is worth keeping of their files.

ASE leaves these names to each program. `PROGRAMS` is the table that the oracle `ase` works with;
its options `electrons`, `keep`, `restart` and `unconverged` replace an entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ase import Atoms

INFO: Final = "info"
"""Instead of an option's name: the calculator itself reads `atoms.info`."""

MOMENTS: Final = "moments"
"""Instead of an option's name: the calculator sums the atoms' initial magnetic moments."""


@dataclass(frozen=True, slots=True)
class Program:
    """How one program hears of electrons, and what it leaves behind.

    `charge` (e), `spin` (unpaired electrons) and `multiplicity` (one more) are names of the
    calculator's options, dotted where they are nested. `open_shell` holds options that unpaired
    electrons need. `keep`: files with the orbitals; `restart`: options that make it begin with
    them. `unconverged`: what it prints when it gave up, but went on as if nothing were wrong.
    """

    charge: str = ""
    spin: str = ""
    multiplicity: str = ""
    open_shell: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    restart: Mapping[str, Any] = field(default_factory=dict)
    unconverged: tuple[str, ...] = ()


PROGRAMS: Final[Mapping[str, Program]] = {
    "orca": Program(
        charge="charge",
        multiplicity="mult",
        keep=("orca.gbw",),  # ORCA begins with orbitals of its input's own name
        unconverged=("SCF NOT CONVERGED", "Wavefunction not fully converged"),
    ),
    "gaussian": Program(
        charge="charge",
        multiplicity="mult",
        keep=("*.chk",),  # written where the option chk names it
        restart={"guess": "read"},
        unconverged=("Convergence failure",),
    ),
    "nwchem": Program(
        charge="charge",
        spin=MOMENTS,
        keep=("nwchem/nwchem.movecs",),
        # Not `restart_kw`: the database that it reads names the old scratch folder.
        restart={
            "set": {f'"{theory}:input vectors"': "nwchem.movecs" for theory in ("scf", "dft")}
        },
        unconverged=("Calculation failed to converge",),
    ),
    "psi4": Program(charge="charge", multiplicity="multiplicity", open_shell={"reference": "uhf"}),
    "qchem": Program(
        charge="charge", multiplicity="multiplicity", unconverged=("SCF failed to converge",)
    ),
    "gamess_us": Program(
        charge="contrl.icharg",
        multiplicity="contrl.mult",
        open_shell={"contrl": {"scftyp": "uhf"}},
        unconverged=("SCF IS UNCONVERGED",),
    ),
    "turbomole": Program(charge="total charge", multiplicity="multiplicity"),
    "mopac": Program(
        charge="charge", spin=MOMENTS, unconverged=("UNABLE TO ACHIEVE SELF-CONSISTENCE",)
    ),
    "cp2k": Program(
        charge="charge",
        multiplicity="multiplicity",
        open_shell={"uks": True},
        keep=("*-RESTART.wfn",),  # read where the option inp says SCF_GUESS RESTART
        unconverged=("SCF run NOT converged",),
    ),
    "dftb": Program(
        charge="Hamiltonian_Charge",
        spin="Hamiltonian_SpinPolarisation_UnpairedElectrons",
        open_shell={"Hamiltonian_SpinPolarisation_": "Colinear"},
        unconverged=("SCC is NOT converged",),
    ),
    "aims": Program(
        charge="charge",
        spin="fixed_spin_moment",
        open_shell={"spin": "collinear", "default_initial_moment": "hund"},
        unconverged=("Self-consistency cycle not converged",),
    ),
    "vasp": Program(charge="charge", spin="nupdown", open_shell={"ispin": 2}, keep=("WAVECAR",)),
    "espresso": Program(
        charge="input_data.system.tot_charge",
        spin="input_data.system.tot_magnetization",
        open_shell={"input_data": {"system": {"nspin": 2}}},
        unconverged=("convergence NOT achieved",),
    ),
    # These run a program, too, and know no charge.
    "castep": Program(),
    "lammpsrun": Program(),
}


def with_electrons(
    program: Program, options: Mapping[str, Any], atoms: Atoms
) -> Mapping[str, Any]:
    """Return the options with the charge and spin that the atoms carry; set magnetic moments.

    Where a molecular program (one that is told a multiplicity, or a total moment) hears no spin,
    neither from the sample nor from the options, it is the lowest that the electrons allow.
    """
    charge, spin = atoms.info.get("charge"), atoms.info.get("spin")
    if charge is not None:
        options = set_option(options, program.charge, _whole(charge))
    if spin is None and _option(options, program.multiplicity) is None:
        spin = _lowest(program, options, atoms)
    if spin is None:
        return options
    unpaired = round(float(spin))
    options = set_option(options, program.multiplicity, unpaired + 1)
    if program.spin == MOMENTS:
        # Only their sum counts; a sum of fractions might round.
        atoms.set_initial_magnetic_moments([unpaired] + [0] * (len(atoms) - 1))
    else:
        options = set_option(options, program.spin, unpaired)
    return merged(program.open_shell, options) if unpaired else options


def set_option(options: Mapping[str, Any], name: str, value: Any) -> Mapping[str, Any]:
    """Return the options with one of them set; `name` is dotted where it is nested."""
    if name in ("", INFO):
        return options
    first, _, rest = name.partition(".")
    inner = set_option(options.get(first) or {}, rest, value) if rest else value
    return {**options, first: inner}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested mappings as one; where both say something, `over` wins."""
    both = {**base, **over}
    for name in base.keys() & over.keys():
        if isinstance(base[name], Mapping) and isinstance(over[name], Mapping):
            both[name] = merged(base[name], over[name])
    return both


def _option(options: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(options, Mapping) or part not in options:
            return None
        options = options[part]
    return options


def _lowest(program: Program, options: Mapping[str, Any], atoms: Atoms) -> int | None:
    if atoms.pbc.any() or not (program.multiplicity or program.spin == MOMENTS):
        return None
    charge = _option(options, program.charge) or 0
    return int(atoms.numbers.sum() - round(float(charge))) % 2


def _whole(value: float) -> float | int:
    """Programs write a charge of 1.0 as they get it; their inputs want 1."""
    return int(value) if float(value).is_integer() else float(value)
