import pytest
from controller_play import Play, moves, of

from pal.controller.commands import (
    Explore,
    Finish,
    FinishTraining,
    GrantCandidates,
    KillOracle,
    StartLabel,
    State,
    Teach,
)
from pal.controller.events import StopRequested
from pal.controller.manager import PATIENCE
from pal.controller.rules import Restored, Rules
from pal.controller.stop import Progress, Verdict, judge


@pytest.mark.parametrize(
    ("rules", "progress", "reason"),
    [
        ({"after": 10.0}, Progress(elapsed=10.0), "stop.after = 10 s reached"),
        ({"labels": 5}, Progress(labels=5), "stop.labels = 5 reached"),
        ({"epochs": 5}, Progress(epochs=6), "stop.epochs = 5 reached"),
        ({"samples": 5}, Progress(samples=5), "stop.samples = 5 reached"),
        ({"quiet": 2.5}, Progress(quiet=2.5), "stop.quiet = 2.5 s reached"),
        ({"after": 10.0}, Progress(elapsed=9.9), None),
        ({"labels": 5}, Progress(labels=4), None),
        ({"failures": 3}, Progress(failures=2), None),
        ({}, Progress(1e9, 10**9, 10**9, 10**9, 1e9, 19), None),
    ],
)
def test_each_rule_stops_at_its_limit(rules, progress, reason):
    verdict = judge(Rules(**rules), progress)
    assert verdict == (None if reason is None else Verdict(reason))


def test_failures_in_a_row_and_barren_initial_samples_are_failures():
    verdict = judge(Rules(failures=3), Progress(failures=3, last_failure="sample 7, boom"))
    assert verdict.failed
    assert "3 labels failed in a row" in verdict.reason
    assert "sample 7, boom" in verdict.reason
    assert judge(Rules(failures=None), Progress(barren=True)).failed


def test_a_success_interrupts_a_row_of_failures():
    play = Play(oracle_retries=0, failures=2)
    play.oracle(0)
    play.propose(1, 2, 3, 4)
    play.fails(0, 1)
    play.returns(0, 2)
    play.fails(0, 3)
    assert not play.manager.stop_reason
    play.durable(2)
    assert of(Finish, play.fails(0, 4))[0].failed


def test_a_campaign_whose_initial_samples_all_fail_ends_with_the_reason():
    play = Play(initial_labels=2, oracle_retries=0)
    play.oracle(0)
    play.trainer()
    play.initial(0, 1)
    play.fails(0, 0)
    (finish,) = of(Finish, play.fails(0, 1))
    assert finish.failed
    assert "initial samples" in finish.reason


def test_time_samples_and_epochs_count_over_all_sessions():
    past = Restored(samples=90, epochs=8, elapsed=100.0)
    play = Play(past, after=150.0, samples=100, epochs=10)
    play.time = 100.0
    play.tick()
    assert play.manager.elapsed == 100.0
    play.tick(40.0)
    assert play.manager.elapsed == 140.0
    play.explored(9, 1)
    play.epoch()
    assert not play.manager.stop_reason
    play.epoch()
    assert play.manager.stop_reason == "stop.epochs = 10 reached"
    assert play.manager.counts.samples == 99


def test_epochs_are_those_of_the_busiest_trainer():
    play = Play(trainers=((0,), (1,)), epochs=3)
    for trainer in (0, 1, 0, 1):
        play.epoch(trainer)
    assert play.manager.counts.epochs == 2
    assert not play.manager.stop_reason


def test_no_more_labels_are_started_than_the_rule_wants():
    play = Play(labels=2)
    play.oracle(0, 1, 2)
    orders = play.propose(1, 2, 3)
    assert len(of(StartLabel, orders)) == 2
    play.returns(0, 1)
    assert of(StartLabel, play.fails(1, 2)), "a failure makes room for another"
    play.durable(1)
    play.returns(2, 2)
    assert of(Finish, play.durable(2))
    assert play.state(3) is State.QUEUED


def test_quiet_counts_only_while_walkers_explore_and_nothing_is_on_its_way():
    play = Play(quiet=10.0, initial_labels=1)
    play.oracle(0)
    play.initial(0)
    play.tick(50.0)
    play.label(0, 0)
    play.tick(50.0)
    play.weights(1)
    play.tick(9.0)
    play.explored(5, uncertain=1)
    play.tick(9.0)
    play.propose(1)
    play.tick(30.0)
    play.label(0, 1)
    play.tick(9.0)
    assert not play.manager.stop_reason
    play.tick(1.0)
    assert play.manager.stop_reason == "stop.quiet = 10 s reached"


def test_pure_exploration_drops_candidates_and_stops_when_it_goes_quiet():
    play = Play(labelling=False, training=False, quiet=5.0)
    play.tick()
    orders = play.propose(1)
    assert [(o.state, o.detail) for o in orders] == [(State.DROPPED, "labelling is off")]
    assert of(GrantCandidates, play.orders) == []
    assert of(Finish, play.tick(5.0))


def test_without_anything_to_wait_for_the_end_comes_at_once():
    play = Play()
    play.tick()
    assert play.stop("walker 3 is done") == [Explore(False), Finish("walker 3 is done")]
    assert play.manager.phase == "finished"
    assert play.tick(1.0) == [], "a finished campaign orders nothing"


