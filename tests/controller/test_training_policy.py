import pytest
from controller_play import Play, candidate, of

from pal.controller.commands import Explore, RankQueue, Teach
from pal.controller.events import QueueRanked
from pal.controller.rules import Restored


def lessons(orders):
    return [(t.trainer, t.round, t.add, t.remove) for t in of(Teach, orders)]


def labelled(count, **rules):
    """A campaign with one oracle and `count` labels, and its trainers ready."""
    play = Play(trainers=((0,), (1,)), **rules)
    play.oracle(0)
    play.trainer(0)
    play.trainer(1)
    for sample in range(count):
        play.propose(sample)
        play.label(0, sample)
    return play


def test_every_so_many_labels_each_trainer_gets_what_it_lacks():
    play = labelled(2, retrain_size=3)
    assert lessons(play.orders) == []
    play.propose(2)
    assert lessons(play.label(0, 2)) == [(0, 1, (0, 1, 2), ()), (1, 1, (0, 1, 2), ())]
    for sample in (3, 4, 5):
        play.propose(sample)
        orders = play.label(0, sample)
    assert lessons(orders) == [(0, 2, (3, 4, 5), ()), (1, 2, (3, 4, 5), ())], "busy or not"


def test_labels_are_not_taught_before_they_are_on_disk():
    play = labelled(0, retrain_size=2)
    play.propose(0, 1)
    play.returns(0, 0)
    play.returns(0, 1)
    assert lessons(play.orders) == []
    assert lessons(play.durable(0, 1))[0] == (0, 1, (0, 1), ())


def test_a_restarted_trainer_gets_the_whole_window_and_others_hear_nothing():
    play = labelled(5, retrain_size=3)
    play.lose_trainer(1)
    assert lessons(play.trainer(1)) == [(1, 1, (0, 1, 2, 3, 4), ())]
    play.propose(5)
    orders = play.label(0, 5)
    assert lessons(orders) == [(0, 2, (3, 4, 5), ()), (1, 2, (5,), ())]


def test_a_rolling_window_lets_the_oldest_go():
    play = labelled(3, retrain_size=3, window=4)
    for sample in (3, 4, 5):
        play.propose(sample)
        orders = play.label(0, sample)
    assert lessons(orders)[0] == (0, 2, (3, 4, 5), (0, 1))
    play.lose_trainer(0)
    assert lessons(play.trainer(0)) == [(0, 2, (2, 3, 4, 5), ())]


def test_a_window_smaller_than_a_round_is_filled_with_the_newest():
    play = labelled(8, retrain_size=4, window=2)
    assert lessons(play.orders)[0] == (0, 1, (2, 3), ())
    assert lessons(play.orders)[2] == (0, 2, (6, 7), (2, 3))


def test_weights_begin_anew_every_so_many_rounds():
    play = labelled(7, retrain_size=1, reinitialise_every=3)
    fresh = [t.round for t in of(Teach, play.orders) if t.trainer == 0 and t.fresh]
    assert fresh == [4, 7]


def test_the_first_round_waits_for_all_initial_labels_and_takes_any_number():
    play = Play(initial_labels=3, retrain_size=2, oracle_retries=0)
    play.oracle(0)
    play.trainer()
    play.initial(0, 1, 2)
    play.label(0, 0, 1)
    assert lessons(play.orders) == []
    assert lessons(play.fails(0, 2)) == [(0, 1, (0, 1), ())], "a failed one is not waited for"


def test_later_rounds_wait_for_enough_labels_and_explored_samples_are_not_initial():
    play = Play(initial_labels=2, retrain_size=2)
    play.oracle(0)
    play.trainer()
    play.propose(5, 6)
    play.label(0, 5, 6)
    assert lessons(play.orders) == []
    play.initial(0, 1)
    play.label(0, 0)
    assert [add for _, _, add, _ in lessons(play.label(0, 1))] == [(5, 6, 0, 1)]
    play.propose(7, 8)
    assert lessons(play.label(0, 7)) == []
    assert [add for _, _, add, _ in lessons(play.label(0, 8))] == [(7, 8)]


