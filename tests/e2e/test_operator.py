"""The operator's hand on a running campaign: each deed, and what refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand import Hand
from meanwhile import meanwhile, stop
from rig import Run, check_ledger, eventually, kill, number_of_labels, processes_of, run, worker

from pal.controller.commands import State
from pal.ledger.changes import changes, standing
from pal.ledger.ledger import Ledger
from pal.ledger.story import tell

CALM: dict[str, Any] = {
    "generator": {"walkers": 1, "options": {"pause": 0.005}},
    "selector": {"options": {"threshold": -1.0}},
}
"""One walker without haste, of which every sample is worth a label, so that they never run out."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run directory."""
    return tmp_path / "run"


@pytest.fixture
def hand(folder: Path) -> Hand:
    """The operator."""
    return Hand(folder)


def during(folder: Path, deed: Callable[[], None], **sections: Any) -> Run:
    """Run a campaign, do something meanwhile, and stop it when that is done."""

    def work() -> None:
        try:
            eventually(lambda: number_of_labels(folder) or processes_of(folder), "a campaign")
            deed()
        finally:
            stop(folder)

    with meanwhile(work):
        return calmly(folder, **sections)


def calmly(folder: Path, **sections: Any) -> Run:
    return run(folder, **{**CALM, **sections})


def gated(tmp_path: Path, workers: int = 1) -> dict[str, Any]:
    return {
        "kernel": "operator_toys:Gated",
        "workers": workers,
        "grace": 0.2,
        "options": {"gate": str(tmp_path / "gate")},
    }


def makers(tmp_path: Path) -> set[int]:
    """The oracles that have made a label behind the gate."""
    log = tmp_path / "gate.log"
    return (
        {int(line.split()[0]) for line in log.read_text().splitlines()} if log.exists() else set()
    )


# Samples --------------------------------------------------------------------------------------


def test_a_quarantined_sample_tells_its_story_and_gets_its_label(
    tmp_path: Path, folder: Path, hand: Hand
) -> None:
    def deed() -> None:
        (sample, *_) = hand.some(State.QUARANTINED)
        (tmp_path / "mended").touch()
        assert hand.do("requeue", samples=[sample]) == f"queued again: {sample}"
        hand.comes_to(sample, State.LABELLED)
        assert "has its label" in hand.refused("requeue", samples=[sample])
        assert "waits for no label" in hand.refused("drop", samples=[sample])
        assert "labels do not change" in hand.refused("label", np.zeros(1), sample=sample)

    oracle = {"kernel": "operator_toys:Mended", "options": {"flag": str(tmp_path / "mended")}}
    during(folder, deed, oracle=oracle | {"pause_after": None})
    with Ledger.open_readonly(folder) as ledger:
        (change,) = (change for change in changes(ledger) if change.deed == "requeue")
        sample = int(change.text.split()[-1])
        story = tell(ledger, sample)
    assert [one.state for one in story.tries] == [State.QUEUED, State.QUARANTINED, State.LABELLED]
    for one in story.tries[:2]:
        assert one.failure is not None
        assert one.failure.kind == "crash"
        assert "SIGKILL" in one.failure.message
        assert one.host == one.failure.host.split(" ")[0]
    assert story.tries[2].number == 1, "its tries began anew"
    assert any(change.by in move.detail for move in story.moves)


def test_a_label_by_hand_counts_as_any_other(tmp_path: Path, folder: Path, hand: Hand) -> None:
    def deed() -> None:
        running, (queued, *_) = hand.some(State.RUNNING)[0], hand.some(State.QUEUED)
        for sample in (queued, running):
            done = hand.do("label", np.array([-7.0]), sample=sample)
            assert done == f"sample {sample} labelled by hand"
            assert hand.states(State.LABELLED).count(sample) == 1, "answered before it was on disk"
        (other, *_) = hand.some(State.QUEUED)
        assert "shape (2,)" in hand.refused("label", np.zeros(2), sample=other)
        assert "NaN" in hand.refused("label", np.array([np.nan]), sample=other)
        assert "'energy'" in hand.refused("label", {"energy": np.zeros(1)}, sample=other)
        assert "did not come" in hand.refused("label", None, sample=other)
        assert "none with this number" in hand.refused("label", np.zeros(1), sample=10**6)

    done = during(folder, deed, oracle=gated(tmp_path))
    with Ledger.open_readonly(folder) as ledger:
        by_hand = [row for row in ledger.label_rows() if row.oracle == -1]
        assert all(row.host.startswith("by hand, ") for row in by_hand)
        assert [float(ledger.label(row.sample)[0]) for row in by_hand] == [-7.0, -7.0]
    assert len(by_hand) == done.last.labelled == 2
    assert not done.failures, "an oracle that is freed of its label has not failed"


