"""All kernels of a campaign, tried one after the other, and whether they fit together."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pal.building import KernelSpec
from pal.cli.probe import FINDINGS, TASK, Findings, Task
from pal.errors import Failure, KernelError, PalError, SettingsError
from pal.ledger.export import read_labelled
from pal.records import Feedback, Label, Sample, named
from pal.runtime.surroundings import THREAD_VARIABLES, without_launcher
from pal.sections import Kernel
from pal.settings import Settings

_MEMBERS = 2
"""Models tried together: the fewest that can disagree."""

_PATIENCE = 15.0
"""Seconds: a walker that takes longer to begin is not made to begin a second time."""

_START = "import sys, pal.cli.probe; pal.cli.probe.main(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that would break the campaign."""

    text: str
    exit_code: int = KernelError.exit_code


@dataclass(slots=True)
class Trial:
    """Tries the kernels in the order in which data flow; a failed one does not stop the others.

    `problems` would break the campaign, `remarks` may be meant so.
    """

    settings: Settings
    kernels: Mapping[str, KernelSpec]
    deadline: float
    home: Path
    findings: dict[str, Findings] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every kernel was called, none only built."""
        return not self.problems and all(not found.refusal for found in self.findings.values())

    def run(self) -> None:
        """Try them all, with the generator's first sample or, if it gives none, an initial one."""
        wanted, model = self.settings, self.settings.model
        sample: Sample | None = self._try("generator", wanted.generator, wanted.generator.walkers)
        if "initial" in self.kernels:
            first: Sample | None = self._try("initial", wanted.generator)
            sample = first if sample is None else sample
        label = self._label(sample)
        prediction = self._try(
            "model",
            model,
            model.members,
            sample=sample,
            label=label,
            device=model.device,
            members=min(_MEMBERS, model.members),
            training=model.train,
            train_first="initial" in self.kernels,
            weights=model.weights,
        )
        feedback = self._try("selector", wanted.selector, sample=sample, prediction=prediction)
        self._go_on(feedback)
        if label is not None and prediction is not None:
            self._compare(named(label), named(prediction.mean[0]))
        if wanted.evaluation.data is not None:
            self._look_at_heldout()

    def _go_on(self, feedback: Feedback | None) -> None:
        """Let the walker begin again, and make the step that needs what the committee says."""
        begun = self.findings["generator"]
        if feedback is None or begun.failure or sum(c.seconds for c in begun.calls) > _PATIENCE:
            return
        section = self.settings.generator
        self._try("generator", section, section.walkers, feedback=feedback)

    def _label(self, sample: Sample | None) -> Label | None:
        if not self.settings.oracle.enabled:
            return None
        label: Label | None = self._try(
            "oracle", self.settings.oracle, self.settings.oracle.places, sample=sample
        )
        refusal = self.findings["oracle"].refusal
        if refusal:
            self.remarks.append(
                f"the oracle refused the sample it was tried with ({refusal}), so training was "
                "not tried"
            )
        return label

    def _try(self, role: str, section: Kernel, count: int = 1, **more: Any) -> Any:
        """Try a kernel and return what it gave; note what is wrong with it."""
        task = Task(
            self.kernels[role],
            self.settings.seed,
            count,
            section.threads,
            more.pop("device", "cpu"),
            self.deadline,
            self.home,
            **more,
        )
        found = self.findings[role] = _in_a_process(task)
        if found.failure is not None:
            self.problems.append(Problem(_explained(found.failure)))
        return found.value

    def _compare(self, label: Mapping[str, Any], predicted: Mapping[str, Any]) -> None:
        """Find names that only one of oracle and model knows, and shapes that differ."""
        common = label.keys() & predicted.keys()
        if not common:
            text = (
                f"the oracle returns {_names(label)}, the model predicts {_names(predicted)}: "
                "they have no name in common; use the same names"
            )
            self.problems.append(Problem(text))
            return
        if lone := predicted.keys() - common:
            self.remarks.append(
                f"the oracle does not return {_names(lone)}, which the model predicts"
            )
        if lone := label.keys() - common:
            self.remarks.append(
                f"the model does not predict {_names(lone)}, which the oracle returns"
            )
        for name in sorted(common):
            got, expected = predicted[name].shape, label[name].shape
            if got != expected:
                text = (
                    f"for one sample the oracle returns {_title(name)} of shape {expected}, the "
                    f"model predicts shape {got}; they must be the same (a single number has "
                    "shape ())"
                )
                self.problems.append(Problem(text))

    def _look_at_heldout(self) -> None:
        """Find a missing or foreign file now rather than after the campaign."""
        wanted = self.settings.evaluation
        assert wanted.data is not None
        try:
            items = read_labelled(wanted.data)
            known = named(items[0].label) if items else {}
            if wanted.field not in known:
                raise SettingsError(
                    f"evaluation.field = {wanted.field!r} is not in the labels of {wanted.data}; "
                    f"they have {_names(known) if items else 'no samples'}"
                )
        except PalError as error:
            self.problems.append(Problem(str(error), error.exit_code))


def _title(name: str) -> str:
    return f"'{name}'" if name else "a bare array"


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(_title, sorted(names))) or "nothing"


def _explained(failure: Failure) -> str:
    text = f"{failure.role}: {failure.kind}: {failure.message}"
    return f"{text}\n{failure.traceback.rstrip()}" if failure.traceback else text


def _in_a_process(task: Task) -> Findings:
    """Try a kernel in a child process; a crash or a hang of it becomes a failure."""
    with tempfile.TemporaryDirectory(prefix="pal-check-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / TASK).write_bytes(pickle.dumps(task))
        log = folder / "log"
        with log.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-c", _START, name],
                cwd=task.home,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=_environment(task),
                start_new_session=True,
            )
            code = _wait(child, task.seconds)
        with suppress(OSError):
            found: Findings = pickle.loads((folder / FINDINGS).read_bytes())
            return found
        words = log.read_text(errors="replace")
        return Findings(failure=_end(task, code, words))


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for the child, which ends itself after so many seconds, if it still can."""
    try:
        return child.wait(seconds + 5.0)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        # Also what the kernel may have started.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _end(task: Task, code: int, words: str) -> Failure:
    """Describe how a process ended that left no findings."""
    role = task.spec.role
    if "Timeout (" in words:
        text = f"did not finish within {task.seconds:g} s (pal check --deadline); it was here"
        return Failure(role, 0, "deadline", text, traceback=words)
    if code < 0:
        text = f"killed by signal {-code} ({signal.Signals(-code).name})"
    else:
        text = f"ended its process with exit code {code}"
    return Failure(role, 0, "crash", text, traceback=words[-4000:])


def _environment(task: Task) -> dict[str, str]:
    """Return the surroundings a worker has: threads, devices, no MPI job of somebody else."""
    environment = without_launcher(os.environ)
    environment |= dict.fromkeys(THREAD_VARIABLES, str(task.threads))
    if task.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif task.device.startswith("cuda:"):
        environment["CUDA_VISIBLE_DEVICES"] = task.device.removeprefix("cuda:")
    return environment
