"""`pal run`, `status`, `stop` and `export` as programs of their own."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

from pal.ledger.ledger import Ledger


def labels_of(project):
    with Ledger.open_readonly(project.run) as ledger:
        return ledger.labelled_ids()


def test_the_toy_learns_its_landscape(project, reads):
    done = project.pal("run", "--json", "--set", "oracle.options.seconds=0.01")

    assert done.returncode == 0, done.stderr
    *_, summary = reads(done.stdout)
    assert summary["event"] == "summary"
    assert summary["labels"] == 150
    assert summary["reason"] == "stop.labels = 150 reached"
    assert summary["error_after"] < summary["error_before"]
    assert (project.run / "report.html").is_file()


def test_ctrl_c_ends_in_good_order_and_the_campaign_goes_on(project, labelled):
    first = project.start()
    labelled(first, 15)
    first.send_signal(signal.SIGINT)
    output, errors = first.communicate(timeout=30)
    assert first.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["reason"] == "SIGINT received"
    before = labels_of(project)
    standing = project.status()
    assert not standing["running"]
    assert standing["ended"] == "SIGINT received"
    assert standing["counts"]["running"] == 0

    wanted = len(before) + 10
    again = project.pal("run", "small.toml", "--quiet", "--set", f"stop.labels={wanted}")

    assert again.returncode == 0, again.stderr
    after = labels_of(project)
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) >= wanted
    assert project.status()["sessions"] == 2
    assert f"{len(after)} labels" in again.stdout

    fresh = project.pal("run", "small.toml", "-q", "--fresh", "--set", "stop.labels=12")
    assert fresh.returncode == 0, fresh.stderr
    assert 12 <= len(labels_of(project)) < len(before)
    assert project.status()["sessions"] == 1


def test_ctrl_c_twice_is_an_interrupt_and_loses_no_label(project, labelled):
    process = project.start("--set", "oracle.options.seconds=0.2")
    labelled(process, 3)
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "press Ctrl-C again" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(labels_of(project)) >= 3
    assert "twice" in project.status()["ended"]


def test_a_running_campaign_is_seen_guarded_and_stopped_from_outside(project, labelled):
    process = project.start()
    labelled(process, 12)

    standing = project.status()
    assert standing["running"]
    assert standing["holder"]["pid"] == process.pid
    assert standing["snapshot"]["labelled"] >= 12
    assert standing["name"] == "toy landscape"
    assert f"process {process.pid}" in project.ask("status", project.settings).stdout

    second = project.pal("run")
    assert second.returncode == 4
    assert f"in use by process {process.pid}" in second.stderr
    assert "Traceback" not in second.stderr

    exported = project.ask("export", project.run, "-o", project.folder / "so_far.npz")
    assert exported.exit_code == 0, exported.output
    with np.load(project.folder / "so_far.npz") as file:
        assert len(file["sample/x"]) == len(file["label/energy"]) >= 12

    stop = project.ask("stop", project.settings, "--reason", "lunch", "--wait")
    assert stop.exit_code == 0, stop.output
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(output.splitlines()[-1])["reason"] == "lunch"
    assert not project.status()["running"]
    assert not list((project.run / "requests").iterdir())

    idle = project.ask("stop", project.run)
    assert idle.exit_code == 0
    assert "no campaign runs" in idle.stdout


def test_stop_now_does_not_wait_for_labels(project, labelled):
    process = project.start()
    labelled(process, 10)
    done = project.ask("stop", project.run, "--now", "--wait")
    assert done.exit_code == 0, done.output
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_request_left_over_from_another_session_is_not_obeyed(project, reads):
    (project.run / "requests").mkdir(parents=True)
    first = project.pal("run", "small.toml", "--json", "--set", "stop.labels=12")
    assert first.returncode == 0, first.stderr
    request = project.run / "requests" / "1.json"
    request.write_text(json.dumps({"stop": "long ago", "pid": 1}))

    done = project.pal("run", "small.toml", "--json", "--set", "stop.labels=20")

    assert reads(done.stdout)[-1]["reason"] == "stop.labels = 20 reached"
    assert not request.exists()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("generator.kernel=kernels:Wanderer", 3, "has no attribute 'Wanderer'"),
        ("oracle.kernel=nowhere:Oracle", 3, "No module named 'nowhere'"),
        ("model.kernel=lasagne", 3, "no known short name"),
        ("oracle.wrokers=2", 2, "did you mean 'workers'?"),
        ("oracle.workers=two", 2, "oracle.workers"),
        ("directory=.", 4, "holds no campaign"),
    ],
)
def test_what_cannot_run_says_why(project, change, code, words):
    done = project.pal("run", "--quiet", "--set", change)

    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
