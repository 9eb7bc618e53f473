"""A small Slurm of real daemons, two nodes on this one machine, for tests of batch jobs.

`Slurm.start(folder)` runs munged, slurmctld and one slurmd a node as children of this process, in
a folder of its own and on ports of its own; `stop` ends them and whatever ran in their jobs. Test
modules take it as the fixture `slurm`, with an empty queue and all nodes up.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from rig import eventually

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE"}
"""The states in which a job stays."""

CONFIGURATION = """\
ClusterName=pal
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
TmpFS={folder}/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
PropagateResourceLimits=NONE
{nodes}
PartitionName=main Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:2 DefaultTime=5
"""


def missing() -> str:
    """Why there can be no Slurm here; empty if there can be one."""
    lacking = [name for name in DAEMONS if shutil.which(name) is None]
    if lacking:
        return f"Slurm is not installed ({', '.join(lacking)}): see tests/batch/install_slurm.sh"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root, as its daemons start jobs for others"
    return ""


class Slurm:
    """A running Slurm; its commands work with `environment`."""

    nodes = ("n1", "n2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        # The machine may itself be part of a job.
        for name in [
            name for name in self.environment if name.startswith(("SLURM_JOB", "SBATCH"))
        ]:
            del self.environment[name]
        self._daemons: list[subprocess.Popen[bytes]] = []

    # The daemons -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start all daemons, and return when every node is idle."""
        (self.folder / "state").mkdir(parents=True)
        self._start_munge()
        ports = _free_ports(1 + len(self.nodes))
        lines = [
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=2"
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        text = CONFIGURATION.format(
            host=socket.gethostname(),
            folder=self.folder,
            controller=ports[0],
            nodes="\n".join(lines),
        )
        (self.folder / "slurm.conf").write_text(text)
        self._launch("slurmctld", "-D", "-i")
        for name in self.nodes:
            (self.folder / f"spool-{name}").mkdir()
            (self.folder / f"tmp-{name}").mkdir()
            self._launch("slurmd", "-D", "-N", name)
        eventually(self._all_idle, "idle nodes")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {
            "socket": self.folder / "munge.socket",
            "key-file": key,
            "log-file": self.folder / "munged.log",
            "pid-file": self.folder / "munged.pid",
            "seed-file": self.folder / "munged.seed",
        }
        options = [f"--{name}={path}" for name, path in files.items()]
        self._launch("munged", "--foreground", "--force", *options)
        eventually(files["socket"].exists, "munge's socket")

    def _launch(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-{len(self._daemons)}.out").open("wb") as out:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environment,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _all_idle(self) -> bool:
        for daemon in self._daemons:
            assert daemon.poll() is None, self.log()
        done = self.command("sinfo", "--noheader", "--Node", "--format=%t", check=False)
        return done.split() == ["idle"] * len(self.nodes)

    def log(self) -> str:
        """The last words of every daemon, for a failed test."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        texts = (path.read_text(errors="replace")[-2000:] for path in files)
        return "\n".join(
            f"== {path.name}\n{text}" for path, text in zip(files, texts, strict=True)
        )

    def affairs(self) -> str:
        """The queue, what runs in it and where that stands, and the log, for a failed test."""
        jobs = self.command("scontrol", "--oneliner", "show", "job", check=False)
        running = []
        for process in self.processes():
            try:
                place = Path(f"/proc/{process.pid}/wchan").read_text()
                words = " ".join(process.cmdline())[:200]
                running.append(f"{process.pid} {process.status()} in {place}: {words}")
            except (psutil.Error, OSError):
                continue
        return "\n".join([jobs, *running, self.log()])

    def stop(self) -> None:
        """End all jobs and daemons, the steps of jobs among them, and wait until they are gone."""
        left = self.processes()
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in left:
            if process.is_running():
                process.kill()
        psutil.wait_procs(left, timeout=10)

    def processes(self) -> list[psutil.Process]:
        """Every process of a job: those that know this Slurm's configuration by environment."""
        found = []
        own = {daemon.pid for daemon in self._daemons} | {os.getpid()}
        for process in psutil.process_iter():
            try:
                if process.pid not in own and self._is_ours(process):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        ours: bool = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
        return ours

    # Jobs -----------------------------------------------------------------------------------

    def command(self, *words: str, check: bool = True, **more: Any) -> str:
        """Run a command of Slurm and return what it says."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=30, **more
        )
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: Path, *options: str) -> str:
        """Submit a script as a user does, and return the job's number."""
        return self.command("sbatch", "--parsable", *options, str(script)).strip()

    def job(self, number: str) -> Mapping[str, str]:
        """What `scontrol` tells of a job; empty when it is forgotten."""
        text = self.command("scontrol", "--oneliner", "show", "job", number, check=False)
        return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)

    def state(self, number: str) -> str:
        """The state of a job, such as PENDING, RUNNING, COMPLETED, CANCELLED."""
        return self.job(number).get("JobState", "")

    def jobs(self) -> list[str]:
        """The numbers of all jobs that have not ended, oldest first."""
        return sorted(self.command("squeue", "--noheader", "--format=%i").split(), key=int)

    def wait(self, number: str, seconds: float = 40.0) -> str:
        """Wait until a job has ended, and return its last state."""

        def ended() -> str:
            state = self.state(number)
            return state if state in ENDED else ""

        try:
            state: str = eventually(ended, f"the end of job {number}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.job(number)}; {self.log()}") from None
        return state

    def wait_running(self, number: str, seconds: float = 30.0) -> None:
        """Wait until a job runs."""
        eventually(lambda: self.state(number) == "RUNNING", f"start of job {number}", seconds)

    def cancel(self, number: str) -> None:
        """Cancel a job as a user does."""
        self.command("scancel", number)

    def requeue(self, number: str) -> None:
        """Put a running job back into the queue."""
        self.command("scontrol", "requeue", number)

    def limit(self, number: str, minutes: int) -> None:
        """Change the time limit of a job, from its start."""
        self.command("scontrol", "update", f"jobid={number}", f"timelimit={minutes}")

    def node_down(self, name: str) -> None:
        """Lose a node: its jobs die."""
        self.command("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def node_up(self, name: str) -> None:
        """Give a lost node back."""
        self.command("scontrol", "update", f"nodename={name}", "state=resume")

    def clean(self) -> None:
        """Cancel every job, bring every node up, and wait for it."""
        for number in self.jobs():
            self.command("scancel", number, check=False)
        eventually(lambda: not self.jobs(), "an empty queue", 45)
        for name in self.nodes:
            self.command("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        eventually(self._all_idle, "idle nodes")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
