"""Any calculator that ASE knows: electronic structure programs and built-in potentials."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    BadConfiguration,
    CalculatorError,
    CalculatorSetupError,
    FileIOCalculator,
    PropertyNotImplementedError,
    StandardProfile,
    get_calculator_class,
)
from ase.calculators.genericfileio import BaseProfile, GenericFileIOCalculator
from ase.calculators.names import builtin

from pal.errors import ContractError, LabelFailure
from pal.kernels.atoms import to_atoms
from pal.kernels.oracles.parts.ase_programs import PROGRAMS, Program, merged, with_electrons
from pal.kernels.oracles.parts.kept import Kept
from pal.kernels.oracles.parts.program import find_program, last_words, text_of, thread_environment
from pal.kernels.oracles.parts.sanity import sane
from pal.records import Array, Label, Sample
from pal.roles import Context

OUTPUTS = ("*.out", "*.log", "*.nwo", "*.pwo", "*.dat", "*.err", "OUTCAR", "CRASH")
"""Where programs say why they failed."""


class AseCalculator:
    """Any ASE calculator by name: ORCA, NWChem, VASP, CP2K, Gaussian, Psi4, EMT, LJ and more.

    The calculator (Larsen et al., J. Phys. Condens. Matter 29, 273002 (2017)) writes its
    program's input into the scratch folder of the label, runs it there and reads energy and
    forces. A calculator that computes in this process (EMT, LJ, a potential of your own) is
    built once, one that runs a program anew for each label.

    The sample's `charge` and `spin` (unpaired electrons) are passed under the calculator's names:

        program     charge                          spin
        orca        charge                          mult
        gaussian    charge                          mult
        nwchem      charge                          initial magnetic moments
        psi4        charge                          multiplicity (and reference = "uhf")
        qchem       charge                          multiplicity
        gamess_us   contrl.icharg                   contrl.mult (and scftyp = "uhf")
        turbomole   total charge                    multiplicity
        mopac       charge                          initial magnetic moments
        cp2k        charge                          multiplicity (and uks = true)
        dftb        Hamiltonian_Charge              ..._SpinPolarisation_UnpairedElectrons
        aims        charge                          fixed_spin_moment
        vasp        charge                          nupdown (and ispin = 2)
        espresso    input_data.system.tot_charge    input_data.system.tot_magnetization

    For other calculators the option `electrons` says how; without it a charged sample is refused.
    A molecule without `spin` gets the lowest one, unless the options name a multiplicity.

    Options:
        calculator: ASE's name of it ("emt", "lj", "orca", "nwchem", "vasp", "cp2k", "aims",
            "psi4", "gaussian", "dftb", "espresso", "mopac", "turbomole", ...), or
            "package.module:Class" for any other.
        options: passed to the calculator, in its own units. In strings, "{threads}" becomes the
            number of threads (alone an integer), and "{home}" the folder in which the campaign
            runs: programs see only their scratch folder, so that paths must be absolute.
        command: how the program is started, e.g. "mpirun -n {threads} nwchem"; by default what
            ASE's own configuration says. Where it contains PREFIX it is run by the shell, as
            older calculators do: "g16 < PREFIX.com > PREFIX.log".
        profile: further entries of the calculator's profile, such as pseudo_dir of espresso and
            default_species_directory of aims.
        electrons: how the calculator hears of electrons, where the table above does not say:
            names of its options, by "charge" (e), "spin" (unpaired electrons) or "multiplicity";
            "info" where it reads `atoms.info` itself.
        keep: files (globs) that are kept after a good label, and put into the scratch folder of
            the next one of the same molecule, so that it begins from these orbitals. By default
            those of ORCA, Gaussian (where the option chk is set), NWChem, VASP and CP2K (where
            the option inp says SCF_GUESS RESTART); [] keeps none.
        restart: options that are added when such files are there.
        unconverged: texts in the output that mean failure, although the program went on.
        free_energy: label with the free energy of the electrons rather than the energy
            extrapolated to zero smearing; the forces are the gradient of the former.
        max_force: labels with a force component beyond it (eV/Å) are refused.

    Example:
        [oracle]
        kernel = "ase"
        options.calculator = "orca"
        options.command = "/opt/orca/orca"
        options.options.orcasimpleinput = "PBE def2-SVP EnGrad"
        options.options.orcablocks = "%pal nprocs {threads} end"
    """

    def __init__(
        self,
        context: Context,
        *,
        calculator: str,
        options: Mapping[str, Any] | None = None,
        command: str | None = None,
        profile: Mapping[str, Any] | None = None,
        electrons: Mapping[str, str] | None = None,
        keep: Sequence[str] | None = None,
        restart: Mapping[str, Any] | None = None,
        unconverged: Sequence[str] | None = None,
        free_energy: bool = False,
        max_force: float = 50.0,
    ) -> None:
        self._name = calculator
        self._class = _calculator_class(calculator)
        self._threads = context.threads
        self._program = _program(calculator, electrons, keep, restart, unconverged)
        self._options = self._filled(options or {})
        self._command = None if command is None else self._filled(command)
        self._profile = self._filled(profile or {})
        self._free_energy = free_energy
        self._max_force = max_force
        # A calculator of the table runs a program even where it is no FileIOCalculator.
        self._external = calculator in PROGRAMS or _runs_program(self._class)
        self._kept = Kept(context.directory, self._program.keep)
        self._ready: dict[str, Any] = {}
        self._last: tuple[float | None, float | None] = (None, None)
        self._tried()

    def label(self, sample: Sample) -> Label:
        """Return `energy` (eV) and `forces` (atoms, 3) in eV/Å.

        Raises:
            LabelFailure: not converged, failed, or forces beyond `max_force`; with the last
                words of the program.
            ContractError: the calculator does not take this sample, or gives no forces.
        """
        atoms = to_atoms(sample)
        self._check(atoms)
        options = with_electrons(self._program, self._options, atoms)
        if not self._external:
            return self._in_process(atoms, options)
        with _surroundings(self._threads):
            return self._by_program(atoms, options)

    def _by_program(self, atoms: Atoms, options: Mapping[str, Any]) -> Label:
        moments = atoms.get_initial_magnetic_moments().sum()
        key = (self._name, atoms.numbers.tolist(), float(moments), repr(options))
        again = merged(options, self._program.restart)
        return self._kept.label(
            key, lambda kept: self._calculated(atoms, again if kept else options)
        )

    def _calculated(self, atoms: Atoms, options: Mapping[str, Any]) -> Label:
        """Run the program once; whatever goes wrong then is its failure, with its last words."""
        calculator = self._made(options)
        try:
            label = self._results(calculator, atoms)
            self._converged(calculator)
            return sane(label, self._max_force, self._name)
        except ContractError:
            raise
        except (CalculatorSetupError, BadConfiguration) as error:
            raise ContractError(f"ase: calculator '{self._name}': {error}") from error
        except Exception as error:
            reason = str(error) if isinstance(error, LabelFailure) else _described(error)
            raise LabelFailure(
                f"ase: calculator '{self._name}' failed: {reason}: {last_words(*_outputs())}"
            ) from error
        finally:
            _close(calculator)

    def _in_process(self, atoms: Atoms, options: Mapping[str, Any]) -> Label:
        key = repr(options)
        if key not in self._ready:
            self._ready[key] = self._made(options)
        calculator = self._ready[key]
        electrons = (atoms.info.get("charge"), atoms.info.get("spin"))
        if electrons != self._last and hasattr(calculator, "reset"):
            # ASE takes atoms that differ only in their info for the same ones.
            calculator.reset()
        self._last = electrons
        # One that failed may be half set up, and wrong from then on: it is kept only if all went
        # well.
        del self._ready[key]
        try:
            label = self._results(calculator, atoms)
        except (CalculatorSetupError, NotImplementedError) as error:
            raise ContractError(f"ase: calculator '{self._name}': {_described(error)}") from error
        except CalculatorError as error:
            raise LabelFailure(f"ase: calculator '{self._name}' failed: {error}") from error
        self._ready[key] = calculator
        return sane(label, self._max_force, self._name)

    def _results(self, calculator: Any, atoms: Atoms) -> dict[str, Array]:
        atoms.calc = calculator
        try:
            forces = np.array(atoms.get_forces(), dtype=float)
            energy = atoms.get_potential_energy(force_consistent=self._free_energy)
        except PropertyNotImplementedError as error:
            raise ContractError(
                f"ase: calculator '{self._name}' gives no energy and forces ({error}); ask for "
                "them in its options (of ORCA: EnGrad in orcasimpleinput)"
            ) from error
        return {"energy": np.asarray(energy, dtype=float), "forces": forces}

    def _converged(self, calculator: Any) -> None:
        if getattr(calculator, "converged", None) is False:
            raise LabelFailure("not converged")
        for path in _outputs() if self._program.unconverged else ():
            text = text_of(path)
            for sign in self._program.unconverged:
                if sign in text:
                    raise LabelFailure(f"not converged ({path.name} says '{sign}')")

    def _made(self, options: Mapping[str, Any]) -> Any:
        """Build a calculator, for the working directory.

        Raises:
            ContractError: it does not take these options.
        """
        try:
            return self._class(**options, **self._start())
        except (BadConfiguration, CalculatorSetupError) as error:
            raise ContractError(
                f"ase: calculator '{self._name}' is not set up: {error}; say how its program is "
                "started (oracle option command), or configure ASE"
            ) from error
        except Exception as error:
            raise ContractError(
                f"ase: calculator '{self._name}' cannot be built with options {dict(options)}: "
                f"{_described(error)}"
            ) from error

    def _start(self) -> dict[str, Any]:
        """Return the arguments that say how the program is started; ASE knows three ways."""
        if inspect.isclass(self._class) and issubclass(self._class, GenericFileIOCalculator):
            if self._command is None:
                return {}
            return {"profile": _profile_class(self._class)(self._command, **self._profile)}
        if self._command is None:
            return {}
        rules = getattr(self._class, "fileio_rules", None)
        if rules is not None and "PREFIX" not in self._command:
            return {"profile": StandardProfile(self._command, self._profile)}
        return {"command": self._command}

    def _tried(self) -> None:
        """Build a calculator once, to refuse at the start what would spoil every label.

        The program is found here, where relative paths mean the campaign's folder.
        """
        if self._command is not None:
            self._command = _with_path(self._command)
        # A neutral closed shell, for calculators that must be told electrons at once.
        calculator = self._made(with_electrons(self._program, self._options, Atoms("He")))
        if self._external and self._command is None:
            _with_path(_command_of(calculator))
        _close(calculator)

    def _check(self, atoms: Atoms) -> None:
        known = {
            "charge": self._program.charge,
            "spin": self._program.spin or self._program.multiplicity,
        }
        for name, option in known.items():
            if atoms.info.get(name) and not option and self._name not in builtin:
                raise ContractError(
                    f"ase: the sample has {name} {atoms.info[name]:g}, and it is not known how "
                    f"calculator '{self._name}' hears of it; say so, e.g. "
                    f'electrons = {{ {name} = "{name}" }}'
                )

    def _filled(self, value: Any) -> Any:
        if value == "{threads}":
            return self._threads
        if isinstance(value, str):
            text = value.replace("{threads}", str(self._threads))
            return text.replace("{home}", os.getcwd())
        if isinstance(value, Mapping):
            return {name: self._filled(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._filled(item) for item in value]
        return value


def _calculator_class(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        if attribute:
            found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        else:
            found = get_calculator_class(name)
    except Exception as error:
        raise ContractError(
            f"ase: calculator '{name}' cannot be imported: {_described(error)}; expected a name "
            'that ASE knows, in lower case, or "package.module:Class"'
        ) from error
    return found


def _program(
    name: str,
    electrons: Mapping[str, str] | None,
    keep: Sequence[str] | None,
    restart: Mapping[str, Any] | None,
    unconverged: Sequence[str] | None,
) -> Program:
    """Return the table's entry with what the options say instead."""
    changes: dict[str, Any] = {"restart": restart}
    if electrons is not None:
        unknown = electrons.keys() - {"charge", "spin", "multiplicity"}
        if unknown:
            raise ContractError(
                f"ase: electrons has the keys {sorted(unknown)}; expected charge, and spin or "
                "multiplicity"
            )
        changes.update(dict.fromkeys(("charge", "spin", "multiplicity"), ""), **electrons)
    changes["keep"] = None if keep is None else tuple(keep)
    changes["unconverged"] = None if unconverged is None else tuple(unconverged)
    known = {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(PROGRAMS.get(name, Program()), **known)


def _runs_program(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, FileIOCalculator | GenericFileIOCalculator)


def _profile_class(kind: type) -> Callable[..., BaseProfile]:
    """Return the profile that a calculator's own module defines."""
    module = importlib.import_module(kind.__module__)
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, BaseProfile) and value is not BaseProfile:
            return value
    raise ContractError(
        f"ase: {kind.__module__} defines no profile; give the command in ASE's configuration"
    )


def _command_of(calculator: Any) -> str:
    profile = getattr(calculator, "profile", None)
    command = getattr(profile, "command", None) or getattr(calculator, "command", None)
    return command if isinstance(command, str) else ""


def _with_path(command: str) -> str:
    """Return the command with the full path of its program, which must be there."""
    words = [word for word in shlex.split(command) if "=" not in word]
    if not words:
        return command
    return command.replace(words[0], find_program(words[0], "ase"), 1)


def _outputs() -> list[Path]:
    found = {path for glob in OUTPUTS for path in Path.cwd().glob(glob) if path.is_file()}
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _close(calculator: Any) -> None:
    """End the program of a calculator that keeps one running, as CP2K's does."""
    close = getattr(calculator, "close", None)
    if callable(close):
        with contextlib.suppress(Exception):
            close()


@contextlib.contextmanager
def _surroundings(threads: int) -> Iterator[None]:
    """Set the threads, and keep what ASE prints and deprecates out of the logs."""
    variables = thread_environment(threads)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            for category in (DeprecationWarning, FutureWarning, RuntimeWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