def test_samples_are_dropped_from_the_queue_and_from_their_oracle(
    tmp_path: Path, folder: Path, hand: Hand
) -> None:
    def deed() -> None:
        running, queued = hand.some(State.RUNNING)[0], hand.some(State.QUEUED, 3)
        assert hand.do("drop", samples=[running, *queued[:2]]).startswith("dropped: ")
        for sample in (running, *queued[:2]):
            hand.comes_to(sample, State.DROPPED)
        told = hand.refused("drop", samples=[running, queued[2]])
        assert f"sample {running} was dropped" in told
        assert f"(dropped: {queued[2]})" in told, "what can be done is done"
        (tmp_path / "gate").touch()
        eventually(lambda: number_of_labels(folder), "a label after its oracle was killed")
        hand.do("requeue", samples=[queued[0]])
        hand.comes_to(queued[0], State.LABELLED)

    during(folder, deed, oracle=gated(tmp_path))


def test_a_sample_that_failed_in_an_earlier_session_is_queued_again(
    tmp_path: Path, folder: Path, hand: Hand
) -> None:
    refusing = {"deed": "refuse", "above": -0.5}
    oracle = {"kernel": "toys:Poisoned", "options": refusing, "pause_after": None}
    calmly(folder, oracle=oracle, stop={"labels": 2, "failures": None})
    (sample, *_) = hand.states(State.FAILED)
    hand.box.leave("requeue", {"samples": [sample]})
    hand.box.leave("label", {"sample": sample + 10**6}, np.zeros(1))

    def deed() -> None:
        hand.comes_to(sample, State.LABELLED)

    during(folder, deed, oracle={"kernel": "toys:truth"}, accept_changes=True)
    assert not list((folder / "requests").glob("*.json"))


# Kernels --------------------------------------------------------------------------------------


def test_labelling_rests_until_it_is_resumed_also_over_restarts(folder: Path, hand: Hand) -> None:
    def pause() -> None:
        eventually(lambda: number_of_labels(folder) > 3, "labels")
        assert hand.do("pause", kernel="oracle") == "oracle paused"
        assert "paused already" in hand.refused("pause", kernel="oracle")
        eventually(lambda: not hand.states(State.RUNNING, State.RETURNED), "labels end")

    first = during(folder, pause)
    assert "oracle paused" in first.last.phase or first.last.phase == "finished"
    before = number_of_labels(folder)

    def resume() -> None:
        hand.some(State.QUEUED)
        assert number_of_labels(folder) == before
        hand.do("resume", kernel="all")
        eventually(lambda: number_of_labels(folder) > before, "labels again")
        assert "not paused" in hand.refused("resume", kernel="oracle")

    second = during(folder, resume)
    assert any("oracle is paused, by " in note for note in second.notes)
    with Ledger.open_readonly(folder) as ledger:
        assert not standing(ledger).paused


def test_labelling_that_has_paused_itself_is_resumed_by_hand(
    tmp_path: Path, folder: Path, hand: Hand
) -> None:
    def deed() -> None:
        hand.some(State.QUARANTINED)
        eventually(lambda: "labelling paused" in snapshot(folder)["phase"], "a pause")
        (tmp_path / "mended").touch()
        before = number_of_labels(folder)
        assert hand.do("resume", kernel="oracle") == "oracle resumed"
        eventually(lambda: number_of_labels(folder) > before + 3, "labels again")
        assert "not paused" in hand.refused("resume", kernel="oracle")

    oracle = {"kernel": "operator_toys:Mended", "options": {"flag": str(tmp_path / "mended")}}
    during(folder, deed, oracle=oracle | {"pause_after": 1, "probe_after": 1000.0})
    with Ledger.open_readonly(folder) as ledger:
        assert [note for note in ledger.notes("manager") if "labelling is paused" in note.text]


def test_walkers_and_training_rest(folder: Path, hand: Hand) -> None:
    def deed() -> None:
        eventually(lambda: number_of_labels(folder) > 12, "labels")
        hand.do("pause", kernel="all")
        still = eventually(lambda: at_rest(folder), "nothing moves")
        hand.do("resume", kernel="training")
        hand.do("resume", kernel="generator")
        eventually(lambda: snapshot(folder)["samples"] > still["samples"], "walkers")
        hand.do("resume", kernel="oracle")
        eventually(lambda: snapshot(folder)["epochs"] > still["epochs"], "training")

    during(folder, deed, training={"retrain_size": 3})


