from controller_play import Play, candidate, failure, moves, of

from pal.controller import events as ev
from pal.controller.commands import CommitLabel, KillOracle, StartLabel, State
from pal.controller.oracles import OraclePool
from pal.controller.queue import Entry
from pal.controller.rules import LOSSES, Restored


def starts(orders):
    return [(start.oracle, start.sample, start.attempt) for start in of(StartLabel, orders)]


def test_a_sample_and_a_free_oracle_meet_at_once_whoever_comes_first():
    play = Play()
    assert starts(play.propose(1)) == []
    assert starts(play.oracle(0)) == [(0, 1, 1)]
    play.oracle(1)
    assert starts(play.propose(2)) == [(1, 2, 1)]


def test_an_oracle_gets_its_next_sample_while_its_label_goes_to_disk():
    play = Play()
    play.oracle(0)
    play.propose(1, 2)
    orders = play.returns(0, 1)
    assert moves(orders)[0] == (1, "returned")
    assert of(CommitLabel, orders) == [CommitLabel(1)]
    assert starts(orders) == [(0, 2, 1)]
    assert play.state(1) is State.RETURNED
    assert moves(play.durable(1)) == [(1, "labelled")]


def test_late_and_double_answers_change_nothing():
    play = Play()
    play.oracle(0, 1)
    play.propose(1)
    assert play.returns(1, 1) == [], "it runs on oracle 0"
    play.returns(0, 1)
    assert play.returns(0, 1) == []
    assert play.fails(0, 1) == []
    play.durable(1)
    assert moves(play.durable(1, 99)) == []
    assert play.manager.counts.labelled == 1


def test_a_failed_label_is_tried_elsewhere_before_anything_else():
    play = Play(oracle_retries=1)
    play.oracle(0)
    play.propose(1, 2, 3)
    play.oracle(1)
    # Oracle 0 fails sample 1 and takes another; oracle 1, free next, takes the failed one.
    assert starts(play.fails(0, 1)) == [(0, 3, 1)]
    assert starts(play.returns(1, 2)) == [(1, 1, 2)]


def test_with_no_other_oracle_alive_the_same_one_tries_again():
    play = Play(oracle_retries=1)
    play.oracle(0)
    play.propose(1)
    assert starts(play.fails(0, 1)) == [(0, 1, 2)]


def test_a_failed_label_waits_for_a_busy_oracle_until_that_one_dies():
    play = Play(oracle_retries=1)
    play.oracle(0, 1)
    play.propose(1, 2)
    assert starts(play.fails(0, 1)) == []
    assert starts(play.lose_oracle(1)) == [(0, 1, 2)]


def test_after_its_retries_a_sample_fails_or_is_quarantined_and_the_campaign_goes_on():
    failing, poisoned, mixed = 1, 2, 3
    play = Play(oracle_retries=1)
    play.oracle(0)
    play.propose(failing, poisoned, mixed)
    play.fails(0, failing)
    play.fails(0, failing)
    assert play.state(failing) is State.FAILED
    for _ in range(2):
        play.lose_oracle(0)
        play.oracle(0)
    assert play.state(poisoned) is State.QUARANTINED
    play.lose_oracle(0)
    play.oracle(0)
    orders = play.fails(0, mixed)
    assert play.state(mixed) is State.FAILED, "an oracle survived it"
    assert "attempt 2 on oracle 0: RuntimeError: not converged" in orders[0].detail
    assert not play.manager.ending


def test_an_oracle_lost_without_work_is_only_gone():
    play = Play()
    play.oracle(0)
    assert moves(play.lose_oracle(0)) == []
    assert starts(play.propose(1)) == []


def test_an_oracle_that_starts_again_unannounced_had_lost_its_label():
    play = Play()
    play.oracle(0)
    play.propose(1)
    orders = play.oracle(0)
    assert moves(orders) == [(1, "queued"), (1, "running")]
    assert starts(orders) == [(0, 1, 2)]


def test_a_label_past_its_deadline_is_killed_once():
    play = Play(oracle_deadline=10.0)
    play.oracle(0)
    play.propose(1, 2)
    assert of(KillOracle, play.tick(9.9)) == []
    (kill,) = of(KillOracle, play.tick(0.1))
    assert kill.oracle == 0
    assert "10.0 s" in kill.reason
    assert play.tick(5.0) == []
    assert play.state(1) is State.RUNNING
    assert starts(play.lose_oracle(0)) == []
    assert starts(play.oracle(0)) == [(0, 1, 2)]


