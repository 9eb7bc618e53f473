"""Whole campaigns with real processes: they reach their end, and what they say adds up."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rig import TOYS, labels_in, processes_of, run, trace

import pal
from pal.controller.commands import State
from pal.ledger.directory import RunDirectory
from pal.ledger.ledger import Ledger
from pal.runtime.happenings import Happening
from pal.runtime.weights import fetch, stored

LABELS = {"labels": 25, "final_training": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run directory."""
    return tmp_path / "run"


def truth(sample: Any) -> Any:
    return np.array([1 + sample[0] * sample[1]])


def test_a_campaign_runs_to_its_labels_and_every_label_is_true(folder: Path) -> None:
    done = run(folder, stop=LABELS)
    assert done.summary is not None
    assert "stop.labels = 25" in done.summary.reason
    labels = labels_in(folder)
    assert len(labels) == 25 == done.summary.labels == done.counts()[State.LABELLED]
    for sample, label in labels.values():
        np.testing.assert_array_equal(label, truth(sample))
    assert done.summary.failed == done.summary.restarts == 0
    assert not done.failures
    assert done.last.phase == "finished"
    assert not RunDirectory(folder).holder()


def test_walkers_and_committee_stand_back_where_they_are_told_to(folder: Path) -> None:
    nice: dict[str, int] = {}

    def look(_: Happening) -> None:
        for pid, name in processes_of(folder).items():
            with contextlib.suppress(psutil.NoSuchProcess):
                nice[name] = max(psutil.Process(pid).nice(), nice.get(name, -20))

    own = psutil.Process().nice()
    run(folder, look, exchange={"nice": 3}, model={"predictors": 2}, stop=LABELS)
    back = {name for name, value in nice.items() if value == own + 3}
    assert back >= {"exchange", "generator-0", "generator-1", "generator-2"}
    assert {"oracle-0", "trainer-0"} <= nice.keys() - back
    assert {nice[name] for name in nice.keys() - back} == {own}


def test_a_campaign_in_python_objects_with_a_report(folder: Path, with_report: None) -> None:
    import sys

    sys.path.insert(0, TOYS)
    try:
        import toys

        summary = pal.Campaign(
            generator={"kernel": toys.Walk, "walkers": 2},
            model=toys.Quadratic,
            oracle=truth,
            selector=toys.Threshold,
            directory=folder,
            stop=LABELS,
        ).run()
    finally:
        sys.path.remove(TOYS)
    assert summary.labels == 25
    assert (folder / "report.html").stat().st_size > 1000
    assert (folder / "summary.json").exists()
    with np.load(folder / "dataset.npz") as data:
        assert data.files


@pytest.mark.parametrize(
    ("rule", "value", "reason"),
    [
        ("labels", 5, "stop.labels = 5 reached"),
        ("epochs", 60, "stop.epochs = 60 reached"),
        ("samples", 200, "stop.samples = 200 reached"),
        ("after", 0.5, "stop.after = 0.5 s reached"),
    ],
)
def test_each_stop_rule_ends_the_campaign(
    folder: Path, rule: str, value: float, reason: str
) -> None:
    done = run(folder, stop={rule: value})
    assert done.summary is not None
    assert done.summary.reason == reason
    reached = {"labels": "labels", "epochs": "epochs", "samples": "samples", "after": "wall"}
    assert getattr(done.summary, reached[rule]) >= value


def test_quiet_ends_a_campaign_that_has_nothing_to_ask(folder: Path) -> None:
    done = run(
        folder,
        selector={"options": {"threshold": 1e9}},
        stop={"quiet": 1.5},
    )
    assert done.summary is not None
    assert "stop.quiet" in done.summary.reason
    assert done.summary.samples > 0
    assert done.summary.labels == 0


def test_labels_that_fail_in_a_row_end_the_campaign_as_failed(folder: Path) -> None:
    from rig import attempt

    done = attempt(
        folder,
        oracle={"kernel": "toys:Poisoned", "options": {"deed": "refuse", "above": -9.0}},
        stop={"failures": 4},
    )
    assert isinstance(done.error, pal.PalError)
    assert "4 labels failed in a row" in str(done.error)
    assert "cycles do not converge" in str(done.error)
    assert done.counts()[State.FAILED] == 4


