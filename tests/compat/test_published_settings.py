"""Settings of the published interface: each one honoured, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published import Folder

from pal.compat.convert import toml
from pal.compat.settings import is_published, native, published_of, read
from pal.errors import SettingsError
from pal.settings import load


@pytest.fixture
def settings(watched: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(watched.path)
    return watched.path / "al_setting.py"


def plain(path: Path, **changes: Any) -> dict[str, Any]:
    return native(published_of(path, changes))


def refused(path: Path, **changes: Any) -> str:
    with pytest.raises(SettingsError) as error:
        read(path, changes)
    return str(error.value)


def test_counts_become_walkers_members_oracles_and_trainers(settings: Path) -> None:
    found, _ = read(settings, {"gene_process": 7, "orcl_process": 3})
    assert found.generator.walkers == 7
    assert found.model.members == 2
    assert found.model.trainers == 2
    assert found.oracle.workers == 3


def test_ranks_are_numbered_as_published(settings: Path) -> None:
    found = plain(settings)
    assert found["model"]["options"]["rank"] == 2
    assert found["generator"]["options"]["rank"] == 4
    assert found["oracle"]["options"]["rank"] == 8
    assert found["model"]["options"]["train_rank"] == 10
    assert found["oracle"]["options"]["total"] == 12


def test_fewer_trainers_than_members_train_several_each(settings: Path) -> None:
    found, _ = read(settings, {"pred_process": 4, "ml_process": 2})
    assert (found.model.members, found.model.trainers) == (4, 2)
    assert found.model.options["shared"] is True


def test_more_trainers_than_members_cannot_all_be_of_use(settings: Path) -> None:
    found, _ = read(settings, {"pred_process": 2, "ml_process": 5})
    assert found.model.trainers == 2


def test_no_trainers_and_no_oracles(settings: Path) -> None:
    found, _ = read(settings, {"ml_process": 0, "orcl_process": 0})
    assert not found.model.train
    assert not found.oracle.enabled
    assert "set ml_process to 0" in refused(settings, orcl_process=0)


def test_paths_are_those_of_the_folder_it_is_started_in(settings: Path) -> None:
    published = published_of(settings)
    assert published.result_dir == settings.parent / "results" / "TestRun"
    assert published.usr_pkg["model"] == settings.parent / "model.py"
    assert plain(settings)["directory"] == str(published.result_dir / "pal")


def test_paths_are_those_of_the_settings_file_when_started_elsewhere(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert published_of(settings).result_dir == settings.parent / "results" / "TestRun"


def test_settings_in_a_folder_below_that_in_which_it_is_started(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = settings.parent / "configuration"
    below.mkdir()
    moved = settings.rename(below / settings.name)
    assert published_of(moved).usr_pkg["model"] == settings.parent / "model.py"


def test_buffers_may_be_left_out(settings: Path) -> None:
    published = published_of(settings, {"orcl_buffer_path": None, "ml_buffer_path": None})
    assert published.orcl_buffer_path is None
    assert published.ml_buffer_path is None


@pytest.mark.parametrize("name", ["dynamic_oracle_list", "dynamic_orcale_list"])
def test_both_spellings_of_the_dynamic_list(settings: Path, name: str) -> None:
    text = settings.read_text().replace('"dynamic_orcale_list": False', f'"{name}": True')
    settings.write_text(text)
    found, _ = read(settings)
    assert found.selector.rerank
    assert found.selector.options["adjust"] is True


def test_times_and_sizes_that_need_no_polling_are_accepted(settings: Path) -> None:
    one = plain(settings, orcl_time=10, orcl_penalty_time=3)
    other = plain(settings, orcl_time=0, orcl_penalty_time=0)
    assert one == other


def test_interval_and_retrain_size(settings: Path) -> None:
    found, _ = read(settings, {"progress_save_interval": 7, "retrain_size": 30})
    assert found.save_interval == 7
    assert found.generator.options["save_interval"] == 7
    assert found.training.retrain_size == 30


def test_inputs_of_several_sizes_keep_the_models_in_one_process(settings: Path) -> None:
    found, _ = read(settings, {"fixed_size_data": False})
    assert found.model.predictors == 1


def test_gpu_indices_are_handed_to_the_models(settings: Path) -> None:
    found, _ = read(settings, {"gpu_pred": [0, 1], "gpu_ml": [2]})
    assert found.model.options["gpu_pred"] == [0, 1]
    assert found.model.options["gpu_ml"] == [2]
    assert found.model.device == "all"


TASKS = {"prediction": [2, 0], "generator": None, "oracle": [0, 2], "learning": [0, 2]}


def test_designated_tasks_become_a_placement(settings: Path) -> None:
    found, _ = read(settings, {"designate_task_number": True, "task_per_node": TASKS})
    assert found.placement.prediction == (2, 0)
    assert found.placement.generator is None
    assert found.placement.oracle == (0, 2)
    assert found.placement.training == (0, 2)
    assert found.model.predictors == 2


def test_tasks_are_not_designated_unless_it_says_so(settings: Path) -> None:
    found, _ = read(settings, {"task_per_node": TASKS})
    assert found.placement.prediction is None


def test_models_on_several_nodes_are_refused(settings: Path) -> None:
    tasks = {**TASKS, "prediction": [1, 1]}
    text = refused(settings, designate_task_number=True, task_per_node=tasks)
    assert "put all of them on one" in text


def test_tasks_that_do_not_add_up_are_refused(settings: Path) -> None:
    tasks = {**TASKS, "oracle": [1, 2]}
    text = refused(settings, designate_task_number=True, task_per_node=tasks)
    assert "oracle = [1, 2] sums to 3, but there are 2 processes of it" in text


def test_settings_as_json(settings: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(settings.read_text(), namespace)
    for content in (namespace["AL_SETTING"], {"AL_SETTING": namespace["AL_SETTING"]}):
        path = settings.with_suffix(".json")
        path.write_text(json.dumps(content))
        assert is_published(path)
        assert plain(path) == plain(settings)


def test_settings_of_its_own_are_not_taken_for_published_ones(tmp_path: Path) -> None:
    path = tmp_path / "pal.json"
    path.write_text(json.dumps({"generator": {"kernel": "a:B"}}))
    assert not is_published(path)
    assert not is_published(tmp_path / "pal.toml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gene_proces": 3}, "gene_proces: unknown setting; did you mean 'gene_process'?"),
        ({"gene_process": 2.5}, "gene_process: expected a whole number, 0 or more (got 2.5)"),
        ({"gene_process": True}, "gene_process: expected a whole number"),
        ({"gene_process": 0}, "gene_process: needs at least 1"),
        ({"result_dir": None}, "result_dir: expected a path (got None)"),
        ({"fixed_size_data": "yes"}, "fixed_size_data: expected True or False (got 'yes')"),
        ({"progress_save_interval": -1}, "progress_save_interval: expected seconds"),
        ({"gpu_ml": 0}, "gpu_ml: expected a list of GPU indices"),
        ({"task_per_node": {"predict": []}}, "task_per_node: expected lists by the names"),
        ({"usr_pkg": {"model": "model.py"}}, "usr_pkg: there is no 'generator'"),
    ],
)
def test_what_is_wrong_is_named(settings: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refused(settings, **changes)


def test_a_file_that_is_missing_is_named(settings: Path) -> None:
    (settings.parent / "utils.py").unlink()
    assert f"usr_pkg: {settings.parent / 'utils.py'} is no file" in refused(settings)


def test_settings_without_their_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "al_setting.py"
    path.write_text("SETTINGS = {}")
    assert f"{path} has no dictionary AL_SETTING" in refused(path)
    path.write_text("import nothing_of_this_name")
    assert "ModuleNotFoundError" in refused(path)


def test_what_is_converted_means_the_same(settings: Path) -> None:
    data = native(published_of(settings))
    path = settings.with_name("pal.toml")
    path.write_text(toml(data, settings))
    assert load(path) == read(settings)[0]


def test_settings_of_its_own_may_be_set_beside_the_published_ones(settings: Path) -> None:
    found, _ = read(settings, {"gene_process": 6, "generator.hosts": 2})
    assert (found.generator.walkers, found.generator.hosts) == (6, 2)
