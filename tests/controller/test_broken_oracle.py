"""An oracle that is broken does not burn the queue, and one that is mended is found out."""

import pytest
from controller_play import Play, failure, of

from pal.controller import events as ev
from pal.controller.breaker import LONGEST
from pal.controller.commands import StartLabel, State, Tell


def broken(**rules):
    """Three samples have failed in a row on one oracle; twenty more wait."""
    rules = {"oracle_retries": 0, "pause_after": 3, "probe_after": 60.0, "failures": None} | rules
    play = Play(**rules)
    play.oracle(0)
    play.propose(*range(23))
    for sample in range(3):
        play.fails(0, sample)
    return play


def started(orders):
    return [order.sample for order in of(StartLabel, orders)]


def test_labelling_pauses_and_says_so():
    play = broken()
    (said,) = of(Tell, play.orders)
    assert said.level == "warning"
    assert "3 samples in a row got no label (oracle.pause_after = 3)" in said.text
    assert "sample 2, attempt 1 on oracle 0: RuntimeError: not converged" in said.text
    assert not started(play.tick(59))
    assert play.manager.counts.queued == 20
    assert "labelling paused" in play.manager.phase


def test_one_sample_at_a_time_is_tried_ever_more_rarely():
    play = broken()
    play.oracle(1)
    pause, sample = 60.0, 3
    for _ in range(8):
        assert not started(play.tick(pause - 1))
        assert started(play.tick(1)) == [sample], "one, though two oracles are free"
        oracle = next(iter(play.manager.labelling.oracles.running))
        play.fails(oracle, sample)
        pause, sample = min(2 * pause, LONGEST), sample + 1
    assert play.manager.counts.queued == 12


def test_the_first_label_lets_all_go_on():
    play = broken()
    play.oracle(1)
    (probe,) = started(play.tick(60))
    assert not started(play.tick(600)), "the probe takes its time"
    oracle = next(iter(play.manager.labelling.oracles.running))
    orders = play.returns(oracle, probe)
    assert started(orders) == [4, 5]
    (said,) = of(Tell, orders)
    assert "labelling goes on" in said.text


def test_the_operator_lets_it_go_on():
    assert started(broken().pause("oracle", on=False)) == [3]


def test_labels_under_way_when_it_pauses_are_no_probes():
    play = Play(oracle_retries=0, pause_after=1, probe_after=10.0, failures=None)
    play.oracle(0, 1, 2, 3)
    play.propose(*range(9))
    for oracle in (0, 1, 2, 3):
        play.fails(oracle, oracle)
    assert started(play.tick(10)) != [], "the pause was not doubled"


def test_failures_of_probes_end_the_campaign_in_the_end():
    play = broken(failures=5)
    for sample in (3, 4):
        play.tick(LONGEST)
        play.fails(0, sample)
    assert "5 labels failed in a row (stop.failures = 5)" in play.manager.stop_reason


def test_a_failed_sample_is_tried_again_after_pauses_that_double():
    play = Play(oracle_retries=3, backoff=10.0)
    play.oracle(0)
    play.propose(1)
    for attempt, pause in ((2, 10.0), (3, 20.0), (4, 40.0)):
        play.fails(0, 1)
        assert play.state(1) is State.QUEUED
        assert not started(play.tick(pause - 0.5))
        (again,) = of(StartLabel, play.tick(0.5))
        assert again.attempt == attempt


def test_others_go_first_while_a_sample_waits_for_its_next_try():
    play = Play(oracle_retries=1, backoff=10.0)
    play.oracle(0)
    play.propose(1, 2)
    assert started(play.fails(0, 1)) == [2]
    play.tick(11)
    assert started(play.label(0, 2)) == [1]


def test_a_lost_oracle_backs_off_no_longer_than_a_first_failure():
    play = Play(oracle_retries=1, backoff=10.0)
    for _ in range(3):
        play.oracle(0)
        if play.state(1) is None:
            play.propose(1)
        play.send(ev.OracleLost(play.time, 0, failure("lost")))
        play.tick(10)
    assert started(play.oracle(0)) == [1]


@pytest.mark.parametrize("limit", [None, 10])
def test_few_failures_pause_nothing(limit):
    play = broken(pause_after=limit)
    assert [s for s in range(23) if play.state(s) is State.RUNNING] == [3]