def snapshot(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


def at_rest(folder: Path) -> dict[str, Any] | None:
    """The snapshot once two that follow one another tell of the same samples and epochs."""
    first = snapshot(folder)
    later = eventually(
        lambda: (found := snapshot(folder))["time"] > first["time"] + 0.3 and found, "a snapshot"
    )
    same = all(first[name] == later[name] for name in ("samples", "epochs", "labelled"))
    return later if same and "paused" in later["phase"] else None


# Settings -------------------------------------------------------------------------------------


def test_a_stop_rule_is_changed_and_ends_the_campaign(folder: Path, hand: Hand) -> None:
    def deed() -> None:
        eventually(lambda: number_of_labels(folder) > 3, "labels")
        told = hand.set(stop__labels=10, queue__capacity=7, save_interval=0.05)
        assert told == "stop.labels = 10, queue.capacity = 7, save_interval = 0.05"

    walk = {"kernel": "toys:Stateful", "options": {"log": str(folder.parent), "pause": 0.005}}
    with meanwhile(deed):
        done = calmly(folder, generator=walk | {"walkers": 1}, oracle={"kernel": "toys:Slow"})
    assert done.summary is not None
    assert done.summary.reason == "stop.labels = 10 reached"
    with Ledger.open_readonly(folder) as ledger:
        held = standing(ledger)
    assert held.settings["stop.labels"] == (None, 10)
    assert held.settings["queue.capacity"] == (100, 7)


@pytest.mark.parametrize(
    ("key", "value", "reason", "code"),
    [
        ("stop.lables", 3, "did you mean 'stop.labels'?", 2),
        ("stop.labels", -3, "greater than 0", 2),
        ("stop.after", "soon", "cannot read 'soon'", 2),
        ("model.members", 5, "cannot change while the campaign runs", 2),
        ("oracle.kernel", "toys:Slow", "have been built with it", 2),
        ("placement.oracle", [1], "where they are", 2),
        ("oracle.workers", 0, "nobody would label", 2),
        ("oracle.options.seconds", 2, "have been built with it", 2),
    ],
)
def test_what_may_not_change_says_why(key: str, value: Any, reason: str, code: int) -> None:
    from rig import campaign

    from pal.errors import SettingsError
    from pal.runtime.live import changed

    settings = campaign(Path("nowhere")).settings
    with pytest.raises(SettingsError) as refusal:
        changed(settings, {key: value})
    assert reason in str(refusal.value)
    assert refusal.value.exit_code == code


def test_changes_hold_over_restarts_until_the_file_says_something_new(
    folder: Path, hand: Hand
) -> None:
    def deed() -> None:
        eventually(lambda: number_of_labels(folder) > 1, "labels")
        hand.do("set", changes={"queue.capacity": 9, "oracle.workers": 2, "oracle.deadline": 30})
        hand.do("set", changes={"oracle.deadline": None})

    by_hand = {"oracle": [1]}
    during(folder, deed, placement=by_hand)
    more = {"labels": number_of_labels(folder) + 5}
    second = calmly(folder, stop=more, placement=by_hand)
    assert any(note.startswith("queue.capacity = 9, changed by ") for note in second.notes)
    queue = {"capacity": 50}
    third = calmly(folder, queue=queue, stop={"labels": number_of_labels(folder) + 5})
    assert any("capacity = 50 now, and had 100" in note for note in third.notes)
    with Ledger.open_readonly(folder) as ledger:
        assert standing(ledger).settings == {"oracle.workers": (1, 2)}
    fourth = calmly(folder, stop={"labels": number_of_labels(folder) + 5})
    told = [note for note in fourth.notes if note.startswith("queue.capacity")]
    assert not told, "the file had its way for good"


def test_the_selector_goes_on_with_other_options_and_what_it_knew(
    tmp_path: Path, folder: Path, hand: Hand
) -> None:
    log = tmp_path / "selector"

    def judged() -> tuple[float, int]:
        # The note is written anew by every batch, and may be empty for a moment.
        words = eventually(lambda: log.exists() and log.read_text().split(), "a batch")
        return float(words[0]), int(words[1])

    def deed() -> None:
        eventually(lambda: judged()[1] > 30, "batches")
        hand.do("set", changes={"selector.options.threshold": 1e6})
        eventually(lambda: judged()[0] == 1e6, "the new threshold")
        assert judged()[1] > 30, "it has forgotten what it knew"
        told = hand.refused("set", changes={"selector.options.threshold": -1})
        assert "the selector refuses: " in told
        assert "below 0" in told
        assert judged()[0] == 1e6
        kill(worker(folder, "exchange"))
        eventually(lambda: judged() == (0.05, 1) or judged()[0] == 1e6, "another exchange")
        eventually(lambda: judged()[0] == 1e6, "an exchange that has been told")

    selector = {"kernel": "operator_toys:Counted", "options": {"log": str(log)}}
    during(folder, deed, selector=selector)


# Workers --------------------------------------------------------------------------------------


def test_oracles_come_and_go(tmp_path: Path, folder: Path, hand: Hand) -> None:
    def deed() -> None:
        hand.some(State.RUNNING)
        assert hand.do("scale", kernel="oracle", count=3) == (
            "oracle.workers = 3; started oracle-1, oracle-2"
        )
        eventually(lambda: len(hand.states(State.RUNNING)) == 3, "three labels at once")
        assert hand.do("scale", kernel="oracle", count=1).endswith("after the present label")
        assert len(hand.states(State.RUNNING)) == 3, "they finish their labels"
        (tmp_path / "gate").touch()
        eventually(lambda: oracles(folder) == {"oracle-0"}, "two have gone")
        assert makers(tmp_path) == {0, 1, 2}
        before = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) > before + 3, "labels go on")
        # One that is killed comes back, one that was let go does not; its number is free again.
        kill(worker(folder, "oracle-0"))
        eventually(lambda: number_of_labels(folder) > before + 6, "labels after a death")
        assert oracles(folder) == {"oracle-0"}
        assert "started oracle-1" in hand.do("scale", kernel="oracle", count=2)
        eventually(lambda: oracles(folder) == {"oracle-0", "oracle-1"}, "two")
        assert "nobody would label" in hand.refused("scale", kernel="oracle", count=0)
        assert "dealt to the trainers" in hand.refused("scale", kernel="training", count=2)
        assert "dealt to the predictors" in hand.refused("scale", kernel="prediction", count=2)

    done = during(folder, deed, oracle=gated(tmp_path))
    assert done.summary is not None
    check_ledger(folder)


