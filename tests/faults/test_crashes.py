"""Workers that are killed in the middle: nothing is lost, and the campaign goes on."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from meanwhile import child, meanwhile, stop
from rig import (
    attempt,
    eventually,
    kill,
    labels_in,
    number_of_labels,
    nursery,
    processes_of,
    run,
    trace,
    worker,
)

from pal.controller.commands import State
from pal.ledger.directory import RunDirectory
from pal.ledger.ledger import Ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run directory."""
    return tmp_path / "run"


def check_labels(folder: Path) -> dict[int, tuple[Any, Any]]:
    labels = labels_in(folder)
    for sample, label in labels.values():
        np.testing.assert_array_equal(label, [1 + sample[0] * sample[1]])
    return labels


def kill_in_the_middle(folder: Path, name: str, **sections: Any) -> Any:
    """Run a campaign and kill this worker after the tenth label."""
    victims = []

    def deed() -> None:
        eventually(lambda: number_of_labels(folder) >= 10, "ten labels")
        victims.append(worker(folder, name))
        kill(victims[0])
        at = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) >= at + 20, "twenty more labels")
        stop(folder)

    with meanwhile(deed):
        done = run(folder, stop={"after": 30}, **sections)
    assert len(check_labels(folder)) >= 30
    crashes = [failure for failure in done.failures if failure.kind == "crash"]
    assert len(crashes) == 1, done.failures
    assert "SIGKILL" in crashes[0].message
    assert done.summary is not None
    assert done.summary.restarts == 1
    return done


@pytest.mark.parametrize("name", ["exchange", "generator-1", "oracle-0", "trainer-0"])
@pytest.mark.parametrize("batching", ["all", "ready"])
def test_any_worker_may_be_killed(folder: Path, name: str, batching: str) -> None:
    kill_in_the_middle(
        folder,
        name,
        exchange={"batching": batching},
        oracle={"kernel": "toys:Slow", "options": {"seconds": 0.01}},
    )


@pytest.mark.parametrize("name", ["exchange", "predictor-0", "predictor-1", "trainer-1"])
def test_any_worker_of_a_spread_committee_may_be_killed(folder: Path, name: str) -> None:
    kill_in_the_middle(
        folder,
        name,
        model={"predictors": 2, "trainers": 2},
        oracle={"kernel": "toys:Slow", "options": {"seconds": 0.01}},
    )


def test_a_committee_with_its_walkers_may_be_killed(folder: Path) -> None:
    kill_in_the_middle(
        folder,
        "exchange",
        generator={"placement": "committee"},
        oracle={"kernel": "toys:Slow", "options": {"seconds": 0.01}},
    )


def test_a_dead_host_does_not_hold_the_others_in_lockstep(folder: Path, tmp_path: Path) -> None:
    """Its walkers begin again, and no walker hears an answer to another's sample."""
    met = tmp_path / "met"
    met.mkdir()

    def deed() -> None:
        files = [met / f"walker-{index}" for index in range(4)]
        eventually(lambda: all(f.exists() and f.stat().st_size > 3200 for f in files), "100 steps")
        kill(worker(folder, "generator-0"))
        sizes = [file.stat().st_size for file in files]
        eventually(
            lambda: all(
                file.stat().st_size > size + 3200 for file, size in zip(files, sizes, strict=True)
            ),
            "100 steps more of every walker",
        )
        stop(folder)

    with meanwhile(deed):
        run(
            folder,
            generator={"walkers": 4, "hosts": 2, "options": {"trace": str(met)}},
            exchange={"batching": "all"},
            model={"train": False, "members": 2},
            oracle={"enabled": False},
            stop={"after": 30},
        )
    for rows in trace(met, 4):
        # The weights stay, so the committee says the same of a sample each time it is asked.
        starts = np.flatnonzero((rows[:, 2:] == 0).all(axis=1))
        assert starts[0] == 0
        assert len(starts) <= 2