@pytest.mark.parametrize("hosts", ["each", 1])
@pytest.mark.parametrize("placement", ["hosts", "committee"])
def test_a_walker_asks_for_the_end(folder: Path, placement: str, hosts: Any) -> None:
    """Running labels get their grace: one walker that asks is heard once, not time and again."""
    done = run(
        folder,
        generator={
            "kernel": "toys:Finite",
            "options": {"steps": 40, "only": 1},
            "placement": placement,
            "hosts": hosts,
        },
        oracle={"kernel": "toys:Slow", "options": {"seconds": 0.4}, "workers": 2, "grace": 10},
    )
    assert done.summary is not None
    assert done.summary.reason == "walker 1 asked to stop"
    assert sum("walker 1 asked to stop" in note for note in done.notes) == 1
    with Ledger.open_readonly(folder) as ledger:
        stories = [ledger.story(row.candidate.sample) for row in ledger.states()]
    assert not [line for story in stories for line in story if "requeued" in line.detail]


def test_a_trainer_asks_for_the_end(folder: Path) -> None:
    done = run(folder, model={"options": {"asks": 7}})
    assert done.summary is not None
    assert done.summary.reason == "trainer 0 asked to stop"


def test_without_oracle_nothing_is_labelled(folder: Path) -> None:
    done = run(folder, oracle={"enabled": False}, stop={"samples": 300})
    assert done.summary is not None
    assert done.summary.labels == 0
    assert done.summary.samples >= 300


def test_without_training_labels_come_and_weights_stay(folder: Path) -> None:
    done = run(folder, model={"train": False}, stop=LABELS)
    assert done.summary is not None
    assert (done.summary.labels, done.summary.epochs, done.summary.version) == (25, 0, 0)


def test_a_pure_simulation_uses_the_weights_it_is_given(folder: Path, tmp_path: Path) -> None:
    """With equal weights in every member the committee agrees, and says what they say."""
    given = tmp_path / "given"
    given.mkdir()
    for member in range(3):
        np.savez(given / f"member-{member}.npz", w=np.array([3.0, 0, 0, 0, 0, 0]))
    met = tmp_path / "met"
    met.mkdir()
    done = run(
        folder,
        generator={"options": {"trace": str(met)}},
        model={"train": False, "weights": given},
        oracle={"enabled": False},
        stop={"samples": 200},
    )
    assert done.summary is not None
    for rows in trace(met, 3):
        # The weights come while the first sample waits or later; from then on they stay.
        heard = rows[1:, 2:]
        settled = heard[np.argmax(heard[:, 0] == 3.0) :]
        assert len(settled) > 10
        np.testing.assert_array_equal(settled, np.tile([3.0, 0.0], (len(settled), 1)))