def ending(**rules):
    """Oracles 0 and 1 run samples 1 and 2, 3 waits, the trainer is busy with 0; then a stop."""
    play = Play(retrain_size=1, grace=30.0, final_training=20.0, **rules)
    play.trainer()
    play.oracle(0)
    play.propose(0)
    play.label(0, 0)
    play.trained()
    play.oracle(1)
    play.propose(1, 2, 3)
    play.orders.clear()
    play.stop()
    return play


def test_an_orderly_end_keeps_finished_work_and_requeues_the_rest():
    play = ending()
    assert play.orders == [Explore(False)]
    play.tick(10.0)
    play.returns(0, 1)
    assert play.state(3) is State.QUEUED, "nothing new starts"
    assert play.propose(4)[0].detail == "the campaign is ending"
    play.durable(1)
    assert of(Teach, play.orders) == [], "untaught labels are taught in one go"
    orders = play.tick(20.0)
    assert of(KillOracle, orders) == [KillOracle(1, "the campaign ends")]
    assert moves(orders) == [(2, "queued")]
    assert [teach.add for teach in of(Teach, orders)] == [(1,)]
    assert play.manager.phase == "final training"
    assert play.tick(19.0) == []
    assert of(FinishTraining, play.tick(1.0)) == [FinishTraining(0)]
    assert play.trained() == [Finish("a walker asked")]


def test_the_end_does_not_wait_longer_than_needed():
    play = ending()
    play.returns(0, 1)
    play.returns(1, 2)
    assert of(Teach, play.durable(1)) == [], "the other label is not on disk yet"
    assert of(Teach, play.durable(2))
    assert play.trained() == [Finish("a walker asked")]


def test_a_second_request_leaves_out_grace_and_final_training():
    play = ending()
    play.returns(0, 1)
    play.durable(1)
    orders = play.stop("again")
    assert moves(orders) == [(2, "queued")]
    assert of(Teach, orders) == []
    assert orders[-1] == Finish("a walker asked"), "the first reason stands"


def test_walkers_that_ask_one_after_the_other_do_not_hurry_the_end():
    play = ending()
    assert play.send(StopRequested(play.time, "walker 4 asked", patient=True)) == []
    assert play.state(1) is State.RUNNING
    assert play.manager.stop_reason == "a walker asked"


def test_a_second_request_cuts_the_final_training_short():
    play = ending()
    play.label(0, 1)
    play.label(1, 2)
    assert play.stop() == [FinishTraining(0)]
    assert play.trained() == [Finish("a walker asked")]


def test_lost_oracles_and_trainers_do_not_hold_the_end():
    play = ending()
    play.lose_oracle(0)
    play.label(1, 2)
    assert play.state(1) is State.QUEUED
    assert play.lose_trainer() == [Finish("a walker asked")]


def test_a_silent_disk_and_a_silent_trainer_do_not_hold_the_end():
    play = ending()
    play.returns(0, 1)
    play.tick(30.0)
    assert play.manager.phase == "finishing labels"
    play.trainer()
    play.tick(PATIENCE)
    assert play.manager.phase == "collecting weights", "nothing to train on"
    assert of(Finish, play.tick(PATIENCE)), "the label stays returned"
    assert play.state(1) is State.RETURNED

    play = ending()
    play.label(0, 1)
    play.tick(30.0)
    play.tick(20.0)
    assert play.manager.phase == "collecting weights"
    assert of(Finish, play.tick(PATIENCE))


def test_with_training_off_the_end_has_no_final_training():
    play = Play(training=False)
    play.oracle(0)
    play.propose(1)
    play.stop()
    play.returns(0, 1)
    assert play.durable(1)[-1] == Finish("a walker asked")


def test_a_stop_before_the_start_leaves_all_in_the_queue():
    play = Play(Restored(labelled=(1, 2, 3), proposed=3), labels=3)
    assert play.tick() == [Finish("stop.labels = 3 reached")]


def drain(play, patient=True):
    return play.send(StopRequested(play.time, "the job ends", patient, continued=True))


def test_a_pause_between_two_jobs_keeps_labels_and_trains_no_more():
    play = Play(retrain_size=1, grace=30.0, final_training=20.0)
    play.trainer()
    play.oracle(0)
    play.propose(0)
    play.label(0, 0)
    play.trained()
    play.oracle(1)
    play.propose(1, 2)
    assert drain(play) == [Explore(False)]
    play.label(0, 1)
    orders = play.tick(30.0)
    assert moves(orders) == [(2, "queued")]
    assert of(Teach, orders) == []
    assert orders[-1] == Finish("the job ends", continued=True)


def test_an_operator_who_stops_during_a_pause_ends_the_campaign():
    play = Play()
    play.oracle(0)
    play.propose(1)
    drain(play)
    assert drain(play) == [], "the signal of the batch system comes beside the clock"
    assert play.stop("enough")[-1] == Finish("enough")


def test_a_walker_that_stops_during_a_pause_can_say_so_again_in_the_next_job():
    play = Play()
    play.oracle(0)
    play.propose(1)
    drain(play)
    play.send(StopRequested(play.time, "walker 4 asked", patient=True))
    play.returns(0, 1)
    assert play.durable(1)[-1] == Finish("the job ends", continued=True)


def test_a_campaign_at_its_end_hurries_when_the_job_ends():
    play = ending()
    orders = drain(play)
    assert sorted(moves(orders)) == [(1, "queued"), (2, "queued")]
    assert orders[-1] == Finish("a walker asked")


def test_a_pause_hurries_when_the_time_is_over():
    play = Play()
    play.oracle(0)
    play.propose(1)
    drain(play)
    assert drain(play, patient=False)[-1] == Finish("the job ends", continued=True)