def test_the_nursery_may_be_killed(folder: Path) -> None:
    """All workers die with it; a new one bears them again."""

    def deed() -> None:
        eventually(lambda: number_of_labels(folder) >= 10, "ten labels")
        before = set(processes_of(folder))
        kill(nursery())
        eventually(lambda: not before & set(processes_of(folder)), "the old workers are gone")
        at = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) >= at + 20, "twenty more labels")
        stop(folder)

    with meanwhile(deed):
        done = run(
            folder,
            oracle={"kernel": "toys:Slow", "options": {"seconds": 0.01}},
            stop={"after": 30},
        )
    check_labels(folder)
    assert {failure.role for failure in done.failures} == {
        "prediction",
        "generator",
        "oracle",
        "training",
    }


@pytest.mark.parametrize(
    "sections",
    [
        {
            "model": {"members": 4, "predictors": 2, "trainers": 2},
            "generator": {"walkers": 5, "hosts": 2},
        },
        {
            "generator": {"placement": "committee"},
            "selector": {"options": {"threshold": -1.0}, "rerank": True},
        },
        {"exchange": {"batching": "all"}, "mode": "serial", "training": {"retrain_size": 4}},
    ],
)
def test_a_storm_of_kills(folder: Path, sections: dict[str, Any]) -> None:
    """Any worker and now and then the nursery, fifteen times, each time after two more labels."""
    chance = random.Random(5)

    def deed() -> None:
        for number in range(15):
            at = number_of_labels(folder)
            eventually(lambda at=at: number_of_labels(folder) >= at + 2, f"labels after {number}")  # type: ignore[misc]
            living = sorted(processes_of(folder))
            victim = nursery() if number in (4, 9) else chance.choice(living or [nursery()])
            with suppress(ProcessLookupError):
                kill(victim)
        at = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) >= at + 10, "labels after the storm")
        stop(folder)

    defaults = {"selector": {"options": {"threshold": -1.0}}}
    with meanwhile(deed):
        run(
            folder,
            **{
                **defaults,
                **sections,
                "oracle": {"kernel": "toys:Slow", "options": {"seconds": 0.005}, "workers": 2},
                "restart": {"budget": 100, "delay": 0.001},
                "stop": {"after": 60},
            },
        )
    check_labels(folder)


def helper_of(oracle: int) -> int:
    """The process that an oracle has started."""

    def look() -> int | None:
        path = Path(f"/proc/{oracle}/task/{oracle}/children")
        return next(map(int, path.read_text().split()), None)

    pid: int = eventually(look, "the helper of the oracle")
    return pid


@pytest.mark.parametrize("who", ["oracle", "nursery", "agent"])
def test_what_an_oracle_has_started_dies_with_it(folder: Path, tmp_path: Path, who: str) -> None:
    """A helper program outlives neither the oracle, nor the nursery, nor the agent."""
    helpers = []

    def deed() -> None:
        helpers.append(helper_of(worker(folder, "oracle-0")))
        kill(worker(folder, "oracle-0") if who == "oracle" else nursery())
        eventually(lambda: not Path(f"/proc/{helpers[0]}").exists(), "the helper is gone")

    oracle = {
        "kernel": "toys:OnceOracle",
        "options": {"flag": str(tmp_path / "once"), "deed": "help"},
    }
    if who == "agent":
        with child(folder, oracle=oracle) as agent:
            helper = helper_of(worker(folder, "oracle-0"))
            os.killpg(agent.pid, signal.SIGKILL)
            eventually(lambda: not Path(f"/proc/{helper}").exists(), "the helper is gone")
            eventually(lambda: not processes_of(folder), "no worker is left")
        return
    with meanwhile(deed):
        run(folder, oracle=oracle, stop={"labels": 20})
    check_labels(folder)


# The agent itself ----------------------------------------------------------------------------


