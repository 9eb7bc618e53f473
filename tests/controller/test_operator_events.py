"""What the operator may do to samples, kernels, oracles and rules while a campaign runs."""

import pytest
from controller_play import BY, Play, moves, of

from pal.controller.commands import (
    CommitLabel,
    Explore,
    FinishTraining,
    KillOracle,
    Move,
    RetireOracle,
    StartLabel,
    State,
    Teach,
)
from pal.controller.rules import INITIAL, Restored


def busy(**rules):
    """Sample 1 runs on oracle 0, samples 2 and 3 wait."""
    play = Play(**rules)
    play.oracle(0)
    play.propose(1, 2, 3)
    return play


def ended(state):
    """A play in which sample 1 has ended so, and the oracle is free again."""
    play = Play(oracle_retries=0)
    play.oracle(0)
    play.propose(1)
    if state is State.FAILED:
        play.fails(0, 1)
    elif state is State.QUARANTINED:
        play.lose_oracle(0)
        play.oracle(0)
    else:
        play.drop(1)
        play.lose_oracle(0)
        play.oracle(0)
    assert play.state(1) is state
    return play


def test_a_waiting_sample_is_dropped():
    play = busy()
    (move,) = of(Move, play.drop(2))
    assert (move.sample, move.state, move.detail) == (2, State.DROPPED, f"by {BY}")
    assert [s.sample for s in of(StartLabel, play.label(0, 1))] == [3]


def test_a_running_sample_is_dropped_with_its_oracle():
    play = busy()
    orders = play.drop(1)
    assert [k.oracle for k in of(KillOracle, orders)] == [0]
    assert play.state(1) is State.DROPPED
    assert not play.lose_oracle(0), "its death is no failure of anything"
    assert [s.sample for s in of(StartLabel, play.oracle(0))] == [2]


def test_a_label_that_comes_for_a_dropped_sample_is_ignored():
    play = busy()
    play.drop(1)
    assert not play.returns(0, 1)
    assert play.state(1) is State.DROPPED


@pytest.mark.parametrize("state", [State.FAILED, State.QUARANTINED, State.DROPPED])
def test_a_sample_that_ended_is_tried_anew(state):
    play = ended(state)
    orders = play.requeue(1)
    assert moves(orders) == [(1, "queued"), (1, "running")]
    assert [s.attempt for s in of(StartLabel, orders)] == [1]
    counts = play.manager.counts
    assert (counts.failed, counts.quarantined, counts.dropped) == (0, 0, 0)
    play.label(0, 1)
    assert play.state(1) is State.LABELLED


def test_a_sample_of_an_earlier_session_is_tried_anew():
    play = Play(Restored(failed=1, proposed=1))
    play.oracle(0)
    assert [s.sample for s in of(StartLabel, play.requeue(1, State.FAILED))] == [1]
    assert play.manager.counts.failed == 0


def test_a_running_sample_is_tried_anew_elsewhere():
    play = busy()
    orders = play.requeue(1)
    assert [k.oracle for k in of(KillOracle, orders)] == [0]
    play.lose_oracle(0)
    assert [(s.sample, s.attempt) for s in of(StartLabel, play.oracle(1))] == [(1, 1)]


def test_what_is_labelled_or_waits_already_is_not_queued_again():
    play = busy()
    play.label(0, 1)
    assert not play.requeue(1)
    assert not play.requeue(3)


def test_a_requeued_sample_comes_next_and_gives_way_to_none():
    play = Play(oracle_retries=0, queue_capacity=2, when_full="drop_old")
    play.oracle(0)
    play.propose(1)
    play.fails(0, 1)
    play.propose(2)  # it runs, and two more fill the queue
    play.propose(3, 4)
    play.requeue(1)
    play.propose(5, 6)
    assert play.state(1) is State.QUEUED
    assert [s.sample for s in of(StartLabel, play.label(0, 2))] == [1]


@pytest.mark.parametrize("state", [State.FAILED, State.QUARANTINED, State.DROPPED])
def test_a_label_by_hand_counts_once_it_is_on_disk(state):
    play = ended(state)
    assert [c.sample for c in of(CommitLabel, play.give(1))] == [1]
    assert (play.state(1), play.manager.counts.labelled) == (State.RETURNED, 0)
    play.durable(1)
    assert (play.state(1), play.manager.counts.labelled) == (State.LABELLED, 1)
    assert not play.give(1), "it has its label"


