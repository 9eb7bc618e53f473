"""Job scripts: the text for each system, and what a user may ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rig import eventually

from pal.batch.request import Request, clock, duration, job_name, next_script
from pal.batch.script import text
from pal.batch.systems import SYSTEMS, guess, named
from pal.errors import SettingsError

GOLDEN = Path(__file__).parent / "golden"
REQUEST = Request(
    settings=Path("/home/ada/ethanol/pal.toml"),
    script=Path("/home/ada/ethanol/run/jobs/ethanol-1.sh"),
    name="ethanol",
    python="/home/ada/venv/bin/python",
    seconds=7200,
    cores=32,
    margin=150,
    command="pal submit pal.toml --time 2h --cores-per-node 32",
)
LARGE = replace(
    REQUEST,
    nodes=4,
    seconds=26 * 3600,
    queue="gpu",
    account="chem-42",
    gpus=4,
    requeue=True,
    prologue=("module load orca",),
    changes=("stop.labels=300", "name=two words"),
    command="pal submit pal.toml --nodes 4 --time 26h --requeue",
)


def large(system: str) -> Request:
    return replace(LARGE, options=("-pe mpi 128",)) if system == "sge" else LARGE


def bash_reads(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("size", ["small", "large"])
def test_the_script_of_each_system_is_the_one_that_was_read_by_people(
    system: str, size: str
) -> None:
    request = REQUEST if size == "small" else large(system)
    made = text(request, SYSTEMS[system])
    bash_reads(made)
    golden = GOLDEN / f"{system}-{size}.sh"
    if os.environ.get("PAL_GOLDEN") == "write":
        golden.write_text(made)
    assert golden.read_text() == made, "if this is meant: PAL_GOLDEN=write pytest tests/batch"


def test_whole_nodes_are_asked_for_where_no_cores_are_named() -> None:
    whole = replace(REQUEST, cores=None)
    assert "#SBATCH --exclusive\n" in text(whole, SYSTEMS["slurm"])
    assert "#BSUB -x\n" in text(whole, SYSTEMS["lsf"])
    for system in ("pbs", "torque", "sge"):
        with pytest.raises(SettingsError, match="--cores-per-node"):
            text(whole, SYSTEMS[system])


def test_several_nodes_of_sge_need_the_name_of_a_parallel_environment() -> None:
    with pytest.raises(SettingsError, match="-pe mpi 64"):
        text(LARGE, SYSTEMS["sge"])


def test_words_of_the_user_are_taken_as_they_are() -> None:
    asked = replace(
        LARGE,
        options=("--mem=0", "#SBATCH --qos=long"),
        launcher="mpiexec -ppn 1 -n {nodes}",
        settings=Path("/home/ada/my project/pal.toml"),
        python_path="/home/ada/my lib",
    )
    made = text(asked, SYSTEMS["slurm"])
    bash_reads(made)
    assert "#SBATCH --mem=0\n#SBATCH --qos=long\n" in made
    assert "\nmpiexec -ppn 1 -n 4 \\\n    /home/ada/venv/bin/python -m pal run pal.toml" in made
    assert "\ncd '/home/ada/my project' || exit 1\n" in made
    assert "\nexport PYTHONPATH='/home/ada/my lib'\n" in made
    srun = text(replace(LARGE, launcher="srun"), SYSTEMS["slurm"])
    assert "\nsrun --nodes=4 --ntasks-per-node=1 --cpus-per-task=32 " in srun


def test_the_mpirun_beside_this_python_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mpirun").touch()
    made = text(replace(LARGE, python=str(tmp_path / "python")), SYSTEMS["slurm"])
    assert f"\n{tmp_path}/mpirun --with-ft ulfm --map-by ppr:1:node" in made


def test_a_short_job_is_not_signalled_before_half_of_its_time() -> None:
    assert "--signal=B:USR1@60\n" in text(replace(REQUEST, seconds=120), SYSTEMS["slurm"])


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("2h", 7200),
        ("90 min", 5400),
        ("1.5 h", 5400),
        ("1d", 86400),
        ("20s", 20),
        ("02:00:00", 7200),
        ("1-12:00:00", 129600),
    ],
)
def test_times_are_read_as_people_and_batch_systems_write_them(words: str, seconds: int) -> None:
    assert duration(words) == seconds


@pytest.mark.parametrize("words", ["2", "two hours", "0h", "1:30", "-1h", ""])
def test_a_time_that_may_mean_several_things_is_refused(words: str) -> None:
    with pytest.raises(SettingsError, match="--time"):
        duration(words)


def test_clocks() -> None:
    assert clock(93_784) == "26:03:04"
    assert clock(93_784, days=True) == "1-02:03:04"


def test_names_are_such_as_every_system_takes() -> None:
    assert job_name("toy landscape") == "toy-landscape"
    assert job_name("3 atoms") == "pal-3-atoms"
    assert job_name("åß/") == "campaign"


def test_scripts_are_numbered_and_never_overwritten(tmp_path: Path) -> None:
    taken = [tmp_path / name for name in ("toy-1.sh", "toy-12.sh", "toy-x-40.sh", "other-50.sh")]
    assert next_script(tmp_path, "toy", taken) == tmp_path / "toy-13.sh"
    assert next_script(tmp_path, "new", taken) == tmp_path / "new-1.sh"


@pytest.mark.parametrize(
    ("installed", "environment", "name"),
    [
        ({"sbatch", "qsub"}, {}, "slurm"),
        ({"bsub"}, {}, "lsf"),
        ({"qsub"}, {}, "pbs"),
        ({"qsub", "qconf"}, {}, "sge"),
        ({"qsub"}, {"SGE_ROOT": "/opt/sge"}, "sge"),
    ],
)
def test_the_system_is_known_by_its_commands(
    installed: set[str], environment: dict[str, str], name: str
) -> None:
    assert guess(installed.__contains__, environment).name == name


def test_what_was_looked_for_is_told_where_there_is_no_system() -> None:
    with pytest.raises(SettingsError, match=r"sbatch \(Slurm\), bsub \(LSF\) and qsub"):
        guess(lambda name: None, {})
    with pytest.raises(SettingsError, match="did you mean 'slurm'"):
        named("slrm")


# What the script does with signals and exit codes, with a stand-in for PAL ---------------------

STAND_IN = f"""#!{sys.executable} -S
import os, signal, sys, time
def say(text):
    with open(os.environ["LOG"], "a") as log:
        print(text, file=log)
