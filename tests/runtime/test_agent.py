"""The agent and its nursery with real processes: they start, talk, die, come back and end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rig import TOYS, eventually, kill, processes_of

from pal.building import KernelSpec
from pal.runtime.agent import Agent, Died, Left, News, Said, Worker
from pal.runtime.messages import LabelDone, LabelTask, Ready
from pal.runtime.nursery import Birth, Kill, send_request
from pal.runtime.orders import Job
from pal.runtime.supervision import RestartBudget

pytestmark = pytest.mark.usefixtures("left_clean")


class House:
    """An agent with oracle workers, and all its news so far."""

    def __init__(self, folder: Path, kernel: str, count: int, budget: int, **options: Any) -> None:
        spec = KernelSpec.of("oracle", f"toys:{kernel}", options, (TOYS,))
        jobs = [
            Job("oracle", index, {"oracle": spec}, folder, 0, extra={"count": count})
            for index in range(count)
        ]
        self.folder = folder
        self.agent = Agent(budget, delay=0.001)
        self.agent.open()
        self.news: list[News] = []
        for job in jobs:
            self.agent.start([job])
        self.workers = list(self.agent.workers.values())

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        def look() -> Any:
            self.news += self.agent.poll(0.05)
            return condition()

        return eventually(look, what)

    def said(self, kind: type) -> list[tuple[Worker, Any]]:
        return [
            (self.agent.workers[news.key], news.message)
            for news in self.news
            if isinstance(news, Said) and isinstance(news.message, kind)
        ]

    def deaths(self) -> list[Died]:
        return [news for news in self.news if isinstance(news, Died)]

    def ready(self, times: int = 0) -> None:
        wanted = times or len(self.workers)
        self.until(lambda: len(self.said(Ready)) >= wanted, f"{wanted} workers are ready")

    def ask(self, worker: Worker, number: int | None = None) -> None:
        """Ask for a label; the same sample is never with two workers."""
        task = worker.job.index if number is None else number
        self.agent.send(worker, LabelTask(worker.job.index, task, np.array([2.0, 3.0]), 1))

    def close(self, patience: float = 10.0) -> list[News]:
        return self.agent.close(patience)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def build(kernel: str = "Slow", count: int = 1, budget: int = 3, **options: Any) -> House:
        if kernel == "Slow":
            options = {"seconds": 0.0, **options}
        made.append(House(tmp_path, kernel, count, budget, **options))
        return made[-1]

    yield build
    for item in made:
        if item.agent._nursery is not None and item.agent._nursery.poll() is None:
            item.close(1.0)
    made.clear()
    assert not processes_of(tmp_path)


def test_workers_come_up_answer_and_leave(house: Callable[..., House]) -> None:
    home = house(count=3)
    home.ready()
    for number, worker in enumerate(home.workers):
        home.ask(worker, number)
    home.until(lambda: len(home.said(LabelDone)) == 3, "three labels")
    assert sorted(message.identity for _, message in home.said(LabelDone)) == [0, 1, 2]
    found = home.close()
    assert sum(isinstance(news, Left) for news in found) == 3
    assert not home.deaths()


def test_each_worker_leads_a_process_group_of_its_own(house: Callable[..., House]) -> None:
    home = house(count=2)
    home.ready()
    for worker in home.workers:
        assert os.getpgid(worker.pid) == worker.pid
    assert len({worker.pid for worker in home.workers}) == 2


def test_a_killed_worker_comes_back_and_works(house: Callable[..., House]) -> None:
    home = house(count=2)
    home.ready()
    first, second = home.workers
    kill(first.pid)
    home.ready(3)
    (died,) = home.deaths()
    assert died.key == first.job.key
    assert died.failure.kind == "crash"
    assert "SIGKILL" in died.failure.message
    assert not died.given_up
    assert first.restarts == 1
    home.ask(first)
    home.ask(second)
    home.until(lambda: len(home.said(LabelDone)) == 2, "both label")


def test_what_a_worker_said_before_it_died_is_heard_first(house: Callable[..., House]) -> None:
    home = house("Slow", seconds=0.0)
    home.ready()
    (worker,) = home.workers
    for number in range(5):
        home.ask(worker, number)
    home.until(lambda: (home.folder / "scratch").exists(), "it has begun")
    os.kill(worker.pid, signal.SIGKILL)
    home.until(home.deaths, "its death")
    place = home.news.index(home.deaths()[0])
    told = [index for index, news in enumerate(home.news) if isinstance(news, Said)]
    assert all(index < place for index in told if isinstance(home.news[index].message, LabelDone))  # type: ignore[union-attr]


def test_the_budget_ends(house: Callable[..., House]) -> None:
    home = house("Poisoned", deed="segfault", budget=2)
    (worker,) = home.workers
    for number in range(3):
        home.ready(number + 1)
        home.ask(worker)
        home.until(lambda n=number: len(home.deaths()) > n, "it dies")  # type: ignore[misc]
    assert [died.given_up for died in home.deaths()] == [False, False, True]
    assert all("SIGSEGV" in died.failure.message for died in home.deaths())
    assert "Segmentation fault" in home.deaths()[0].failure.traceback
    assert not worker.alive
    assert worker.restart_at is None


def test_death_by_order_is_told_as_ordered_and_not_held_against_the_worker(
    house: Callable[..., House],
) -> None:
    home = house(budget=1, seconds=60.0)
    (worker,) = home.workers
    for number in range(4):
        home.ready(number + 1)
        home.ask(worker)
        home.agent.kill(worker, "deadline", "no label within 3 s")
        home.until(lambda n=number: len(home.deaths()) > n, "it dies")  # type: ignore[misc]
    for died in home.deaths():
        assert (died.failure.kind, died.given_up) == ("deadline", False)
        assert "no label within 3 s" in died.failure.message


def test_grandchildren_die_with_their_worker(house: Callable[..., House], tmp_path: Path) -> None:
    home = house("OnceOracle", flag=str(tmp_path / "flag"), deed="help")
    home.ready()
    (worker,) = home.workers
    for number in range(5):
        home.ask(worker, number)
    helper = home.until(
        lambda: psutil.Process(worker.pid).children(), "the oracle has started a program"
    )[0]
    kill(worker.pid)
    home.until(lambda: not helper.is_running() or helper.status() == "zombie", "it is gone")


def test_who_does_not_end_in_time_is_killed(house: Callable[..., House]) -> None:
    home = house(count=2, seconds=60.0)
    home.ready()
    home.ask(home.workers[0])
    home.until(lambda: (home.folder / "scratch").exists(), "it has begun")
    found = home.close(patience=0.2)
    assert sum(isinstance(news, Left) for news in found) == 2
    assert not processes_of(home.folder)


def test_a_worker_that_is_let_go_gives_back_what_it_had(house: Callable[..., House]) -> None:
    home = house(count=2)
    home.ready()
    one, other = home.workers
    board = one.roads.board.segment.fd
    home.agent.retire(one.job.key)
    home.agent.retire(one.job.key)
    home.until(lambda: any(isinstance(news, Left) for news in home.news), "it leaves")
    assert sum(isinstance(news, Left) for news in home.news) == 1
    assert not home.deaths()
    assert set(home.agent.read()) == {other.job.key}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(board)
    home.ask(other)
    home.until(lambda: home.said(LabelDone), "the other works on")


def test_a_dead_worker_that_is_let_go_does_not_come_back(house: Callable[..., House]) -> None:
    home = house(count=1)
    (worker,) = home.workers
    worker.budget = RestartBudget(10, 60.0)
    home.ready()
    kill(worker.pid)
    home.until(home.deaths, "its death")
    home.agent.retire(worker.job.key)
    home.until(lambda: any(isinstance(news, Left) for news in home.news), "it leaves")
    assert not home.agent.workers


def test_workers_save_as_often_as_is_said_while_they_run(house: Callable[..., House]) -> None:
    home = house(count=1)
    (worker,) = home.workers
    meter = worker.roads.meter(worker.job)
    assert meter["saving"] == 0, "as the job says"
    home.agent.save_every(0.25)
    assert meter["saving"] == 0.25
    roads = home.agent.start([replace(worker.job, index=7)])
    assert roads.meter(home.agent.workers["oracle", 7].job)["saving"] == 0.25


def test_ending_at_once_after_the_start_is_quick(house: Callable[..., House]) -> None:
    """A worker that is told to end before it is up hears of it."""
    home = house(count=4)
    found = home.close(patience=15.0)
    assert sum(isinstance(news, Left) for news in found) == 4


def test_a_worker_that_cannot_start_says_why(house: Callable[..., House]) -> None:
    home = house("NoSuchOracle", budget=0)
    home.until(home.deaths, "its death")
    (died,) = home.deaths()
    assert died.failure.kind == "KernelImportError"
    assert "NoSuchOracle" in died.failure.message
    assert not died.was_ready


def test_a_new_nursery_bears_all_workers_again(house: Callable[..., House]) -> None:
    home = house(count=3)
    home.ready()
    old = {worker.pid for worker in home.workers}
    assert home.agent._nursery is not None
    kill(home.agent._nursery.pid)
    home.ready(6)
    assert len(home.deaths()) == 3
    assert not old & set(processes_of(home.folder))
    for worker in home.workers:
        home.ask(worker)
    home.until(lambda: len(home.said(LabelDone)) == 3, "three labels")


def test_sending_to_a_dead_worker_is_no_error(house: Callable[..., House]) -> None:
    home = house(budget=0)
    home.ready()
    (worker,) = home.workers
    kill(worker.pid)
    home.ask(worker)
    home.until(home.deaths, "its death")
    home.ask(worker)


# The nursery alone -----------------------------------------------------------------------------


@pytest.fixture
def nursery() -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    here, there = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "pal.runtime.nursery", str(there.fileno())],
        pass_fds=[there.fileno()],
        stderr=subprocess.DEVNULL,
    )
    there.close()
    yield here, process
    here.close()
    process.wait(20)


def test_more_births_than_a_socket_holds_news_of(
    nursery: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    """An agent that starts hundreds of workers reads the news only afterwards."""
    here, process = nursery
    here.settimeout(30)
    for key in range(600):
        send_request(here, Birth(key, None), [])
    told = b""
    while told.count(b'"gone"') < 600:
        data = here.recv(65536)
        assert data
        told += data
    assert told.count(b'"born"') == 600
    assert process.poll() is None


def test_a_nursery_ends_when_its_agent_hangs_up(
    nursery: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    here, process = nursery
    here.close()
    assert process.wait(10) == 0


def test_killing_who_is_gone_is_no_error(
    nursery: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    here, process = nursery
    here.settimeout(10)
    send_request(here, Birth(0, None), [])
    told = b""
    while b'"gone"' not in told:
        told += here.recv(1000)
    send_request(here, Kill(1 << 22, signal.SIGKILL), [])
    send_request(here, Birth(1, None), [])
    while told.count(b'"gone"') < 2:
        told += here.recv(1000)
    assert process.poll() is None