def test_an_answer_that_overtakes_the_kill_counts_but_its_oracle_is_not_free():
    play = Play(oracle_deadline=10.0)
    play.oracle(0)
    play.propose(1, 2)
    play.tick(10.0)
    orders = play.returns(0, 1)
    assert of(CommitLabel, orders) == [CommitLabel(1)]
    assert starts(orders) == [], "it is about to die"
    assert moves(play.lose_oracle(0)) == []
    assert starts(play.oracle(0)) == [(0, 2, 1)]


def test_an_answer_after_the_deadlines_kill_is_ignored():
    play = Play(oracle_deadline=10.0)
    play.oracle(0)
    play.propose(1)
    play.tick(10.0)
    play.lose_oracle(0)
    assert play.returns(0, 1) == []
    assert play.state(1) is State.QUEUED


def test_deadlines_are_found_in_the_order_of_the_starts():
    pool = OraclePool(5.0)
    for oracle in (2, 0, 1):
        pool.ready(oracle)
        pool.start(oracle, Entry(candidate(oracle)), float(oracle))
    assert pool.overdue(5.0) == [], "oracle 2 started last but is first: time never runs back"
    pool.lost(2)
    assert pool.overdue(5.5) == [0]
    assert pool.overdue(6.0) == [1]


def test_samples_running_at_a_crash_go_first_and_keep_their_attempts():
    restored = Restored(queued=((candidate(5), 0), (candidate(6), 1)), labelled=(1, 2))
    play = Play(restored, oracle_retries=1)
    assert starts(play.oracle(0)) == [(0, 6, 2)]
    assert moves(play.fails(0, 6))[0] == (6, "failed")
    assert play.manager.counts.labelled == 2
    assert moves(play.propose(1, 2, 5)) == [], "known from the earlier session"


def test_what_the_physics_refuses_is_not_tried_again():
    play = Play(oracle_retries=3)
    play.oracle(0)
    play.propose(1)
    play.send(ev.LabelFailed(play.time, 0, 1, failure("LabelFailure")))
    assert play.state(1) is State.FAILED


def test_oracles_that_watch_over_the_deadline_themselves_are_left_alone():
    pool = OraclePool(5.0, outside=(1, 2))
    for oracle in (1, 0):
        pool.ready(oracle)
        pool.start(oracle, Entry(candidate(oracle)), now=0.0)
    assert pool.overdue(4.0) == []
    assert pool.overdue(100.0) == [0]
    assert pool.answered(1, 1) is not None


def test_a_sample_that_is_lost_with_what_it_ran_on_is_tried_again_for_long():
    """A block of a batch system ends when its time is up, whatever runs there."""
    play = Play(oracle_retries=1)
    play.propose(1)
    tries = 0
    while play.state(1) is not State.QUARANTINED:
        assert starts(play.oracle(0)) == [(0, 1, tries + 1)]
        tries += 1
        play.send(ev.OracleLost(play.time, 0, failure("lost")))
    assert tries == 1 + 1 + LOSSES


def test_losses_do_not_excuse_crashes():
    play = Play(oracle_retries=1)
    play.propose(1)
    for kind, state in (
        ("lost", State.QUEUED),
        ("crash", State.QUEUED),
        ("crash", State.QUARANTINED),
    ):
        play.oracle(0)
        play.send(ev.OracleLost(play.time, 0, failure(kind)))
        assert play.state(1) is state


def test_what_failed_on_a_node_is_tried_on_another_first() -> None:
    """Oracles 0 and 1 are on one node, 2 and 3 on another, 4 beyond the job."""
    pool = OraclePool(None, outside=(4,), nodes=(0, 0, 1, 1))
    for oracle in (0, 1, 3):
        pool.ready(oracle)
    assert pool.choose(frozenset()) == 0
    assert pool.choose(frozenset({0})) == 3
    pool.start(3, Entry(candidate(1)), 0.0)
    assert pool.choose(frozenset({0})) is None, "it waits for the other node"
    pool.ready(4)
    assert pool.choose(frozenset({0})) == 4
    assert pool.choose(frozenset({0, 3})) == 4
    pool.start(4, Entry(candidate(2)), 0.0)
    pool.lost(4)
    assert pool.choose(frozenset({0, 3})) == 1, "no third node lives"
    pool.lost(3)
    assert pool.choose(frozenset({0})) == 1
    assert pool.choose(frozenset({0, 1})) == 0, "nobody else lives"
