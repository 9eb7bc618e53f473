"""Whole campaigns of kernels written for the published interface, as a user starts them."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import Folder, summary

from pal.ledger.ledger import Ledger

RUN = ("run", "al_setting.py", "--json")


def finished(folder: Folder, *changes: str, **environment: str) -> dict[str, Any]:
    settings = [part for change in changes for part in ("--set", change)]
    return summary(folder.run("pal", *RUN, *settings, **environment))


def heard(folder: Folder) -> list[np.ndarray]:
    return [np.load(path) for path in sorted(folder.results.glob("heard_*.npy"))]


def test_every_kernel_is_told_what_the_publication_says(watched: Folder) -> None:
    found = finished(watched)
    assert found["reason"].startswith("trainer")
    for rank in (4, 5, 6, 7):
        methods = watched.methods(f"heard_{rank}")
        assert methods[:2] == ["init", "first"]
        assert methods[-1] == "stop_run"
    for rank in (2, 3):
        assert watched.calls(f"model_{rank}")[0][1] == [0, "predict"]
        methods = watched.methods(f"model_{rank}")
        assert "update" in methods, "new weights reached the predictor"
        assert methods[-1] == "stop_run"
    for rank in (10, 11):
        assert watched.calls(f"model_{rank}")[0][1] == [0, "train"]
        methods = watched.methods(f"model_{rank}")
        assert methods[1:5] == ["add_trainingset", "save_progress", "retrain", "retrained"]
        assert methods[-1] == "stop_run"
        first, *_ = [value for what, value, _ in watched.calls(f"model_{rank}") if "ed" in what]
        assert first[1] is True, "req_data.Test() became true when new data came"
    for rank in (8, 9):
        methods = watched.methods(f"oracle_{rank}")
        assert (methods[0], methods[-1]) == ("init", "stop_run")
        places = {value for what, value, _ in watched.calls(f"oracle_{rank}") if what != "init"}
        assert places == {str(watched.results / f"scratch_{rank}")}
    log = watched.results / "pal" / "logs" / "generator-0.log"
    assert "generator 4 speaks" in log.read_text()


def test_labels_are_those_of_the_inputs_that_were_chosen(watched: Folder) -> None:
    finished(watched)
    with Ledger.open_readonly(watched.results / "pal") as ledger:
        items = list(ledger.labelled())
    assert items
    for item in items:
        assert np.allclose(item.label, [np.asarray(item.sample).sum(), 1.0])
    points = [value for what, value, _ in watched.calls("model_10") if what == "add_trainingset"]
    assert all(len(batch) >= 5 for batch in points), "retrain_size"


@pytest.mark.parametrize("hosts", ["each", "2"])
def test_histories_repeat_bit_by_bit_in_lockstep(
    watched: Folder, tmp_path: Path, hosts: str
) -> None:
    """Without new weights nothing depends on time; pooled walkers share numpy's numbers."""
    histories = []
    for name in ("one", "two"):
        folder = Folder.copy("watched", tmp_path / name)
        folder.edit("generator.py", "LIMIT = 10**9", "LIMIT = 200")
        finished(folder, "ml_process=0", f"generator.hosts={hosts}")
        histories.append(heard(folder))
    for one, two in zip(*histories, strict=True):
        assert len(one) >= 203
        length = min(len(one), len(two))
        assert one[:length].tobytes() == two[:length].tobytes()


def test_generators_hear_what_the_check_returned_of_another_size(watched: Folder) -> None:
    watched.edit("generator.py", "LIMIT = 10**9", "LIMIT = 200")
    found = finished(watched, "ml_process=0")
    assert found["reason"].startswith("walker 0 asked to stop")
    for rows in heard(watched):
        assert rows.shape[1] == 3, "two outputs, and the number of members beside them"
        assert (rows[:, 2] == 2).all()


def test_predictors_in_processes_of_their_own(watched: Folder) -> None:
    finished(watched, "model.predictors=2")
    processes = {watched.calls(f"model_{rank}")[0][2] for rank in (2, 3)}
    assert len(processes) == 2


def test_inputs_of_several_sizes(watched: Folder) -> None:
    watched.edit("generator.py", "np.random.randn(3) +", "np.random.randn(3 + self.rank % 2) +")
    watched.edit("al_setting.py", '"fixed_size_data": True', '"fixed_size_data": False')
    finished(watched)


