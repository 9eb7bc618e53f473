import pytest
from controller_play import Play, candidate, failure, moves, of

from pal.controller import events as ev
from pal.controller.commands import Explore, Finish, GrantCandidates, Move, StartLabel, Teach
from pal.controller.invariants import InvariantError, validate
from pal.controller.manager import Manager
from pal.controller.rules import Restored, Rules


def grants(orders):
    return [grant.total for grant in of(GrantCandidates, orders)]


def test_grants_follow_the_free_places_of_the_queue_in_worthwhile_steps():
    play = Play(queue_capacity=16)
    assert grants(play.tick()) == [16]
    assert grants(play.propose(*range(15))) == []
    assert grants(play.oracle(0)) == [], "one more place is not worth a message"
    assert grants(play.oracle(1)) == [18]
    assert grants(play.propose(15, 16, 17)) == []
    assert grants(play.oracle(2)) == [19], "all are used up: every place counts"


def test_grants_count_the_candidates_of_earlier_sessions():
    past = Restored(queued=((candidate(40), 0),), proposed=50)
    assert grants(Play(past, queue_capacity=10).tick()) == [59]


def test_initial_samples_take_no_place_from_the_walkers():
    play = Play(queue_capacity=4, initial_labels=9)
    play.initial(*range(9))
    assert play.manager.counts.queued == 9
    assert grants(play.orders) == [4]
    assert play.manager.counts.proposed == 0


def test_no_grants_after_the_stop():
    play = Play(queue_capacity=4)
    play.oracle(0)
    play.propose(1)
    play.orders.clear()
    play.stop()
    play.fails(0, 1)
    assert grants(play.orders) == []


def test_candidates_delivered_twice_count_once():
    play = Play()
    assert moves(play.propose(1, 2)) == [(1, "queued"), (2, "queued")]
    assert play.propose(2, 1) == []
    assert play.manager.counts.proposed == 2


def test_a_dropped_candidate_is_told_with_its_reason():
    play = Play(queue_capacity=1, when_full="drop_old")
    orders = play.propose(1, 2)
    told = [(move.sample, str(move.state), move.detail) for move in of(Move, orders)]
    assert told == [
        (1, "queued", ""),
        (2, "queued", ""),
        (1, "dropped", "queue full, drop_old"),
    ]


def test_the_phase_tells_what_the_campaign_is_at():
    play = Play(initial_labels=1)
    phases = [play.manager.phase]
    for step in (
        play.tick,
        lambda: play.oracle(0),
        lambda: play.trainer(),
        lambda: play.initial(0),
        lambda: play.label(0, 0),
        lambda: play.weights(1),
        play.stop,
        lambda: play.trained(),
    ):
        step()
        if play.manager.phase != phases[-1]:
            phases.append(play.manager.phase)
    assert phases == [
        "starting",
        "labelling initial samples",
        "first training",
        "running",
        "final training",
        "finished",
    ]


def test_time_never_runs_back():
    play = Play(oracle_deadline=10.0)
    play.tick(5.0)
    play.tick(-3.0)
    assert play.manager.elapsed == 0.0
    play.tick(4.0)
    assert play.manager.elapsed == 1.0


# The serial loop ---------------------------------------------------------------------------


def test_the_serial_loop_does_one_thing_at_a_time():
    play = Play(serial=True, retrain_size=2, queue_capacity=8)
    play.trainer()
    assert play.orders == [Explore(True), GrantCandidates(2)]
    play.oracle(0, 1)
    assert of(StartLabel, play.propose(10)) == [], "oracles wait for the full set"
    orders = play.propose(11)
    assert of(Explore, orders) == [Explore(False)]
    assert [start.sample for start in of(StartLabel, orders)] == [10, 11]
    play.label(0, 10)
    assert of(Teach, play.orders) == []
    assert [teach.add for teach in of(Teach, play.label(1, 11))] == [(10, 11)]
    assert play.weights(1) == [], "weights from amid the training"
    assert play.trained() == [], "not yet installed"
    assert play.weights(2) == [Explore(True), GrantCandidates(4)]


def test_the_serial_loop_begins_with_the_initial_labels():
    play = Play(serial=True, initial_labels=2, retrain_size=5)
    play.trainer()
    play.tick()
    assert play.orders == []
    play.initial(0, 1)
    assert [start.sample for start in of(StartLabel, play.oracle(0))] == [0]
    play.label(0, 0)
    assert of(Teach, play.label(0, 1))
    assert play.manager.phase == "training"
    play.trained()
    assert of(Explore, play.weights(1)) == [Explore(True)]


def test_the_serial_loop_waits_for_every_trainer_and_survives_a_lost_one():
    play = Play(serial=True, retrain_size=1, trainers=((0,), (1,)))
    play.trainer(0)
    play.trainer(1)
    play.oracle(0)
    play.propose(1)
    play.label(0, 1)
    play.trained(0)
    play.weights(1)
    play.lose_trainer(1)
    play.weights(2)
    assert play.manager.phase == "training"
    assert [teach.add for teach in of(Teach, play.trainer(1))] == [(1,)]
    play.trained(1)
    assert of(Explore, play.weights(3)) == [Explore(True)]