def ends(code, text):
    def hear(*_):
        say(text)
        time.sleep(0.2)
        os._exit(code)
    return hear
if "submit" in sys.argv:
    say(" ".join(["again:", *sys.argv[1:]]))
    sys.exit()
signal.signal(signal.SIGUSR1, ends(75, "USR1"))
signal.signal(signal.SIGTERM, ends(0, "TERM"))
say(f"end in {{int(os.environ['PAL_JOB_END']) - int(time.time())}}")
if code := os.environ["CODE"]:
    sys.exit(int(code))
signal.pause()
time.sleep(20)
"""


@pytest.mark.parametrize(
    ("code", "signal", "ends", "again"),
    [
        ("75", "", 0, True),
        ("0", "", 0, False),
        ("4", "", 4, False),
        ("", "USR1", 0, True),
        ("", "TERM", 0, False),
    ],
)
def test_the_script_continues_only_what_is_to_be_continued(
    tmp_path: Path, code: str, signal: str, ends: int, again: bool
) -> None:
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    request = replace(
        REQUEST, settings=tmp_path / "pal.toml", python=str(python), requeue=True, seconds=100
    )
    script = tmp_path / "job.sh"
    script.write_text(text(request, SYSTEMS["slurm"]))
    environment = {**os.environ, "LOG": str(log), "CODE": code}

    with subprocess.Popen(["bash", str(script)], env=environment) as job:
        if signal:
            eventually(lambda: log.exists() and "end in" in log.read_text(), "its start")
            subprocess.run(["kill", f"-{signal}", str(job.pid)], check=True)
        assert job.wait(20) == ends

    said = log.read_text()
    assert "end in 100\n" in said or "end in 99\n" in said
    assert (f"again: -m pal submit --again {request.script} --system slurm" in said) == again
    assert signal in said
