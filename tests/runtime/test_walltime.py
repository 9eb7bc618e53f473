"""When the batch job ends: what environments and schedulers tell of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from pal.errors import SettingsError
from pal.runtime.walltime import Job, Walltime, announced, drain_time, end_of_job, job_of, told

NOON = time.mktime((2025, 11, 25, 12, 0, 0, 0, 0, -1))

PBS = """Job Id: 4711.server
    Job_Name = ethanol
    resources_used.walltime = 00:10:05
    job_state = R
    Resource_List.ncpus = 32
    Resource_List.walltime = 02:00:00
    stime = Tue Nov 25 12:00:00 2025
"""
SGE = """==============================================================
job_number:                 17
hard resource_list:         h_rt=7200,h_vmem=2G
"""


def never(question: Sequence[str]) -> str:
    raise AssertionError(f"asked {question}")


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, Job("slurm", "12")),
        ({"PBS_JOBID": "12.server"}, Job("pbs", "12.server")),
        ({"LSB_JOBID": "12"}, Job("lsf", "12")),
        ({"JOB_ID": "12"}, None),
        ({"JOB_ID": "12", "SGE_ROOT": "/opt/sge"}, Job("sge", "12")),
    ],
)
def test_a_job_is_known_by_its_environment(environment, job):
    assert job_of(environment) == job


def test_what_the_environment_says_needs_no_question():
    assert end_of_job({}, NOON, never) is None
    assert end_of_job({"PAL_JOB_END": "100"}, NOON, never) == 100.0
    slurm = {"SLURM_JOB_ID": "12", "SLURM_JOB_END_TIME": "200"}
    assert end_of_job(slurm, NOON, never) == 200.0
    assert end_of_job({**slurm, "PAL_JOB_END": "100.5"}, NOON, never) == 100.5


def test_an_end_that_is_no_number_is_told_with_the_way_to_write_one():
    with pytest.raises(SettingsError, match=r"PAL_JOB_END = 'noon'.*date \+%s"):
        announced({"PAL_JOB_END": "noon"})


@pytest.mark.parametrize(
    ("system", "answer", "end"),
    [
        ("slurm", "2025-11-25T14:00:00\n", NOON + 7200),
        ("slurm", "N/A\n", None),
        ("slurm", "", None),
        ("pbs", PBS, NOON + 7200),
        ("pbs", PBS.partition("    stime")[0], NOON + 7200 - 605),
        ("pbs", PBS.replace("stime", "start_time"), NOON + 7200),
        ("pbs", "qstat: Unknown Job Id", None),
        ("lsf", "1:59 L\n", NOON + 7140),
        ("lsf", "-\n", None),
        ("sge", SGE, NOON + 7200),
        ("sge", "hard resource_list: gpu=1", None),
    ],
)
def test_the_answers_of_schedulers_are_read(system, answer, end):
    assert told(system, answer, NOON) == end


def test_the_scheduler_is_asked_about_its_job():
    asked: list[Sequence[str]] = []

    def answer(question: Sequence[str]) -> str:
        asked.append(question)
        return "2025-11-25T14:00:00"

    assert end_of_job({"SLURM_JOB_ID": "12"}, NOON, answer) == NOON + 7200
    assert asked == [("squeue", "--noheader", "--format=%e", "--jobs", "12")]


def test_pbs_may_tell_the_length_where_it_does_not_answer():
    environment = {"PBS_JOBID": "12", "PBS_WALLTIME": "600"}
    assert end_of_job(environment, NOON, lambda _: "") == NOON + 600


def test_a_scheduler_whose_command_is_missing_is_no_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert end_of_job({"LSB_JOBID": "12"}, NOON) is None


def test_the_end_begins_a_margin_before_and_half_of_a_short_job_is_worked():
    assert drain_time(end=1000.0, now=0.0, margin=150.0) == 850.0
    assert drain_time(end=200.0, now=0.0, margin=150.0) == 100.0
    assert drain_time(end=-5.0, now=0.0, margin=150.0) < 0.0


def test_it_is_due_once():
    now = time.time()
    walltime = Walltime(10.0, {"PAL_JOB_END": str(now + 100)})
    assert not walltime.due(now + 89)
    assert walltime.due(now + 91)
    assert not walltime.due(now + 92)
    assert not walltime.over(now + 90)
    assert walltime.over(now + 96)
    assert walltime.reason.startswith("to be continued: the batch job ends at ")
    assert not Walltime(10.0, {}).due(now + 1e9)