def test_a_label_by_hand_for_a_sample_that_waits_or_runs():
    play = busy()
    assert [k.oracle for k in of(KillOracle, play.give(1))] == [0]
    play.give(3)
    play.durable(1, 3)
    assert play.manager.counts.labelled == 2
    play.lose_oracle(0)
    assert [s.sample for s in of(StartLabel, play.oracle(0))] == [2]


def test_an_initial_sample_that_is_tried_anew_is_waited_for():
    play = Play(oracle_retries=0, initial_labels=2)
    play.oracle(0)
    play.initial(1, 2)
    play.fails(0, 1)
    play.requeue(1, walker=INITIAL)
    play.label(0, 2)
    assert not play.manager.labelling.initial_done
    play.label(0, 1)
    assert play.manager.labelling.initial_done


def test_an_initial_sample_that_was_dropped_is_not_waited_for_after_a_restart():
    play = Play(Restored(dropped=1, labelled=(1,)), initial_labels=2)
    assert play.manager.labelling.initial_done


def test_paused_oracles_finish_what_they_have_and_start_nothing():
    play = busy()
    play.pause("oracle")
    assert not of(StartLabel, play.label(0, 1))
    assert "oracle paused" in play.manager.phase
    assert [s.sample for s in of(StartLabel, play.pause("oracle", on=False))] == [2]


def test_paused_walkers_are_held():
    play = Play()
    play.tick()
    assert [order.on for order in of(Explore, play.pause("generator"))] == [False]
    assert [order.on for order in of(Explore, play.pause("generator", on=False))] == [True]


def test_paused_training_ends_its_epoch_and_goes_on_with_what_has_come():
    play = Play(retrain_size=1)
    play.oracle(0)
    play.trainer(0)
    play.propose(1, 2)
    play.label(0, 1)
    assert of(FinishTraining, play.pause("training"))
    play.trained()
    assert not of(Teach, play.label(0, 2)), "no lesson while it is paused"
    assert [lesson.add for lesson in of(Teach, play.pause("training", on=False))] == [(2,)]


def test_the_end_leaves_training_alone_where_it_is_paused():
    play = Play(retrain_size=10)
    play.oracle(0)
    play.trainer(0)
    play.propose(1)
    play.label(0, 1)
    play.pause("training")
    assert not of(Teach, play.stop())
    assert play.manager.finished


def test_an_idle_oracle_retires_at_once_and_a_busy_one_after_its_label():
    play = busy()
    play.label(0, 1, 2, 3)
    assert of(RetireOracle, play.retire(0)) == [RetireOracle(0)]
    play.oracle(1)
    play.propose(4, 5)
    assert not play.retire(1)
    assert of(RetireOracle, play.label(1, 4)) == [RetireOracle(1)]
    assert play.state(5) is State.QUEUED


def test_an_oracle_that_dies_before_it_retires_goes_when_it_is_back():
    play = busy()
    play.retire(0)
    play.lose_oracle(0)
    assert of(RetireOracle, play.oracle(0)) == [RetireOracle(0)]


def test_a_grown_queue_takes_more_and_a_shrunk_one_drops_nothing_that_waits():
    play = Play(queue_capacity=2, when_full="drop_new")
    play.propose(1, 2, 3)
    play.change(queue_capacity=4)
    play.propose(4, 5)
    play.change(queue_capacity=1)
    waiting = [n for n in (1, 2, 3, 4, 5) if play.state(n) is State.QUEUED]
    assert waiting == [1, 2, 4, 5]
    play.propose(6)
    assert play.state(6) is State.DROPPED


def test_a_window_that_changes_is_kept_from_the_next_lesson_on():
    play = Play(retrain_size=1, window=2)
    play.oracle(0)
    play.trainer(0)
    play.propose(*range(6))
    play.label(0, 0, 1, 2)
    play.change(window=None)
    (lesson,) = of(Teach, play.label(0, 3))
    assert (set(lesson.add), lesson.remove) == ({0, 3}, ())
    play.change(window=1)
    (lesson,) = of(Teach, play.label(0, 4))
    assert (lesson.add, lesson.remove) == ((4,), (0, 1, 2, 3))


def test_a_lowered_stop_rule_ends_the_campaign():
    play = busy(labels=100)
    play.label(0, 1)
    play.change(labels=1)
    assert play.manager.stop_reason == "stop.labels = 1 reached"
