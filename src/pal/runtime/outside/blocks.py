"""Parsl as an executor: blocks of nodes that come and go with a batch system's queue.

The only module that imports Parsl.
"""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from parsl import DataFlowKernel
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.errors import BadStateException
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.jobs.error_handlers import windowed_error_handler
from parsl.launchers import MpiExecLauncher, SingleNodeLauncher, SrunLauncher
from parsl.providers import LocalProvider, PBSProProvider, SlurmProvider

from pal.errors import ContractError
from pal.roles import Context

PERIOD = 5
"""Seconds between two heartbeats of a block, and between two looks at how many blocks to have."""

THRESHOLD = 30
"""Seconds of silence after which a block is lost; and after which a block, whose campaign was
killed, ends by itself."""


def blocks(
    context: Context,
    config: str | None = None,
    provider: Literal["slurm", "pbs", "local"] = "slurm",
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    walltime: str = "01:00:00",
    nodes_per_block: int = 1,
    workers_per_node: int = 1,
    cores_per_node: int | None = None,
    min_blocks: int = 0,
    max_blocks: int = 1,
    idle: float = 120.0,
    worker_init: str = "",
    scheduler_options: str = "",
    exclusive: bool = True,
    address: str | None = None,
) -> Blocks:
    """Start Parsl, with a configuration of one's own or from these options.

    Options:
        config: a Parsl configuration, as "package.module:name" of a `Config` or of a function
            that returns one, or a Python file that defines `config`; alone, without other options
        provider: the batch system, or processes of this machine
        partition: the partition, or the queue of PBS
        account: who pays
        qos: quality of service (Slurm)
        constraint: features that nodes must have (Slurm)
        walltime: longest life of a block, hours:minutes:seconds
        nodes_per_block: nodes that are asked for, and come, together
        workers_per_node: labels made at the same time on each node
        cores_per_node: cores to ask for on each node; the batch system's choice if none
        min_blocks: blocks to hold even if there is nothing to label
        max_blocks: most blocks to hold or to wait for
        idle: seconds after which a block with nothing to label is given back
        worker_init: shell commands before a block's workers start: modules, environments
        scheduler_options: further lines for the head of the batch script
        exclusive: whole nodes (Slurm)
        address: where blocks reach this machine; Parsl tries all its addresses if none
    """
    given = {k: v for k, v in locals().items() if k not in ("context", "config")}
    found = configured(**given) if config is None else _configuration(config)
    return Blocks(found, context.directory)


def configured(provider: str, **options: Any) -> Config:
    """Return Parsl's configuration for the options of `blocks`."""
    executor = HighThroughputExecutor(
        label="oracles",
        provider=_PROVIDERS[provider](options),
        max_workers_per_node=options["workers_per_node"],
        cores_per_worker=1e-3,  # the number of workers alone decides
        address=options["address"] or ("127.0.0.1" if provider == "local" else None),
        heartbeat_period=PERIOD,
        heartbeat_threshold=THRESHOLD,
        # Give up only when block after block fails; some fail with their nodes.
        block_error_handler=windowed_error_handler,
    )
    return Config(
        executors=[executor],
        strategy="htex_auto_scale",
        strategy_period=PERIOD,
        max_idletime=options["idle"],
    )


def _slurm(options: Mapping[str, Any]) -> Any:
    names = ("partition", "account", "qos", "constraint", "cores_per_node", "exclusive")
    several = options["nodes_per_block"] > 1
    return SlurmProvider(
        launcher=SrunLauncher() if several else SingleNodeLauncher(),
        **{name: options[name] for name in (*names, *_BATCH)},
        **_sizes(options),
    )


def _pbs(options: Mapping[str, Any]) -> Any:
    several = options["nodes_per_block"] > 1
    return PBSProProvider(
        queue=options["partition"],
        account=options["account"],
        cpus_per_node=options["cores_per_node"] or 1,
        launcher=MpiExecLauncher() if several else SingleNodeLauncher(),
        **{name: options[name] for name in _BATCH},
        **_sizes(options),
    )


def _local(options: Mapping[str, Any]) -> Any:
    return LocalProvider(**_sizes(options))


def _sizes(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("nodes_per_block", "min_blocks", "max_blocks", "worker_init")
    # One block is asked for at the start, as the first labels will want it.
    return {"init_blocks": max(1, options["min_blocks"]), **{n: options[n] for n in names}}


_BATCH = ("walltime", "scheduler_options")
_PROVIDERS = {"slurm": _slurm, "pbs": _pbs, "local": _local}


def _configuration(name: str) -> Config:
    if ":" in name:
        module, _, attribute = name.partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        found = runpy.run_path(str(Path(name))).get("config")
    found = found() if callable(found) else found
    if not isinstance(found, Config):
        raise ContractError(
            f"oracle.executor_options.config = '{name}' gave {type(found).__name__}; expected a "
            "parsl.Config, or a function that returns one"
        )
    return found


def _put_on_path() -> None:
    """Let Parsl's programs be found, here and in blocks that inherit this environment.

    They are installed beside Python, which need not be on PATH to be run.
    """
    if shutil.which("interchange.py") is None:
        here = str(Path(sys.executable).parent)
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])


class Blocks:
    """Parsl with the standard library's contract; it keeps its logs in `folder`."""

    losses = (ManagerLost, WorkerLost)
    breakages = (BadStateException,)

    def __init__(self, config: Config, folder: Path) -> None:
        if config.run_dir == "runinfo":
            config.run_dir = str(folder)
        _put_on_path()
        self._kernel = DataFlowKernel(config)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Have a function called in one of the blocks."""
        future: Future[Any] = self._kernel.submit(
            function,
            app_args=arguments,
            executors="all",
            cache=False,
            ignore_for_cache=None,
            app_kwargs={},
        )
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the blocks, waiting and running, and end Parsl."""
        self._kernel.cleanup()