def test_only_who_asks_for_workers_gets_them(tmp_path: Path, folder: Path, hand: Hand) -> None:
    """One that died too often stays away until the operator wants as many as there were."""

    def deed() -> None:
        eventually(lambda: oracles(folder) == {"oracle-0", "oracle-1"}, "two oracles")
        hand.do("pause", kernel="oracle")
        eventually(lambda: not hand.states(State.RUNNING, State.RETURNED), "idle oracles")
        kill(worker(folder, "oracle-1"))
        eventually(lambda: oracles(folder) == {"oracle-0"}, "one is given up")
        hand.set(queue__capacity=50)
        assert oracles(folder) == {"oracle-0"}
        assert "started oracle-2" in hand.do("scale", kernel="oracle", count=2)
        eventually(lambda: oracles(folder) == {"oracle-0", "oracle-2"}, "two again")

    during(folder, deed, oracle={"workers": 2}, restart={"budget": 0})


def oracles(folder: Path) -> set[str]:
    return {name for name in processes_of(folder).values() if name.startswith("oracle")}


def test_walkers_come_and_go(tmp_path: Path, folder: Path, hand: Hand) -> None:
    def steps(walker: int) -> list[int]:
        log = tmp_path / f"steps-{walker}"
        return [int(line.split()[1]) for line in log.read_text().splitlines()]

    def moving(walker: int) -> None:
        log = tmp_path / f"steps-{walker}"
        eventually(lambda: log.exists() and len(steps(walker)) > 3, f"walker {walker} moves")

    def deed() -> None:
        moving(1)
        told = hand.do("scale", kernel="generator", count=3)
        assert told == "generator.walkers = 3; started exchange-1, generator-2"
        moving(2)
        eventually(lambda: number_of_labels(folder) > 2, "labels")
        told = hand.do("scale", kernel="generator", count=1)
        assert told.endswith("let go generator-2, generator-1")
        eventually(
            lambda: (
                not {"generator-1", "generator-2", "exchange-1"} & {*processes_of(folder).values()}
            ),
            "they have gone, the committee of the last with them",
        )
        last = steps(1)[-1]
        hand.do("scale", kernel="generator", count=2)
        eventually(lambda: steps(1)[-1] > last, "walker 1 again")
        assert last + 1 in steps(1), "it goes on where it stood"
        assert "greater than 0" in hand.refused("scale", kernel="generator", count=0)

    walk = {"kernel": "toys:Stateful", "options": {"log": str(tmp_path), "pause": 0.005}}
    done = during(folder, deed, generator=walk | {"walkers": 2})
    assert done.last.restarts == 0