def test_the_queue_is_adjusted_after_each_training(watched: Folder) -> None:
    """The workflow ends when it has been adjusted for the third time."""
    watched.edit("al_setting.py", '"dynamic_orcale_list": False', '"dynamic_oracle_list": True')
    watched.edit(
        "oracle.py", "        return np.array", "        time.sleep(0.02)\n        return np.array"
    )
    watched.edit("oracle.py", "import os\n", "import os\nimport time\n")
    watched.edit("utils.py", "    order =", "    open('adjusted', 'a').write('x')\n    order =")
    watched.edit(
        "model.py",
        "return self.all_have_trained()",
        "return os.path.exists('adjusted') and os.path.getsize('adjusted') > 2",
    )
    found = finished(watched)
    assert found["dropped"] > 0, "half of the queue was left out each time"


def test_a_trainer_ends_the_workflow(watched: Folder) -> None:
    assert "trainer" in finished(watched)["reason"]
    calls = watched.calls("model_10") + watched.calls("model_11")
    assert True in [value for what, value, _ in calls if what == "save_progress"]


def test_buffers_are_pickled_lists_and_a_restart_goes_on(watched: Folder) -> None:
    first = finished(watched)
    waiting = pickle.loads((watched.results / "orcl_buffer").read_bytes())
    untrained = pickle.loads((watched.results / "ml_buffer").read_bytes())
    assert isinstance(waiting, list)
    assert all(item.shape == (3,) for item in waiting)
    assert len(untrained) < 5 + 2, "less than a round, and what was under way"
    for item, label in untrained:
        assert np.allclose(label, [item.sum(), 1.0])
    before = [len(each) for each in heard(watched)]
    watched.edit("model.py", "ENOUGH = 3", "ENOUGH = 5")
    second = finished(watched)
    assert second["labels"] > first["labels"]
    after = [len(each) for each in heard(watched)]
    assert all(b >= a for a, b in zip(before, after, strict=True)), "they went on where they stood"
    assert watched.methods("heard_4").count("first") == 1
    with Ledger.open_readonly(watched.results / "pal") as ledger:
        numbers = ledger.labelled_ids()
        assert len(ledger.sessions()) == 2
    assert len(numbers) == len(set(numbers)) == second["labels"]


def test_what_an_earlier_program_left_in_its_buffers_is_taken_over(watched: Folder) -> None:
    watched.results.mkdir(parents=True)
    waiting = [np.full(3, float(k)) for k in range(4)]
    pairs = [[np.full(3, 9.0), np.array([27.0, 1.0])]]
    (watched.results / "orcl_buffer").write_bytes(pickle.dumps(waiting))
    (watched.results / "ml_buffer").write_bytes(pickle.dumps(pairs))
    done = watched.run("pal", *RUN)
    assert "1 labels and 4 inputs were taken from the buffer files" in done.stdout
    summary(done)
    with Ledger.open_readonly(watched.results / "pal") as ledger:
        samples = {float(np.asarray(item.sample)[0]) for item in ledger.labelled()}
    assert samples >= {0.0, 1.0, 2.0, 3.0, 9.0}


def test_a_file_that_is_no_buffer_is_named(watched: Folder) -> None:
    watched.results.mkdir(parents=True)
    (watched.results / "orcl_buffer").write_bytes(b"no pickle")
    done = watched.run("pal", *RUN)
    assert done.returncode == 2
    assert "orcl_buffer cannot be read" in done.stderr


