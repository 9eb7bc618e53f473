"""What the settings may want beyond the job, and what is refused before a campaign starts."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rig import campaign

from pal.errors import KernelImportError, SettingsError
from pal.roles import Context
from pal.runtime.outside import wanted
from pal.runtime.outside.executors import breakages, cancel, losses, make_executor
from pal.runtime.outside.wanted import executor_spec
from pal.runtime.placement import place, specs
from pal.runtime.rules import rules_of
from pal.settings import OracleSettings, Settings


def settings(folder: Path, **oracle: Any) -> Settings:
    return campaign(folder, oracle={"outside": 3, **oracle}).settings


def oracle(executor: Any, **options: Any) -> OracleSettings:
    return OracleSettings(
        kernel="toys:truth", executor=executor, outside=2, executor_options=options
    )


def test_places_beyond_the_job_come_after_those_in_it(tmp_path: Path) -> None:
    found = settings(tmp_path, workers=2, executor="a:b", deadline=3)
    kernels = specs(found, ())
    placement = place(found, tmp_path, kernels)
    (broker,) = placement.of("broker")
    assert [job.oracles for job in placement.of("oracle")] == [(0,), (1,)]
    assert (broker.oracles, broker.name, broker.cores) == ((2, 3, 4), "broker", ())
    rules = rules_of(found, placement, 0)
    assert (rules.n_oracles, rules.outside) == (5, (2, 3, 4))
    assert "broker: labels beyond the job, 3 at once" in "\n".join(placement.lines())


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"outside": 2}, "outside is for an executor"),
        ({"executor_options": {"a": 1}}, "executor_options is for an executor"),
        ({"executor": "a:b"}, "the executor needs outside"),
        ({"workers": 0}, "nobody would label"),
        ({"executer": "a:b"}, "did you mean 'executor'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, section: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        campaign(tmp_path, oracle=section)


@pytest.mark.parametrize(
    ("executor", "options", "error", "words"),
    [
        ("parcel", {}, SettingsError, "did you mean 'parsl'"),
        ("parsl", {"partitoin": "cpu"}, SettingsError, "did you mean 'partition'"),
        ("parsl", {"max_blocks": "two"}, SettingsError, "expected int, got 'two'"),
        ("parsl", {"provider": "sge"}, SettingsError, "'slurm', 'pbs' or 'local'"),
        (3, {}, SettingsError, "got int"),
        (ThreadPoolExecutor(1), {}, KernelImportError, "cannot be sent to a worker process"),
    ],
)
def test_an_executor_that_cannot_be_is_refused(
    executor: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        executor_spec(oracle(executor, **options), ())


def test_without_parsl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "find_spec", lambda name: None)
    with pytest.raises(KernelImportError, match=r'pip install "pal\[parsl\]"'):
        executor_spec(oracle("parsl"), ())


class Direct:
    """An executor that can be pickled, and says what is a loss to it."""

    losses = (KeyError,)
    breakages = (IndexError,)

    def submit(self, function: Any, /, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to give back."""


def made(executor: Any, tmp_path: Path, **options: Any) -> Any:
    context = Context("executor", 0, 2, 1, tmp_path)
    return make_executor(executor_spec(oracle(executor, **options), ()), context)


def test_executors_are_made_from_classes_functions_and_instances(tmp_path: Path) -> None:
    assert isinstance(made(Direct, tmp_path), Direct)
    assert made(Direct(), tmp_path).submit(len, "abc").result() == 3
    assert made(lambda context: Direct() if context.count == 2 else None, tmp_path)
    with made("concurrent.futures:ThreadPoolExecutor", tmp_path, max_workers=1) as pool:
        assert pool.submit(len, "abc").result() == 3


@pytest.mark.parametrize(
    ("executor", "options", "words"),
    [
        ("concurrent.futures:ThreadPoolExecutor", {"max_wrkers": 1}, "max_workers"),
        (dict, {}, "gave dict, which has no method submit, shutdown"),
        (threading.Thread, {"group": 1}, "cannot be made"),
    ],
)
def test_what_cannot_be_made_says_why(
    tmp_path: Path, executor: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(KernelImportError, match=words):
        made(executor, tmp_path, **options)


def test_executors_may_name_their_losses() -> None:
    assert {KeyError, IndexError} <= set(losses(Direct()))
    assert IndexError in breakages(Direct())
    assert KeyError not in breakages(Direct())


def test_a_future_that_knows_no_cancelling_is_left_alone() -> None:
    class Stubborn(Future[Any]):
        def cancel(self) -> bool:
            raise NotImplementedError

    cancel(Stubborn())


class TestParsl:
    """What Parsl is told; nothing is started."""

    @pytest.fixture
    def blocks(self) -> Any:
        return pytest.importorskip("pal.runtime.outside.blocks")

    def options(self, **more: Any) -> dict[str, Any]:
        common = {
            "partition": "cpu",
            "account": "chem",
            "qos": None,
            "constraint": None,
            "walltime": "02:00:00",
            "nodes_per_block": 1,
            "workers_per_node": 4,
            "cores_per_node": 16,
            "min_blocks": 0,
            "max_blocks": 5,
            "idle": 60.0,
            "worker_init": "module load orca",
            "scheduler_options": "",
            "exclusive": False,
            "address": "10.0.0.1",
        }
        return common | more

    def test_slurm(self, blocks: Any) -> None:
        config = blocks.configured("slurm", **self.options())
        (executor,) = config.executors
        provider = executor.provider
        assert (provider.label, provider.partition, provider.walltime) == (
            "slurm",
            "cpu",
            "02:00:00",
        )
        assert (provider.init_blocks, provider.min_blocks, provider.max_blocks) == (1, 0, 5)
        assert executor.workers_per_node == executor.max_workers_per_node == 4
        assert type(provider.launcher).__name__ == "SingleNodeLauncher"
        several = blocks.configured("slurm", **self.options(nodes_per_block=2)).executors[0]
        assert type(several.provider.launcher).__name__ == "SrunLauncher"

    def test_pbs(self, blocks: Any) -> None:
        (executor,) = blocks.configured("pbs", **self.options()).executors
        assert (executor.provider.queue, executor.provider.cpus_per_node) == ("cpu", 16)

    def test_every_option_of_the_settings_reaches_the_configuration(self, blocks: Any) -> None:
        import inspect

        names = set(inspect.signature(blocks.blocks).parameters) - {"context", "config"}
        assert names == {"provider", *self.options()}

    def test_a_configuration_of_one_s_own(self, blocks: Any, tmp_path: Path) -> None:
        file = tmp_path / "site.py"
        file.write_text("from parsl import Config\ndef config():\n    return Config(retries=3)\n")
        assert blocks._configuration(str(file)).retries == 3
        file.write_text("config = 3\n")
        with pytest.raises(Exception, match="gave int; expected a parsl"):
            blocks._configuration(str(file))