def test_walkers_that_share_a_process_go_with_it(folder: Path, hand: Hand) -> None:
    def deed() -> None:
        hand.some(State.LABELLED)
        told = hand.refused("scale", kernel="generator", count=3)
        assert "3 walkers cannot be had" in told
        assert "possible: 2" in told
        hand.do("scale", kernel="generator", count=2)
        before = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) > before + 2, "labels go on")

    during(folder, deed, generator={"walkers": 4, "hosts": 2, "options": {"pause": 0.005}})


def test_idle_workers_move_to_another_kernel(tmp_path: Path, folder: Path, hand: Hand) -> None:
    def deed() -> None:
        eventually(lambda: len(hand.states(State.RUNNING)) == 3, "three labels at once")
        told = hand.refused("move", count=1, source="oracle", target="generator")
        assert "0 of 3 workers of oracle are idle" in told
        hand.do("pause", kernel="oracle")
        (tmp_path / "gate").touch()
        eventually(lambda: not hand.states(State.RUNNING, State.RETURNED), "idle oracles")
        told = hand.do("move", count=2, source="oracle", target="generator")
        assert "oracle.workers = 1, generator.walkers = 3" in told
        eventually(lambda: oracles(folder) == {"oracle-0"}, "one oracle")
        worker(folder, "generator-2")
        assert "dealt" in hand.refused("move", count=1, source="training", target="oracle")
        assert "two kernels" in hand.refused("move", count=1, source="oracle", target="oracle")

    during(folder, deed, oracle=gated(tmp_path, 3))


def test_oracles_beyond_the_job_are_freed_and_not_counted(
    tmp_path: Path, folder: Path, hand: Hand
) -> None:
    def deed() -> None:
        running = eventually(
            lambda: len(n := hand.states(State.RUNNING)) == 3 and n, "three labels at once"
        )
        told = hand.do("scale", kernel="oracle", count=2)
        assert told == "oracle.workers = 2; started oracle-3", "1 and 2 are beyond the job"
        eventually(lambda: len(hand.states(State.RUNNING)) == 4, "four labels at once")
        hand.do("drop", samples=running)
        (tmp_path / "gate").touch()
        eventually(lambda: makers(tmp_path) >= {0, 1, 2, 3}, "labels of all oracles")
        assert set(hand.states(State.DROPPED)) >= set(running)
        hand.do("scale", kernel="oracle", count=0)
        eventually(lambda: not {"oracle-0", "oracle-3"} & oracles(folder), "two have gone")
        before = number_of_labels(folder)
        eventually(lambda: number_of_labels(folder) > before + 4, "labels by those beyond")

    beyond = {
        "executor": "concurrent.futures:ProcessPoolExecutor",
        "executor_options": {"max_workers": 2},
        "outside": 2,
    }
    during(folder, deed, oracle=gated(tmp_path) | beyond)


# Requests -------------------------------------------------------------------------------------


def test_requests_that_make_no_sense_are_answered(folder: Path, hand: Hand) -> None:
    def deed() -> None:
        hand.some(State.LABELLED)
        assert "does not know the deed 'dance'" in hand.refused("dance")
        assert "makes no sense" in hand.refused("drop", numbers=[1])
        assert "cannot be paused" in hand.refused("pause", kernel="lunch")
        (folder / "requests" / "0.json").write_text("{")
        eventually(lambda: not (folder / "requests" / "0.json").exists(), "a look at it")

    done = during(folder, deed)
    assert any("cannot be read" in note for note in done.notes)
    assert not list((folder / "requests").glob("*.json"))


def test_what_is_asked_of_a_campaign_that_rests_is_done_when_it_goes_on(
    folder: Path, hand: Hand
) -> None:
    calmly(folder, stop={"labels": 3})
    hand.box.leave("set", {"changes": {"stop.labels": 8}})
    done = calmly(folder, stop={"labels": 10**6})
    assert done.summary is not None
    assert done.summary.reason == "stop.labels = 8 reached"


def test_answers_nobody_reads_are_forgotten(folder: Path, hand: Hand) -> None:
    def deed() -> None:
        hand.some(State.LABELLED)
        hand.box.leave("pause", {"kernel": "training"})
        eventually(lambda: list((folder / "requests").glob("*.answer")), "an answer")

    during(folder, deed)
    calmly(folder, stop={"labels": number_of_labels(folder) + 1})
    assert not list((folder / "requests").iterdir())
