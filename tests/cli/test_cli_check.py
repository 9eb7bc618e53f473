"""`pal check`: what is wrong with kernels is found, whatever they do to their process."""

from __future__ import annotations

import pytest

KERNELS = """
import os, time
import numpy as np
import kernels

def crashing(**options):
    os.abort()

class Hanging(kernels.Oracle):
    def label(self, sample):
        time.sleep(60)

class Flat(kernels.Oracle):
    def label(self, sample):
        return {"energy": np.zeros(1), "charge": np.zeros(())}

class Stiff(kernels.Network):
    def train(self, dataset):
        yield {"loss": 0.0}

class Other(kernels.Oracle):
    def label(self, sample):
        return {"enrgy": np.zeros(())}

class Refusing(kernels.Oracle):
    def label(self, sample):
        raise kernels.pal.LabelFailure("not today")

class Lost(kernels.Walker):
    def step(self, feedback):
        return {"x": np.full(2, np.nan)}

class Demanding(kernels.Walker):
    def step(self, feedback):
        if feedback is not None:
            raise ValueError(f"no charge in {sorted(feedback.mean)}, trusted: {feedback.trusted}")
        return super().step(None)

class Wordy(kernels.Walker):
    def step(self, feedback):
        raise RuntimeError("no step without coffee")
"""


@pytest.fixture
def check(project):
    (project.folder / "odd.py").write_text(KERNELS)

    def run(*changes):
        options = [word for change in changes for word in ("--set", change)]
        return project.ask("check", project.settings, "--deadline", 10, *options)

    return run


def test_the_toy_is_fine(check, project):
    done = check()
    assert done.exit_code == 0, done.output
    for call in (
        "step(None)",
        "step(feedback)",
        "first sample",
        "predict",
        "train one epoch",
        "select",
        "label",
    ):
        assert call in done.stdout
    assert "all kernels fit together" in done.stdout
    assert "exchange: members 0-3" in done.stdout
    assert not project.run.exists()


def test_each_broken_kernel_is_told_with_its_traceback(check):
    done = check(
        "generator.kernel=odd:Wordy", "model.kernel=odd:crashing", "selector.kernel=odd:absent"
    )
    assert done.exit_code == 3
    assert "generator: RuntimeError: no step without coffee" in done.stderr
    assert "odd.py" in done.stderr
    assert "pal/cli/probe.py" not in done.stderr.partition("model: crash")[0]
    assert "model: crash: killed by signal 6 (SIGABRT)" in done.stderr
    assert "in crashing" in done.stderr
    assert "selector: KernelImportError" in done.stderr
    # The initial sample stood in for the generator's.
    assert "energy () float64" in done.stdout


def test_what_a_kernel_refuses_is_told_without_a_traceback(check, project):
    done = check('generator={kernel="displacement",options={start="nowhere.xyz"}}')
    assert done.exit_code == 3
    assert "generator displacement cannot be built: displacement: cannot read start" in done.stderr
    assert "Traceback" not in done.stderr

    done = check("selector.options.treshold=3")
    assert done.exit_code == 2
    assert "did you mean 'threshold'?" in done.stderr
    assert "valid" not in done.stdout


def test_a_kernel_that_hangs_is_ended_and_shows_where(check, project):
    changes = ("--set", "oracle.kernel=odd:Hanging", "--set", "generator.kernel=odd:Lost")
    done = project.ask("check", project.settings, "--deadline", 2, *changes)
    assert done.exit_code == 3
    assert "generator: ContractError: step returned x with NaN or infinity" in done.stderr
    assert "oracle: deadline: did not finish within 2 s" in done.stderr
    assert "in label" in done.stderr


def test_labels_that_the_model_does_not_predict_are_told(check):
    done = check("oracle.kernel=odd:Flat", "model.kernel=odd:Stiff")
    assert done.exit_code == 3
    assert "'energy' of shape (1,)" in done.stderr
    assert "does not predict 'charge'" in done.stdout

    done = check("oracle.kernel=odd:Other", "evaluation.field=forces")
    assert done.exit_code == 3
    assert "model: KeyError: 'energy'" in done.stderr
    assert "evaluation.field = 'forces' is not in the labels" in done.stderr
    assert "no name in common" in done.stderr


def test_what_a_walker_misses_in_the_predictions_is_told(check):
    done = check("generator.kernel=odd:Demanding")
    assert done.exit_code == 3
    assert "generator: ValueError: no charge in ['energy'], trusted: " in done.stderr


def test_a_refused_label_is_no_error(check):
    done = check("oracle.kernel=odd:Refusing")
    assert done.exit_code == 0, done.output
    assert "not today" in done.stdout


def test_a_missing_held_out_file_is_found_before_the_campaign(check):
    done = check("evaluation.data=nothing.npz")
    assert done.exit_code == 4
    assert "nothing.npz" in done.stderr