def test_an_oracle_that_dies_remembers_what_it_had_saved(folder: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    oracle = {"kernel": "toys:Counting", "options": {"flag": str(flag)}}
    done = run(folder, oracle=oracle, save_interval=0, stop={"labels": 12})
    assert done.kinds("oracle") == {"crash"}
    counts = [int(line) for line in Path(f"{flag}.counts").read_text().split()]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("labels", [1, 15, 40])
def test_killing_the_agent_s_whole_group_loses_no_label(
    folder: Path, tmp_path: Path, labels: int
) -> None:
    log = tmp_path / "log"
    log.mkdir()
    sections: dict[str, Any] = {
        "generator": {"kernel": "toys:Stateful", "options": {"log": str(log), "pause": 0.002}},
        "oracle": {"kernel": "toys:Slow", "options": {"seconds": 0.01}, "workers": 2},
        "save_interval": 0.05,
    }
    with child(folder, **sections) as agent:
        eventually(lambda: number_of_labels(folder) >= labels, f"{labels} labels")
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()
        eventually(lambda: not processes_of(folder), "no worker is left")
    before = labels_in(folder)
    assert len(before) >= labels
    assert RunDirectory(folder).holder() is None

    done = run(folder, **{**sections, "stop": {"labels": len(before) + 20}})
    after = check_labels(folder)
    assert len(after) >= len(before) + 20
    for number, (sample, label) in before.items():
        np.testing.assert_array_equal(after[number][0], sample)
        np.testing.assert_array_equal(after[number][1], label)
    assert done.summary is not None
    assert done.summary.labels == len(after)
    for path in log.iterdir():
        steps = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
        killed = [count for pid, count in steps if pid == steps[0][0]]
        resumed = [count for pid, count in steps if pid != steps[0][0]]
        if not resumed:
            continue  # this walker was not there yet when all were killed
        # States are saved every 0.05 s, with which the slowest walker loses some 25 steps.
        if killed[-1] > 60:
            assert resumed[0] > 1, "it goes on from a saved state"
        assert resumed[0] <= killed[-1] + 1


def test_a_second_kill_while_resuming(folder: Path) -> None:
    """Resuming is no special time: whenever it dies, all labels stay."""
    sections: dict[str, Any] = {"oracle": {"kernel": "toys:Slow", "options": {"seconds": 0.01}}}
    seen: dict[int, tuple[Any, Any]] = {}
    for goal in (3, 6, 9):
        with child(folder, **sections) as agent:
            eventually(lambda g=goal: number_of_labels(folder) >= g, "labels")  # type: ignore[misc]
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
            eventually(lambda: not processes_of(folder), "no worker is left")
        now = check_labels(folder)
        assert seen.keys() <= now.keys()
        seen = now
    run(folder, **{**sections, "stop": {"labels": 25}})
    assert seen.keys() <= check_labels(folder).keys()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_good_order(folder: Path, number: signal.Signals) -> None:
    with child(folder) as agent:
        eventually(lambda: number_of_labels(folder) >= 5, "five labels")
        agent.send_signal(number)
        assert agent.wait(20) == 0
    check_labels(folder)
    with Ledger.open_readonly(folder) as ledger:
        (session,) = ledger.sessions()
        assert session.reason == f"{number.name} received"
        assert session.end is not None
        assert not ledger.states(State.RUNNING, State.RETURNED)


def test_a_second_signal_ends_at_once(folder: Path) -> None:
    oracle = {"kernel": "toys:Slow", "options": {"seconds": 60}, "grace": 60}
    with child(folder, oracle=oracle) as agent:
        eventually(
            lambda: (folder / "scratch").exists() and any((folder / "scratch").iterdir()),
            "a label is made",
        )
        agent.send_signal(signal.SIGINT)
        eventually(
            lambda: "finishing" in (folder / "status.json").read_text(), "the end has begun"
        )
        agent.send_signal(signal.SIGINT)
        agent.wait(10)
    assert not processes_of(folder)


def test_two_campaigns_in_one_directory_do_not_meet(folder: Path) -> None:
    with child(folder):
        eventually(lambda: number_of_labels(folder) >= 1, "a label")
        second = attempt(folder)
        assert second.error is not None
        assert "is in use by process" in str(second.error)
