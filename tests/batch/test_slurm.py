"""Campaigns as jobs of a real Slurm: they end, drain, go on, are cancelled, requeued and lost."""

from __future__ import annotations

import time

from rig import check_ledger, eventually, labels_in, number_of_labels
from slurm import Slurm
from slurm_project import Project


def test_a_submitted_campaign_runs_and_ends(project: Project, slurm: Slurm) -> None:
    project.settings(labels=8)
    project.run.mkdir()
    slurm.command("scontrol", "update", "partitionname=main", "state=down")
    number = project.submit("--time", "2min", "--requeue")
    waiting = project.pal("status")
    assert f"{number} of Slurm is pending" in waiting
    assert "not begun" in waiting
    slurm.command("scontrol", "update", "partitionname=main", "state=up")

    assert slurm.wait(number) == "COMPLETED", project.output()

    assert "stop.labels = 8 reached" in project.output()
    assert number_of_labels(project.run) >= 8
    assert project.submitted() == [number]
    assert project.status()["job"]["state"] == "ended"
    assert (project.run / "report.html").exists()


def test_a_campaign_goes_on_by_itself_over_three_wall_times(
    project: Project, slurm: Slurm
) -> None:
    project.settings(labels=90, seconds=0.2)

    project.submit("--time", "14s", "--requeue")
    jobs = lambda: project.submitted() if not slurm.jobs() else []  # noqa: E731
    numbers = eventually(jobs, "the end of all jobs", 100)

    assert len(numbers) >= 3, project.output()
    assert {slurm.state(number) for number in numbers} == {"COMPLETED"}
    *paused, last = project.sessions()
    assert len(paused) + 1 == len(numbers)
    assert all("the batch job ends at" in str(reason) for reason in paused)
    assert last == "stop.labels = 90 reached"
    check_ledger(project.run)
    assert len(labels_in(project.run)) >= 90


def test_slurm_signals_a_job_whose_time_is_nearly_up(project: Project, slurm: Slurm) -> None:
    project.settings(labels=10_000)

    number = project.submit("--time", "1h", "--option", "--signal=B:USR1@115")
    project.wait_labels(2)

    slurm.limit(number, minutes=2)  # of which PAL knows nothing; Slurm looks twice a minute
    assert slurm.wait(number, 60) == "FAILED"
    assert slurm.job(number)["ExitCode"] == "75:0"
    (reason,) = project.sessions()
    assert reason == "to be continued: SIGUSR1 says that the batch job ends soon"
    assert project.submitted() == [number]
    check_ledger(project.run)


def test_a_cancelled_job_ends_in_good_order_and_is_not_continued(
    project: Project, slurm: Slurm
) -> None:
    project.settings(labels=10_000, seconds=0.5)
    number = project.submit("--time", "5min", "--requeue")
    project.wait_labels(3)
    started = time.monotonic()

    slurm.cancel(number)
    assert slurm.wait(number) == "CANCELLED"
    eventually(lambda: not slurm.processes(), "no process of the job")

    assert time.monotonic() - started < 20
    assert project.sessions() == ["SIGTERM received from the batch system"]
    check_ledger(project.run)
    counts = project.status()["counts"]
    assert counts["failed"] == counts["quarantined"] == 0
    assert project.submitted() == [number]
    assert not slurm.jobs()


def test_a_requeued_job_goes_on(project: Project, slurm: Slurm) -> None:
    project.settings(labels=15, seconds=0.3)
    number = project.submit("--time", "5min", "--requeue")
    project.wait_labels(3)
    before = labels_in(project.run)

    slurm.requeue(number)
    restarted = lambda: slurm.job(number).get("Restarts") == "1"  # noqa: E731
    eventually(restarted, "the restart")
    assert slurm.wait(number, 60) == "COMPLETED", project.output()

    assert before.keys() <= labels_in(project.run).keys()
    assert project.sessions() == [
        "SIGTERM received from the batch system",
        "stop.labels = 15 reached",
    ]
    check_ledger(project.run)


def test_a_job_whose_node_is_lost_goes_on_elsewhere(project: Project, slurm: Slurm) -> None:
    project.settings(labels=12, seconds=0.3)
    number = project.submit("--time", "5min", "--option", "--nodelist=n2")
    project.wait_labels(3)

    slurm.node_down("n2")
    assert slurm.wait(number) == "NODE_FAIL"
    eventually(lambda: not slurm.processes(), "no process of the job")
    before = labels_in(project.run)
    again = project.submit("--time", "5min")
    assert slurm.wait(again, 60) == "COMPLETED", project.output()

    assert slurm.job(again)["NodeList"] == "n1"
    assert before.keys() <= labels_in(project.run).keys()
    assert project.sessions()[-1] == "stop.labels = 12 reached"
    check_ledger(project.run)
