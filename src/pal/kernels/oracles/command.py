"""Any program as an oracle: its input made from a template, its output read by rules."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import ContractError, LabelFailure, ShapeError
from pal.kernels.oracles.parts.command_inputs import facts, filled, write_sample
from pal.kernels.oracles.parts.command_results import OUTPUT, MissingResultError, Result
from pal.kernels.oracles.parts.kept import Kept
from pal.kernels.oracles.parts.program import find_program, last_words, run_program, text_of
from pal.kernels.oracles.parts.sanity import sane
from pal.records import Array, Label, Sample, named, signature
from pal.roles import Context

ERRORS = "stderr.txt"


class Command:
    """Any program by template and parser, for atoms and for any other arrays.

    In templates and in the command these are filled in from the sample, as `{name}`:

        {parameters}    all values of a sample that is one bare array; {parameters[0]} the first
        {NAME}          any named array of the sample, {NAME[2]} or {NAME[0, 2]} an entry;
                        {NAME:.6f} with a format for each number
        {xyz}           one line per atom: symbol and position (Å)
        {atoms}         number of atoms; {symbols} their symbols
        {charge}        total charge (e), 0 unless the sample carries one
        {multiplicity}  2S + 1 of the sample's spin, or the lowest possible one
        {threads}       threads this oracle may use
        {home}          the folder in which the campaign runs

    Write {{name}} where braces are meant. The program runs in the scratch folder. What it prints
    goes to stdout.txt and stderr.txt. A non-zero exit or a missing result is a `LabelFailure`
    with its last words.

    Each entry of `results` says where one array of the label stands:

        file     the file; stdout.txt by default. Its suffix says how it is read: .json, .npz,
                 .npy, .xyz and .extxyz (by ASE), any other as columns of numbers (.csv by commas)
        key      the entry of it: "results.energy" in .json, a name in .npz, "energy" or "forces"
                 in files that ASE reads
        pattern  regular expression with one group, the number; the last match counts
        all      all matches of the pattern, as an array
        columns  the columns taken, from 0; all by default
        skip     lines before the columns begin
        format   ASE's name of the file's format, for others than extended xyz
        unit     what the file's numbers are in: Hartree, Hartree/Bohr, Rydberg, kcal/mol, Bohr...
        factor   a further factor, e.g. -1.0 where a gradient is written rather than forces
        shape    e.g. [] for one number, ["atoms", 3] for forces

    Options:
        command: the program and its arguments, which may have placeholders; files of yours are
            {home}/..., as the program runs elsewhere. No shell sees it: write sh -c "..." for
            pipes.
        results: the arrays of the label, see above.
        inputs: files to write before each run: text with placeholders, by file name.
        templates: files with placeholders, by the name under which they are filled in; read once,
            from the campaign's folder.
        copy: files and folders copied into the scratch folder as they are (meshes, basis sets).
        sample_file: the whole sample is written to this file: .json, .npz, .npy or .xyz.
        bare: the label is one array without a name; `results` has one entry then.
        environment: variables set for the program.
        success: regular expression that must match the printed output.
        failure: regular expressions that must not.
        keep: files (globs) that are kept after a good label and put into the scratch folder of
            the next one of the same atoms, or of the same shape: orbitals, or the last flow.
        max_force: labels with a force component beyond it (eV/Å) are refused.

    Example:
        [oracle]
        kernel = "command"
        options.command = "psi4 -n {threads} input.dat output.dat"
        options.templates = { "input.dat" = "psi4.template" }

        [oracle.options.results]
        energy = { file = "output.dat", pattern = 'Total Energy =\\s+(\\S+)', unit = "Hartree" }
        forces = { file = "forces.npy", unit = "Hartree/Bohr", factor = -1.0, shape = [-1, 3] }
    """

    def __init__(
        self,
        context: Context,
        *,
        command: str,
        results: Mapping[str, Mapping[str, Any]],
        inputs: Mapping[str, str] | None = None,
        templates: Mapping[str, str] | None = None,
        copy: Sequence[str] = (),
        sample_file: str | None = None,
        bare: bool = False,
        environment: Mapping[str, str] | None = None,
        success: str = "",
        failure: Sequence[str] = (),
        keep: Sequence[str] = (),
        max_force: float = 50.0,
    ) -> None:
        self._threads = context.threads
        self._home = os.getcwd()
        self._results = {name: Result.of(name, table) for name, table in results.items()}
        self._bare = bare
        if not results or (bare and len(results) > 1):
            raise ContractError(
                f"command: results has {len(results)} entries; expected one or more, and exactly "
                "one with bare = true"
            )
        self._program, *self._arguments = _split(command)
        self._inputs = {**(inputs or {}), **_templates(templates or {})}
        self._copied = [_existing(path, "copy") for path in copy]
        self._sample_file = sample_file
        self._environment = dict(environment or {})
        self._success, self._failure = _patterns(success, failure)
        self._kept = Kept(context.directory, keep)
        self._max_force = max_force

    def label(self, sample: Sample) -> Label:
        """Return the arrays that `results` names.

        Raises:
            LabelFailure: the program failed or left out a result; with its last words.
            ContractError: a template names what the sample lacks; a result has a wrong shape.
        """
        arrays = named(sample)
        numbers = arrays["numbers"].tolist() if "numbers" in arrays else None
        electrons = [float(arrays.get(name, 0.0)) for name in ("charge", "spin")]
        key = (numbers, electrons) if numbers else signature(sample)
        return self._kept.label(key, lambda _: self._computed(sample))

    def _computed(self, sample: Sample) -> Label:
        known = facts(sample, self._threads, self._home)
        self._prepare(sample, known)
        arguments = [filled(part, known, "command: command") for part in self._arguments]
        name = Path(self._program).name
        said = run_program(
            [self._program, *arguments],
            f"command '{name}'",
            threads=self._threads,
            environment=self._environment,
            stdout=OUTPUT,
            stderr=ERRORS,
        )
        self._judge(name, said)
        label = {result: self._read(result, name, known.get("atoms")) for result in self._results}
        sane(label, self._max_force, f"command '{name}'")
        return next(iter(label.values())) if self._bare else label

    def _prepare(self, sample: Sample, known: Mapping[str, Any]) -> None:
        for source in self._copied:
            if source.is_dir():
                shutil.copytree(source, source.name, dirs_exist_ok=True)
            else:
                shutil.copy(source, source.name)
        if self._sample_file:
            write_sample(Path(self._sample_file), sample)
        for name, text in self._inputs.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(filled(text, known, f"command: input '{name}'"))

    def _judge(self, name: str, said: str) -> None:
        if self._success and not self._success.search(said):
            raise LabelFailure(
                f"command '{name}' did not say {self._success.pattern!r}: "
                f"{last_words(OUTPUT, ERRORS)}"
            )
        for pattern in self._failure:
            if pattern.search(said):
                raise LabelFailure(
                    f"command '{name}' said {pattern.pattern!r}: {last_words(OUTPUT, ERRORS)}"
                )

    def _read(self, result: str, name: str, atoms: int | None) -> Array:
        try:
            return np.asarray(self._results[result].read(atoms))
        except MissingResultError as error:
            raise LabelFailure(
                f"command '{name}' gave no {result}: {error}; its last words: "
                f"{last_words(OUTPUT, ERRORS)}"
            ) from error
        except ShapeError as error:
            raise ShapeError(
                f"command '{name}': {result}: {error}; its last words: "
                f"{last_words(OUTPUT, ERRORS)}"
            ) from error


def _split(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ContractError(f"command: cannot split the command {command!r}: {error}") from error
    if not words:
        raise ContractError("command: the command is empty; expected a program and its arguments")
    return [find_program(words[0], "command"), *words[1:]]


def _existing(path: str, option: str) -> Path:
    found = Path(os.path.abspath(path))
    if not found.exists():
        raise ContractError(f"command: {option} names '{path}', which does not exist")
    return found


def _templates(templates: Mapping[str, str]) -> dict[str, str]:
    return {name: text_of(_existing(path, "templates")) for name, path in templates.items()}


def _patterns(
    success: str, failure: Sequence[str]
) -> tuple[re.Pattern[str] | None, list[re.Pattern[str]]]:
    try:
        good = re.compile(success, re.MULTILINE) if success else None
        return good, [re.compile(pattern, re.MULTILINE) for pattern in failure]
    except re.error as error:
        raise ContractError(
            f"command: success or failure is no regular expression: {error}"
        ) from error
