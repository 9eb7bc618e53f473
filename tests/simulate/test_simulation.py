"""The virtual world: thousands of schedules of faults, each the same whenever it is played."""

import itertools
import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from pal.controller.commands import Command, State
from pal.controller.events import Event
from pal.simulate import command
from pal.simulate.disk import Disk
from pal.simulate.faults import Fault, Faults
from pal.simulate.history import History, mentions
from pal.simulate.scene import Site
from pal.simulate.schedule import draw, play
from pal.simulate.world import World

SEEDS = range(2000)

DIGESTS = """
import json
from pal.simulate.schedule import draw, play
print(json.dumps([play(draw(seed)).history.digest() for seed in range(12)]))
"""


@pytest.mark.parametrize("first", SEEDS[::500])
def test_no_schedule_breaks_an_invariant(first):
    tally = command.run(range(first, first + 500))
    assert tally.schedules == 500
    assert tally.broken == 0, "what broke is told above: seed, rules, faults and story"


def test_every_kind_of_fault_strikes():
    assert set(command.run(range(500), quiet=True).faults) == set(Fault)


def test_schedules_hear_every_event_and_order_every_command():
    seen = set()
    for seed in range(200):
        seen |= {type(what) for _, _, what in play(draw(seed)).history.lines}
    assert seen == {*Event.__args__, *Command.__args__}


@pytest.mark.parametrize("salt", ["0", "1"])
def test_a_seed_gives_one_history_in_every_process(salt):
    here = [play(draw(seed)).history.digest() for seed in range(12)]
    assert len(set(here)) == len(here)
    environment = {**os.environ, "PYTHONHASHSEED": salt}
    run = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == here


@pytest.mark.parametrize("kind", [Fault.KILL, Fault.CUT, Fault.STOP, Fault.BY_HAND])
def test_the_real_ledger_keeps_what_the_simulated_one_does(kind):
    plain = (play(draw(seed)) for seed in SEEDS)
    for expected in itertools.islice((p for p in plain if _struck(p, kind)), 6):
        played = command.replay(expected.schedule.seed, ledger=True)
        assert played.broken is None
        assert played.history.digest() == expected.history.digest()


def _struck(played, kind):
    return kind in {struck for struck, _ in played.struck}


def test_a_ledger_that_disagrees_is_told(monkeypatch):
    monkeypatch.setattr("pal.simulate.mirror.Mirror.commit", lambda self, batch: None)
    broken = (command.replay(seed, ledger=True).broken for seed in range(20))
    assert "the real ledger" in {found.invariant for found in broken if found}


@pytest.mark.parametrize("serial", [False, True], ids=["parallel", "serial"])
def test_an_untroubled_campaign_gets_the_labels_it_wants(serial):
    drawn = draw(1)
    rules = replace(
        drawn.rules, n_oracles=3, labels=40, serial=serial, initial_labels=5, after=None
    )
    rules = replace(rules, samples=None, quiet=None, labelling=True, training=True, window=None)
    schedule = replace(
        drawn, rules=rules, site=Site(initial=5), trouble=0.0, kinds=frozenset(), goal=True
    )
    played = play(schedule)
    assert played.broken is None
    assert not played.struck
    finish = played.history.lines[-1][2]
    assert finish.reason == "stop.labels = 40 reached"
    moves = [what for _, _, what in played.history.lines if hasattr(what, "state")]
    assert sum(move.state is State.LABELLED for move in moves) == 40
    assert not any(move.state in (State.FAILED, State.QUARANTINED) for move in moves)


def test_a_chance_left_out_leaves_the_others_where_they_were():
    every = Faults(3, 1.0, frozenset(Fault))
    chances = [(Fault.CRASH, Fault.TWICE, Fault.SPLIT)[place % 3] for place in range(300)]
    for kind in chances:
        every.strikes(kind)
    kept = [strike for strike in every.struck if strike[0] is not Fault.TWICE]
    again = Faults(3, 1.0, frozenset(Fault), frozenset(kept))
    for kind in chances:
        again.strikes(kind)
    assert again.struck == kept


def test_a_story_is_all_that_speaks_of_a_sample(capsys):
    assert command.main(["--seed", "8", "--story", "3"]) == 0
    told = capsys.readouterr().out
    history = play(draw(8)).history
    assert len(history.of(3)) >= 4
    assert all(mentions(what, 3) for _, _, what in history.of(3))
    for word in ("of walker", "StartLabel", "sessions", "digest", "all invariants hold"):
        assert word in told


def test_a_session_killed_before_anything_was_written_leaves_nothing():
    disk, schedule = Disk(), draw(1)
    faults = Faults(1, 0.0, frozenset())
    world = World(schedule.rules, Site(), disk, faults, random.Random(1), History())
    world.run(1, 100.0)
    world.kill()
    assert not disk.states
    assert not disk.labels
