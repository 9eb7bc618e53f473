"""What operators read and type: samples, stories, history, and every way to be refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pal.cli import app
from pal.controller.commands import State
from pal.controller.events import Candidate
from pal.errors import Failure
from pal.ledger.changes import Change
from pal.ledger.entries import (
    FailureEntry,
    NewLabel,
    NewSample,
    Note,
    SessionEnded,
    SessionStarted,
    StateChange,
)
from pal.ledger.ledger import Ledger
from pal.ledger.story import attempt

SETTINGS = {
    "name": "water",
    "selector": {"kernel": "deviation", "options": {"threshold": 0.1, "field": "forces"}},
}
LONG = "; its log is /scratch/project/water/run/logs/oracle-0.log"


def ask(*arguments, width=80, typed=None):
    environment = {"COLUMNS": str(width), "TERM": "dumb"}
    words = [*map(str, arguments)]
    return CliRunner().invoke(app, words, env=environment, input=typed)


def water(number):
    random = np.random.default_rng(number)
    positions = np.round(random.normal(size=(3, 3)), 6)
    return {"numbers": np.array([8, 1, 1]), "positions": positions}


def entries():
    yield SessionStarted(0.0, 1.7e9, "login1", 4711, "0.1", json.dumps(SETTINGS))
    for number in range(6):
        walker = -1 if number == 0 else number
        yield NewSample(1.0 + number, Candidate(number, walker, 12, 0.1 + number), water(number))
    for number, oracle in ((1, 0), (2, 1)):
        crash = Failure(
            "oracle", oracle, "crash", f"killed by signal 11{LONG}", "n1", 3, "Fatal: segfault"
        )
        yield StateChange(8.0, 3, State.RUNNING, attempt(oracle, "n1", number), number)
        yield FailureEntry(9.0, crash)
        state = State.QUEUED if number == 1 else State.QUARANTINED
        yield StateChange(9.0, 3, state, f"attempt {number} on oracle {oracle}: crash: signal")
    yield StateChange(9.5, 2, State.FAILED, "attempt 1 on oracle 0: LabelFailure: no convergence")
    yield Change(
        9.8,
        "anna@login1",
        1.7e9 + 9.8,
        "set",
        "selector.options.threshold = 0.2, stop.labels = 9",
        settings={"selector.options.threshold": (0.1, 0.2), "stop.labels": (None, 9)},
    ).note()
    yield Change(
        9.9, "ben@n7", 1.7e9 + 9.9, "pause", "training paused", paused={"training": True}
    ).note()
    yield Note(10.0, "manager", "labelling is paused")
    label = {"energy": np.array(-76.3), "forces": np.full((3, 3), 0.25)}
    yield NewLabel(10.0, 1, label, 0, "n1", 2.5)
    yield SessionEnded(12.0, "lunch")


@pytest.fixture
def run(tmp_path):
    """A campaign that has ended, with six samples."""
    folder = tmp_path / "run"
    folder.mkdir()
    with Ledger.open(folder) as ledger:
        ledger.commit(list(entries()))
    return folder


def lines(done, width=80):
    assert done.exit_code == 0, done.output
    for line in done.stdout.splitlines():
        assert len(line) <= width, line
    return done.stdout


# Samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_samples_are_listed_on_any_screen(run, width):
    text = lines(ask("samples", run, width=width), width)
    assert text.startswith("6 samples in ")
    (row,) = (line for line in text.splitlines() if line.strip().startswith("3 "))
    assert row.split()[:7] == ["3", "quarantined", "3", "v12", "3.1", "2", "3"]
    assert "crash: signal" in text
    assert "initial" in text


def test_filters_choose(run):
    assert ask("samples", run, "--state", "failed", "--ids").stdout == "2\n"
    assert ask("samples", run, "-s", "failed", "-s", "queued", "--ids").stdout.split() == [
        "0",
        "2",
        "4",
        "5",
    ]
    assert ask("samples", run, "--walker", "-1", "--ids").stdout == "0\n"
    assert ask("samples", run, "--min-uncertainty", "4", "--ids").stdout == "4\n5\n"
    assert ask("samples", run, "--version", "3", "--ids").stdout == ""
    assert ask("samples", run, "--newer", "7s", "--ids").stdout == "4\n5\n"
    assert ask("samples", run, "--older", "10 s", "--ids").stdout == "0\n1\n"
    assert ask("samples", run, "--failed-with", "crash", "--ids").stdout == "3\n"
    assert ask("samples", run, "--sort", "uncertainty", "-n", "2", "--ids").stdout == "5\n4\n"


def test_a_kind_of_failure_that_was_not_is_answered_with_those_that_were(run):
    assert "that there were: crash" in ask("samples", run, "--failed-with", "deadline").stdout


def test_a_list_says_what_it_leaves_out(run):
    text = lines(ask("samples", run, "--limit", "2"))
    assert "2 of 6 samples" in text
    assert "--limit 0 lists all" in text


def test_samples_for_programs(run):
    found = [json.loads(line) for line in ask("samples", run, "--json").stdout.splitlines()]
    assert [item["sample"] for item in found] == list(range(6))
    assert found[3]["state"] == "quarantined"
    assert found[3]["tries"] == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--state", "lost"], 2, "is not one of"),
        (["--newer", "soon"], 2, "cannot read 'soon'"),
        (["--sort", "beauty"], 2, "is not one of"),
    ],
)
def test_filters_that_make_no_sense(run, words, code, told):
    done = ask("samples", run, *words)
    assert done.exit_code == code
    assert told in done.output


# The story ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_whole_story_of_a_quarantined_sample(run, width):
    printed = lines(ask("show", 3, "--dir", run, width=width), width)
    text = " ".join(printed.split())
    for part in (
        "Sample 3 quarantined after 2 tries",
        "4.0 s into the campaign",
        "walker 3, model version 12",
        "uncertainty 3.1; selector deviation (threshold = 0.1, field = forces)",
        "session 1: process 4711 on login1",
        "0 on n1",
        "1 on n1",
        "crash: killed by signal 11",
        "What tries 1 and 2 said",
        "Fatal: segfault",
        "oracle-0.log",
        "identity=3 O ",
    ):
        assert part in text, part
    assert text.count("Fatal: segfault") == 1


def test_a_label_and_its_structure_are_shown(run, tmp_path):
    text = lines(ask("show", 1, "-d", run, width=120), 1000)
    assert "energy -76.3" in text
    assert "oracle 0 on n1 in 2.5 s" in text
    file = tmp_path / "sample.extxyz"
    assert ask("show", 1, "-d", run, "--xyz", file).exit_code == 0
    from pal.ledger.export import read_labelled

    (item,) = read_labelled(file)
    assert item.identity == 1
    np.testing.assert_array_equal(item.sample["positions"], water(1)["positions"])
    assert float(item.label["energy"]) == -76.3
    ask("show", 4, "-d", run, "--xyz", file)
    assert read_labelled(file)[0].label == {}


def test_the_story_for_programs(run):
    told = json.loads(ask("show", 3, "-d", run, "--json").stdout)
    assert [one["kind"] for one in told["tries"]] == ["crash", "crash"]
    assert told["tries"][1]["traceback"] == "Fatal: segfault"
    assert told["arrays"]["positions"] == water(3)["positions"].tolist()
    assert told["label"] is None


def test_samples_that_are_no_atoms_are_summarised(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ledger.commit([NewSample(0.0, Candidate(0, 0, 0, 1.0), {"x": np.arange(100.0)})])
    assert "x (100,) float64: 0 to 99" in ask("show", 0, "-d", tmp_path).stdout


def test_the_selector_is_told_as_it_was_then(run):
    with Ledger.open(run) as ledger:
        ledger.commit([NewSample(11.0, Candidate(6, 1, 12, 0.5), water(6))])
    assert "threshold = 0.2" in ask("show", 6, "-d", run, width=120).stdout


# History and status ---------------------------------------------------------------------------


def test_the_history_tells_who_changed_what_and_when(run):
    text = " ".join(lines(ask("history", run)).split())
    for part in (
        "began: process 4711 on login1",
        "anna@login1 selector.options.threshold = 0.2",
        "ben@n7 training paused",
        "the campaign labelling is paused",
        "ended: lunch",
        "2 changes by hand",
    ):
        assert part in text
    found = [json.loads(line) for line in ask("history", run, "--json").stdout.splitlines()]
    assert [item["time"] for item in found] == sorted(item["time"] for item in found)
    assert [item["who"] for item in found if "deed" in item] == ["anna@login1", "ben@n7"]


def test_the_status_shows_what_was_changed_by_hand(run):
    text = ask("status", run, width=200).stdout
    assert "selector.options.threshold = 0.2, stop.labels = 9 (anna@login1, " in text
    assert "training paused (ben@n7" in text


# Asking ---------------------------------------------------------------------------------------


def requests(run):
    return [json.loads(path.read_text()) for path in sorted((run / "requests").glob("*.json"))]


def test_what_is_asked_of_a_campaign_at_rest_waits(run):
    done = ask("drop", "4", "0,", "1-3", "-d", run)
    assert done.exit_code == 0, done.output
    assert "it will be done as soon as `pal run` goes on" in " ".join(done.stdout.split())
    ask("requeue", "-", "-d", run, typed="3\n5\n")
    ask("pause", "oracle", "-d", run)
    ask("set", "stop.labels=5", "stop.after=2h", "training.window=none", "-d", run)
    ask("scale", "oracle", "8", "-d", run)
    ask("move", "2", "oracle", "generator", "-d", run)
    asked = [(item["deed"], item["arguments"]) for item in requests(run)]
    changes = {"stop.labels": 5, "stop.after": "2h", "training.window": None}
    assert asked == [
        ("drop", {"samples": [4, 0, 1, 2, 3]}),
        ("requeue", {"samples": [3, 5]}),
        ("pause", {"kernel": "oracle"}),
        ("set", {"changes": changes}),
        ("scale", {"kernel": "oracle", "count": 8}),
        ("move", {"count": 2, "source": "oracle", "target": "generator"}),
    ]
    assert all("@" in item["by"] for item in requests(run))
    assert "Asked for drop (" in ask("status", run, width=300).stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["drop", "seven"], 2, "'seven' is no sample"),
        (["drop", "3-"], 2, "'3-' is no sample"),
        (["requeue", "4-9"], 4, "has no sample 6; its samples are 0 to 5"),
        (["show", "9"], 4, "has no sample 9; its samples are 0 to 5"),
        (["show", "-3"], 2, ""),
        (["pause", "lunch"], 2, "is not one of"),
        (["set", "stop.labels"], 2, "expected KEY=VALUE"),
        (["set", "stop.lables=3"], 2, "did you mean 'stop.labels'?"),
        (["set", "model.members=3"], 2, "cannot change while the campaign runs"),
        (["scale", "oracle", "-1"], 2, ""),
        (["scale", "printers", "1"], 2, "is not one of"),
        (["move", "0", "oracle", "generator"], 2, ""),
        (["label", "3", "--file", "nowhere.npz"], 2, "nowhere.npz cannot be read"),
        (["label", "3", "--file", "label.txt"], 2, "expected a file ending in .npz"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(run, words, code, told):
    done = ask(*words, "--dir", run)
    assert done.exit_code == code, done.output
    assert told in " ".join(done.output.split())
    assert not requests(run)


@pytest.mark.parametrize("command", ["samples", "history"])
def test_there_must_be_a_campaign_to_look_at(tmp_path, command):
    done = ask(command, tmp_path)
    assert done.exit_code == 4
    assert "no campaign" in done.stderr


@pytest.mark.parametrize("command", ["drop 1", "show 1", "pause all", "set stop.labels=1"])
def test_there_must_be_a_campaign_to_ask(tmp_path, command):
    done = ask(*command.split(), "--dir", tmp_path)
    assert done.exit_code == 4
    assert "no campaign" in done.stderr


# Labels from files ----------------------------------------------------------------------------


def given(run):
    """The arrays that came with the last request."""
    (path,) = (run / "requests").glob("*.npz")
    with np.load(path) as file:
        arrays = {name.removeprefix("array/"): file[name] for name in file.files}
    path.unlink()
    return arrays


def test_labels_are_read_from_any_file(run, tmp_path):
    forces = np.arange(9.0).reshape(3, 3)
    np.savez(tmp_path / "a.npz", energy=-76.0, forces=forces)
    (tmp_path / "b.json").write_text(json.dumps({"energy": -76, "forces": forces.tolist()}))
    ask("show", 3, "-d", run, "--xyz", tmp_path / "c.extxyz")
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import read, write

    atoms = read(tmp_path / "c.extxyz")
    atoms.calc = SinglePointCalculator(atoms, energy=-76.0, forces=forces)
    write(tmp_path / "c.extxyz", atoms)
    for name in ("a.npz", "b.json", "c.extxyz"):
        done = ask("label", 3, "--file", tmp_path / name, "-d", run)
        assert done.exit_code == 0, done.output
        arrays = given(run)
        assert float(arrays["energy"]) == -76.0
        np.testing.assert_allclose(arrays["forces"], forces)
        assert arrays["energy"].dtype == float
    np.save(tmp_path / "d.npy", np.array([1.0]))
    ask("label", 3, "--file", tmp_path / "d.npy", "-d", run)
    assert list(given(run)) == [""]


def test_a_structure_that_is_not_the_samples_is_refused(run, tmp_path):
    ask("show", 3, "-d", run, "--xyz", tmp_path / "c.extxyz")
    done = ask("label", 4, "-f", tmp_path / "c.extxyz", "-d", run)
    assert done.exit_code == 2
    assert "is not the structure of sample 4: it has atoms up to" in " ".join(done.stderr.split())
    (tmp_path / "c.extxyz").write_text("1\nenergy=1\nH 0 0 0\n")
    done = ask("label", 4, "-f", tmp_path / "c.extxyz", "-d", run)
    assert "it has other atoms" in " ".join(done.stderr.split())
    (tmp_path / "c.extxyz").write_text("1\nenergy=1\nH 0 0 0\n" * 2)
    done = ask("label", 4, "-f", tmp_path / "c.extxyz", "-d", run)
    assert "holds 2 structures; expected one" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.json"])
def test_a_damaged_file_is_named(run, tmp_path, name):
    (tmp_path / name).write_text("{[")
    done = ask("label", 3, "-f", tmp_path / name, "-d", run)
    assert done.exit_code == 2
    assert name in done.stderr


# A campaign that runs -------------------------------------------------------------------------


def test_an_operator_at_another_terminal(project, labelled):
    process = project.start("--set", "oracle.options.seconds=0.05")
    labelled(process, 11)

    assert project.ask("pause", "oracle", "-d", project.run).stdout == "oracle paused\n"
    again = project.pal("pause", "oracle", "-d", "small.toml")
    assert again.returncode == 1
    assert again.stderr == "error: oracle: paused already\n"
    refused = project.ask("set", "stop.labels=0", "-d", project.run)
    assert refused.exit_code == 2
    assert "stop.labels: Input should be greater than 0" in refused.stderr
    waiting = project.ask("samples", project.run, "--state", "queued", "--ids").stdout.split()
    dropped = project.ask("drop", waiting[0], "-d", project.run)
    assert dropped.stdout == f"dropped: {waiting[0]}\n"
    (project.folder / "label.json").write_text('{"energy": -1}')
    by_hand = project.ask(
        "label", waiting[1], "-f", project.folder / "label.json", "-d", project.run
    )
    assert by_hand.stdout == f"sample {waiting[1]} labelled by hand\n"
    assert "by hand, " in project.ask("show", waiting[1], "-d", project.run).stdout
    assert "paused" in project.ask("status", project.run).stdout
    assert project.ask("resume", "all", "--no-wait", "-d", project.run).exit_code == 0
    project.ask("stop", project.run, "--wait")
    process.communicate(timeout=30)
    assert process.returncode == 0
    history = project.ask("history", project.run).stdout
    for part in ("oracle paused", f"dropped: {waiting[0]}", "labelled by hand", "asked to stop"):
        assert part in history


def test_a_campaign_that_does_not_answer_is_told(run, monkeypatch):
    from pal.cli import asking
    from pal.ledger.directory import RunDirectory

    monkeypatch.setattr(asking, "PATIENCE", 0.1)
    with RunDirectory(run):
        done = ask("pause", "all", "-d", run)
        assert done.exit_code == 1
        assert "the request stays" in " ".join(done.stderr.split())
        assert ask("pause", "all", "-d", run, "--no-wait").exit_code == 0
    assert len(requests(run)) == 2


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"


def test_the_page_tells_every_setting_that_may_change_live():
    from pal.runtime.live import LIVE

    section = PAGE.read_text().partition("\n## pal set\n")[2].partition("\n## ")[0]
    for key in LIVE:
        assert f"`{key}`" in section, key