def test_without_a_trainer_the_round_waits_for_one():
    play = Play(retrain_size=2)
    play.oracle(0)
    play.propose(0, 1)
    play.label(0, 0, 1)
    assert lessons(play.trainer()) == [(0, 1, (0, 1), ())]


def test_after_a_resume_trainers_are_taught_at_once():
    restored = Restored(labelled=(4, 2, 9))
    play = Play(restored, initial_labels=3, retrain_size=10)
    assert lessons(play.trainer()) == [(0, 1, (4, 2, 9), ())]


def test_without_training_labels_just_gather():
    play = labelled(5, training=False, retrain_size=1)
    assert of(Teach, play.orders) == []
    assert play.manager.counts.labelled == 5


def explores(orders):
    return [order.on for order in of(Explore, orders)]


@pytest.mark.parametrize(
    ("rules", "at_start"),
    [
        ({}, [True]),
        ({"initial_labels": 2}, []),
        ({"training": False}, [True]),
        ({"labelling": False}, [True]),
        ({"labelling": False, "initial_labels": 2}, [True]),
        ({"labelling": False, "initial_labels": 2, "training": False}, [True]),
    ],
)
def test_walkers_start_at_once_unless_initial_labels_are_needed(rules, at_start):
    assert explores(Play(**rules).tick()) == at_start


def test_walkers_start_when_the_committee_has_learnt_the_initial_labels():
    play = Play(initial_labels=2)
    play.oracle(0)
    play.trainer()
    play.initial(0, 1)
    play.weights(1, trained=True)
    play.label(0, 0, 1)
    assert explores(play.orders) == [], "those weights came before the labels"
    assert explores(play.weights(2, trained=False)) == []
    assert explores(play.weights(3, trained=True)) == [True]


def test_without_training_walkers_start_with_the_initial_labels():
    play = Play(initial_labels=1, training=False)
    play.oracle(0)
    play.initial(0)
    assert explores(play.label(0, 0)) == [True]


def test_after_a_resume_walkers_start_with_the_stored_weights():
    play = Play(Restored(labelled=(0, 1)), initial_labels=2)
    assert explores(play.tick()) == []
    assert explores(play.weights(7)) == [True]


def test_new_weights_rank_the_queue_without_its_initial_samples():
    play = Play(rerank=True)
    play.initial(9)
    play.propose(0)
    assert of(RankQueue, play.weights(1)) == []
    play.propose(1, 2)
    assert of(RankQueue, play.weights(2)) == [RankQueue((0, 1, 2))]
    orders = play.send(QueueRanked(0.0, (0, 1, 2), (2, 0), {2: 5.0}))
    assert [(o.sample, o.detail) for o in orders] == [(1, "ranked out")]
    assert [entry.sample for entry in play.manager.labelling.queue] == [9, 2, 0]
    assert play.manager.counts.dropped == 1


def test_a_ranking_does_not_touch_what_has_left_the_queue():
    play = Play(rerank=True)
    play.propose(0, 1, 2)
    play.weights(1)
    play.oracle(0)
    assert play.send(QueueRanked(0.0, (0, 1, 2), (2, 1), {})) == []
    assert [entry.sample for entry in play.manager.labelling.queue] == [2, 1]


def test_a_ranking_that_comes_after_the_stop_drops_nothing():
    play = Play(rerank=True)
    play.oracle(0)
    play.propose(0, 1, 2)
    play.weights(1)
    play.stop()
    assert play.send(QueueRanked(0.0, (1, 2), (2,), {})) == []
    assert play.manager.counts.queued == 2


def test_an_unranked_queue_is_left_in_order():
    play = Play()
    play.propose(0, 1)
    assert of(RankQueue, play.weights(1)) == []
    assert play.manager.labelling.queue.rankable == (candidate(0).sample, 1)