def test_weights_installed_before_their_round_was_reported_count_too():
    play = Play(serial=True, retrain_size=1)
    play.trainer()
    play.oracle(0)
    play.propose(1)
    play.label(0, 1)
    play.weights(4)
    assert of(Explore, play.trained(version=4)) == [Explore(True)]


def test_the_answer_to_an_earlier_round_does_not_end_this_one():
    play = Play(retrain_size=1, final_training=50.0)
    play.trainer()
    play.oracle(0)
    play.propose(1, 2)
    play.label(0, 1, 2)
    play.send(ev.TrainingDone(0.0, 0, 1))
    assert play.manager.training.busy == [0]
    play.stop()
    assert of(Finish, play.trained())


def test_the_serial_loop_goes_on_when_every_label_failed():
    play = Play(serial=True, retrain_size=1, oracle_retries=0)
    play.trainer()
    play.oracle(0)
    play.propose(1)
    assert of(Explore, play.fails(0, 1)) == [Explore(True)]
    assert grants(play.orders) == [1, 2]


def test_a_resumed_serial_loop_labels_trains_and_then_explores():
    past = Restored(queued=((candidate(5), 1),), labelled=(1, 2), proposed=3)
    play = Play(past, serial=True, retrain_size=2)
    play.trainer()
    play.weights(9)
    assert [start.sample for start in of(StartLabel, play.oracle(0))] == [5]
    assert [teach.add for teach in of(Teach, play.label(0, 5))] == [(1, 2, 5)]
    play.trained()
    assert grants(play.weights(10)) == [5]


def test_a_serial_loop_resumed_without_a_queue_trains_before_it_explores():
    play = Play(Restored(labelled=(1, 2)), serial=True, retrain_size=5)
    play.oracle(0)
    assert [teach.add for teach in of(Teach, play.trainer())] == [(1, 2)]
    assert of(Explore, play.orders) == []


def test_a_serial_set_is_never_larger_than_the_queue():
    play = Play(serial=True, retrain_size=50, queue_capacity=3)
    assert grants(play.tick()) == [3]


# What validate finds -------------------------------------------------------------------------


def busy():
    play = Play(n_oracles=1, queue_capacity=4, window=1, retrain_size=1)
    play.trainer()
    play.oracle(0)
    play.propose(0, 1, 2)
    play.label(0, 0)
    return play


BREAKAGES = {
    "in more than one place": lambda m: m.labelling.returned.update({1: object(), 2: object()}),
    "where their state says": lambda m: m.labelling.states.pop(2),
    "the queue counts": lambda m: setattr(m.labelling.queue, "_counted", 9),
    "samples wait or run": lambda m: setattr(m.labelling.queue, "widest", -9),
    "more than one state": lambda m: m.labelling.oracles.free.update({0: None}),
    "waits while an oracle is free": lambda m: m.labelling.oracles.ready(3),
    "in the dataset twice": lambda m: m.training.dataset.append(0),
    "the dataset differs": lambda m: m.training.dataset.append(77),
    "labels taught": lambda m: setattr(m.training, "taught", 5),
    "holds what is not there": lambda m: setattr(m.training.trainers[0], "last", 9),
    "is gone and busy": lambda m: setattr(m.training.trainers[0], "ready", False),
    "finished without a reason": lambda m: setattr(m, "finished", True),
}


@pytest.mark.parametrize("broken", BREAKAGES)
def test_validate_names_what_broke(broken):
    play = busy()
    BREAKAGES[broken](play.manager)
    with pytest.raises(InvariantError, match=broken):
        validate(play.manager)


def test_ten_thousand_oracles_and_a_hundred_thousand_samples_need_no_patience():
    """Work that grew with the square of either would meet the time limit of the tests."""
    oracles, samples = 10_000, 100_000
    rules = Rules(
        n_oracles=oracles,
        oracle_deadline=1e6,
        queue_capacity=samples,
        retrain_size=1000,
        failures=None,
    )
    manager = Manager(rules)
    running: list[tuple[int, int]] = []

    def send(event):
        orders = manager.handle(event)
        running.extend((o.oracle, o.sample) for o in orders if type(o) is StartLabel)

    send(ev.TrainerReady(0.0, 0))
    for first in range(0, samples, 100):
        offered = tuple(candidate(first + k, float(k)) for k in range(100))
        send(ev.CandidatesProposed(0.0, offered))
    for oracle in range(oracles):
        send(ev.OracleReady(0.0, oracle))
    while running:
        oracle, sample = running.pop()
        if sample % 100:
            send(ev.LabelReturned(1.0, oracle, sample))
            send(ev.LabelsDurable(1.0, (sample,)))
        else:
            send(ev.LabelFailed(1.0, oracle, sample, failure()))
    counts = manager.counts
    assert (counts.labelled, counts.failed) == (samples - samples // 100, samples // 100)
    validate(manager)