def test_no_buffers_where_the_settings_want_none(watched: Folder) -> None:
    finished(watched, "orcl_buffer_path=None", "ml_buffer_path=None")
    assert not (watched.results / "orcl_buffer").exists()
    assert not (watched.results / "ml_buffer").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("generator.py", "np.bool_(stop), np", "stop * 1, np", "generate_new_data returned 0"),
        (
            "model.py",
            "return self.all_have_trained()",
            "return None",
            "retrain returned NoneType",
        ),
        ("model.py", "for x in list_data_to_pred]", "for x in list_data_to_pred][1:]", "predict"),
        ("oracle.py", "return np.array([", "return list([", "run_calc returned a list of 2"),
        ("utils.py", "[:WANTED], checked", "[:WANTED], checked[1:]", "prediction_check returned"),
    ],
)
def test_a_wrong_return_ends_the_campaign_and_names_the_method(
    watched: Folder, name: str, old: str, new: str, words: str
) -> None:
    watched.edit(name, old, new)
    done = watched.run("pal", *RUN)
    assert done.returncode == 3, done.stdout + done.stderr
    assert words in done.stderr
    assert "expected" in done.stderr


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("generator.py", "self.counter += 1\n", "raise RuntimeError('broken')\n"),
        ("model.py", 'self.note("retrain"', "raise RuntimeError('broken'); self.note(\"retrain\""),
        (
            "utils.py",
            "    assert len(list_data",
            "    raise RuntimeError('broken')\n    assert len(list_data",
        ),
    ],
)
def test_an_exception_ends_the_campaign_and_hangs_nothing(
    watched: Folder, name: str, old: str, new: str
) -> None:
    watched.edit(name, old, new)
    done = watched.run("pal", *RUN, "--set", "restart.budget=1", "--set", "restart.delay=0.01")
    assert done.returncode != 0
    assert "RuntimeError: broken" in done.stderr + done.stdout


def test_a_broken_oracle_costs_its_label_only(watched: Folder) -> None:
    watched.edit(
        "oracle.py",
        "        return np.array",
        "        if input_for_orcl[0] > 0:\n            raise ValueError\n        return np.array",
    )
    found = finished(watched, "stop.failures=1000", "oracle.retries=0")
    assert found["failed"] > 0
    assert found["labels"] > 0


def test_the_toy_of_the_publication_trains_updates_stops_and_goes_on(toy: Folder) -> None:
    changes = ("gene_process=4", "orcl_process=2", "pred_process=2", "ml_process=2")
    first = finished(toy, *changes, TOY_ROUNDS="3")
    assert first["reason"].startswith("trainer")
    assert first["labels"] >= 60
    assert first["version"] >= 3
    logs = toy.results / "pal" / "logs"
    assert "model updated" in (logs / "exchange.log").read_text()
    trainer = first["reason"].split()[1]
    assert "new data arrive." in (logs / f"trainer-{trainer}.log").read_text()
    assert len(list(toy.results.glob("generator_data_*"))) == 4
    histories = list(toy.results.glob("retrain_history_*.json"))
    assert len(histories) == 2
    assert any(json.loads(path.read_text())["MSE_train"] for path in histories)
    again = finished(toy, *changes, TOY_ROUNDS="5")
    assert again["labels"] > first["labels"]
    assert again["version"] > first["version"]


def test_the_toy_s_generators_end_the_workflow(toy: Folder) -> None:
    changes = ("gene_process=3", "orcl_process=0", "pred_process=2", "ml_process=0")
    found = finished(toy, *changes, TOY_LIMIT="200")
    assert found["reason"].startswith("walker 0 asked to stop")
    log = toy.results / "pal" / "logs" / "generator-0.log"
    assert "Generator rank4: stop signal sent." in log.read_text()
    assert len(list(toy.results.glob("generator_data_*"))) == 3


def test_ctrl_c_ends_it_in_good_order(watched: Folder) -> None:
    watched.edit("model.py", "ENOUGH = 3", "ENOUGH = 10**9")
    process = subprocess.Popen(
        watched.command("pal", *RUN), cwd=watched.path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("labelled", 0) > 5:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert watched.methods("heard_4")[-1] == "stop_run"


def test_it_is_looked_at_by_its_settings_file(watched: Folder) -> None:
    found = finished(watched)
    done = watched.run("pal", "status", "al_setting.py", "--json")
    assert json.loads(done.stdout)["counts"]["labelled"] == found["labels"]


def test_what_is_converted_runs(watched: Folder) -> None:
    done = watched.run("pal", "convert", "al_setting.py", "-o", "pal.toml")
    assert done.returncode == 0, done.stderr
    assert "wrote pal.toml; next: pal run pal.toml" in done.stdout
    summary(watched.run("pal", "run", "pal.toml", "--json"))
    assert watched.methods("heard_4")[-1] == "stop_run"


def test_check_tries_the_kernels(watched: Folder) -> None:
    done = watched.run("pal", "check", "al_setting.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all kernels fit together" in done.stdout