def test_training_starts_from_the_weights_it_is_given(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for member in range(3):
        np.savez(given / f"member-{member}.npz", w=np.full(6, 7.0 + member))
    run(folder, model={"weights": given, "options": {"rate": 0.0}}, stop={"epochs": 40})
    for member, weights in fetch(stored(folder / "models")[-1]).items():
        np.testing.assert_array_equal(weights["w"], np.full(6, 7.0 + member))


def test_walkers_in_the_committee_s_process(folder: Path) -> None:
    done = run(folder, generator={"placement": "committee"}, stop=LABELS)
    assert done.summary is not None
    assert done.summary.labels == 25
    assert not list((folder / "logs").glob("generator-*.log"))


@pytest.mark.parametrize("batching", ["all", "ready"])
def test_several_hosts_predictors_and_trainers(folder: Path, batching: str) -> None:
    done = run(
        folder,
        generator={"walkers": 7, "hosts": 3},
        model={"members": 4, "predictors": 2, "trainers": 2, "weights_every": 3},
        exchange={"batching": batching},
        oracle={"workers": 2},
        stop={"epochs": 12},
    )
    assert done.summary is not None
    assert done.summary.labels > 0
    assert done.summary.version > 0
    assert not done.failures
    names = {path.stem for path in (folder / "logs").iterdir()}
    assert {"exchange", "predictor-1", "generator-2", "trainer-1", "oracle-1"} <= names


@pytest.mark.parametrize("predictors", [1, 3])
@pytest.mark.parametrize("placement", ["hosts", "committee"])
def test_all_batching_repeats_itself_bit_by_bit(
    tmp_path: Path, placement: str, predictors: int
) -> None:
    if placement == "committee" and predictors > 1:
        pytest.skip("the committee is in one process")
    histories = []
    for name in ("one", "two"):
        met = tmp_path / f"met-{name}"
        met.mkdir()
        run(
            tmp_path / name,
            seed=4,
            generator={
                "kernel": "toys:Finite",
                "walkers": 5,
                "hosts": 2,
                "placement": placement,
                "options": {"trace": str(met), "steps": 60},
            },
            model={"train": False, "predictors": predictors},
            exchange={"batching": "all"},
        )
        histories.append([rows[:55] for rows in trace(met, 5)])
    for walker, (one, two) in enumerate(zip(*histories, strict=True)):
        assert len(one) == 55
        assert one[1:, 2].any(), "walkers hear of predictions"
        assert one.tobytes() == two.tobytes(), f"walker {walker}"
    assert len({rows.tobytes() for rows in histories[0]}) == 5, "walkers differ"


@pytest.mark.parametrize("batching", ["all", "ready"])
@pytest.mark.parametrize("placement", ["hosts", "committee"])
def test_a_largest_batch_lets_every_walker_move(
    tmp_path: Path, folder: Path, placement: str, batching: str
) -> None:
    met = tmp_path / "met"
    met.mkdir()
    run(
        folder,
        generator={
            "walkers": 5,
            "placement": placement,
            "options": {"trace": str(met)},
            "hosts": 1,
        },
        exchange={"batching": batching, "max_size": 2},
        oracle={"enabled": False},
        model={"train": False},
        stop={"samples": 200},
    )
    steps = [len(rows) for rows in trace(met, 5)]
    assert min(steps) > max(steps) / 3, steps


def test_samples_of_changing_size(folder: Path) -> None:
    done = run(
        folder,
        generator={"kernel": "toys:Sizes", "walkers": 4, "hosts": 2},
        model={"kernel": "toys:Mixed"},
        oracle={"kernel": "toys:spring"},
        exchange={"batching": "all"},
        stop=LABELS,
    )
    assert not done.failures
    labels = labels_in(folder)
    assert {len(sample["positions"]) for sample, _ in labels.values()} == {1, 2, 3}
    for sample, label in labels.values():
        np.testing.assert_array_equal(label["forces"], -sample["positions"])


@pytest.mark.parametrize("placement", ["hosts", "committee"])
def test_candidates_of_many_megabytes_arrive_whole(folder: Path, placement: str) -> None:
    """More than a socket holds is on its way, and nobody sends anything else behind it."""
    run(
        folder,
        generator={"kernel": "toys:Bulky", "walkers": 6, "placement": placement},
        model={"kernel": "toys:Mean", "train": False},
        oracle={"kernel": "toys:total"},
        queue={"capacity": 6, "when_full": "drop_new"},
        stop={"labels": 12},
    )
    for sample, label in labels_in(folder).values():
        assert (sample == label[0]).all()


def test_weights_trained_in_place_arrive_whole(folder: Path) -> None:
    done = run(
        folder,
        model={"kernel": "toys:InPlace", "members": 2, "weights_every": 1},
        stop={"epochs": 60},
    )
    assert not done.failures
    for weights in fetch(stored(folder / "models")[-1]).values():
        assert len(set(weights["array"])) == 1


def test_the_queue_is_ranked_anew(folder: Path) -> None:
    done = run(
        folder,
        selector={"rerank": True},
        oracle={"kernel": "toys:Slow", "options": {"seconds": 0.02}},
        stop={"labels": 30},
    )
    assert done.summary is not None
    assert done.summary.labels >= 30
    with Ledger.open_readonly(folder) as ledger:
        stories = [
            line.detail
            for row in ledger.states(State.DROPPED)
            for line in ledger.story(row.candidate.sample)
        ]
    assert "ranked out" in stories


def test_a_full_queue_is_bounded_and_counts_what_it_leaves_out(folder: Path) -> None:
    done = run(
        folder,
        queue={"capacity": 5},
        oracle={"kernel": "toys:Slow", "options": {"seconds": 0.02}},
        stop={"labels": 15},
    )
    assert max(snapshot.queued for snapshot in done.snapshots) <= 5
    assert done.summary is not None
    assert done.summary.skipped > 0
    counts = done.counts()
    rest = counts[State.QUEUED] + counts[State.DROPPED]
    assert sum(counts.values()) == done.summary.labels + rest


def test_serial_mode_takes_turns(folder: Path) -> None:
    done = run(folder, mode="serial", training={"retrain_size": 5}, stop={"labels": 15})
    assert done.summary is not None
    assert done.summary.labels >= 15
    assert done.summary.epochs > 0
    phases = {snapshot.phase for snapshot in done.snapshots}
    assert "running" not in phases


def test_initial_samples_come_first_and_are_learnt(folder: Path) -> None:
    done = run(
        folder,
        initial={"kernel": "toys:grid", "options": {"count": 6}},
        stop={"labels": 20},
    )
    labels = labels_in(folder)
    first = sorted(labels)[:6]
    np.testing.assert_allclose([labels[i][0][0] for i in first], np.arange(6) / 6)
    with Ledger.open_readonly(folder) as ledger:
        walkers = [row.candidate.walker for row in ledger.states()]
        versions = {row.candidate.version for row in ledger.states() if row.candidate.walker >= 0}
    assert walkers[:6] == [-1] * 6
    assert min(walkers[6:]) >= 0
    assert min(versions) >= 1, "walkers waited for the first training"
    assert done.summary is not None


def test_an_initial_sampler_that_breaks_ends_the_campaign(folder: Path) -> None:
    from rig import attempt

    done = attempt(folder, initial={"kernel": "toys:grid", "options": {"count": "six"}})
    assert done.error is not None
    assert "initial" in str(done.error)
    assert done.seconds < 10


def read_census(log: Path) -> list[list[list[int]]]:
    return [
        [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
        for path in sorted(log.iterdir())
    ]


def test_a_window_keeps_the_newest(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    run(
        folder,
        model={"kernel": "toys:Census", "options": {"log": str(log)}, "trainers": 3},
        training={"retrain_size": 5, "window": 8},
        stop={"labels": 40},
    )
    with Ledger.open_readonly(folder) as ledger:
        committed = ledger.labelled_ids()
    for rounds in read_census(log):
        assert len(rounds) > 1
        for data in rounds:
            assert len(data) <= 8
            places = sorted(committed.index(number) for number in data)
            assert places == list(range(places[0], places[0] + len(data)))


def test_a_bootstrap_gives_every_member_its_own_data(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    run(
        folder,
        model={"kernel": "toys:Census", "options": {"log": str(log)}},
        training={"bootstrap": True, "retrain_size": 10},
        stop={"labels": 40},
    )
    last = [rounds[-1] for rounds in read_census(log)]
    assert len({tuple(data) for data in last}) == 3
    for data in last:
        assert len(set(data)) < len(data), "some are drawn twice"


def test_a_second_session_goes_on_where_the_first_stood(folder: Path) -> None:
    first = run(folder, stop={"labels": 15}, name="mine")
    before = labels_in(folder)
    second = run(folder, stop={"labels": 40}, name="mine")
    after = labels_in(folder)
    assert first.summary is not None
    assert second.summary is not None
    assert len(after) >= 40
    assert before.keys() <= after.keys()
    for number, (sample, label) in before.items():
        np.testing.assert_array_equal(after[number][0], sample)
        np.testing.assert_array_equal(after[number][1], label)
    for name in ("samples", "epochs", "version", "labels", "wall"):
        assert getattr(second.summary, name) >= getattr(first.summary, name), name
    times = [snapshot.time for snapshot in first.snapshots + second.snapshots]
    assert times == sorted(times)
    with Ledger.open_readonly(folder) as ledger:
        assert len(ledger.sessions()) == 2
        assert all(session.end is not None for session in ledger.sessions())


def test_a_finished_campaign_run_again_ends_at_once(folder: Path) -> None:
    run(folder, stop={"labels": 10})
    again = run(folder, stop={"labels": 10})
    assert again.summary is not None
    assert again.summary.reason == "stop.labels = 10 reached"
    assert again.seconds < 5
    assert len(labels_in(folder)) == 10


def test_a_fresh_campaign_forgets_the_old_one(folder: Path) -> None:
    run(folder, stop={"labels": 10})
    from rig import campaign

    work = campaign(folder, stop={"labels": 5})
    work._fresh = True
    list(work)
    assert len(labels_in(folder)) == 5


def test_a_loop_that_is_left_early_ends_the_workers(folder: Path) -> None:
    from rig import campaign

    for number, _ in enumerate(campaign(folder)):
        if number == 2:
            break


def test_a_campaign_in_a_thread_leaves_signals_alone(folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(run(folder, stop=LABELS)))
    thread.start()
    thread.join()
    assert done[0].summary.labels == 25
    assert signal.getsignal(signal.SIGINT) is before


def test_the_program_asks_for_the_end(folder: Path) -> None:
    from rig import campaign

    work = campaign(folder)
    for number, _ in enumerate(work):
        if number == 2:
            work.stop("enough")
    assert work.summary is not None
    assert work.summary.reason == "enough"
