"""Random schedules: whatever happens, in whatever order, the invariants hold and it ends."""

import random

import pytest
from controller_world import Ledger, World

from pal.controller.commands import State
from pal.controller.manager import PATIENCE
from pal.controller.rules import Rules

LIMIT = 120.0


def rules_of(rng, serial):
    """Draw a campaign."""
    training = serial or rng.random() < 0.85
    return Rules(
        n_oracles=rng.randint(1, 6),
        trainers=tuple((k,) for k in range(rng.randint(1, 3))),
        oracle_deadline=rng.choice([5.0, 8.0]),
        oracle_retries=rng.randint(0, 3),
        grace=rng.choice([0.0, 2.0, 10.0]),
        queue_capacity=rng.choice([1, 5, 20]),
        when_full=rng.choice(["drop_new", "drop_certain", "drop_old"]),
        retrain_size=rng.choice([1, 4, 10]),
        window=rng.choice([None, None, 5, 30]),
        reinitialise_every=rng.choice([0, 2]),
        serial=serial,
        labelling=serial or rng.random() < 0.9,
        training=training,
        rerank=rng.random() < 0.5,
        initial_labels=rng.choice([0, 0, 8]),
        after=LIMIT,
        labels=rng.choice([None, 30]),
        samples=rng.choice([None, 2000]),
        quiet=rng.choice([None, 10.0]),
        failures=rng.choice([None, 6]),
        final_training=rng.choice([0.0, 5.0]),
    )


def campaign(seed, serial, trouble):
    """Play sessions, cut off or stopped at random moments, until one ends by a rule."""
    rng = random.Random(seed)
    rules, ledger = rules_of(rng, serial), Ledger()
    events = 0
    while True:
        world = World(rules, ledger, rng.randrange(1 << 30), trouble)
        cut = 10**6
        if rng.random() < 0.5:
            cut = rng.randint(1, 250)
        elif rng.random() < 0.4:
            for _ in range(rng.randint(1, 3)):
                world.stop(rng.uniform(0, 40))
        ended = world.run(cut)
        events += world.events
        bound = LIMIT + rules.grace + rules.final_training + 2 * PATIENCE + 5.0
        assert world.time <= bound, "the end took too long"
        if ended and world.finish.reason != "asked":
            return rules, ledger, world, events


@pytest.mark.parametrize("serial", [False, True], ids=["parallel", "serial"])
@pytest.mark.parametrize("trouble", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("seed", range(12))
def test_every_schedule_keeps_the_invariants_and_ends(seed, serial, trouble):
    rules, ledger, world, _ = campaign(seed, serial, trouble)
    assert set(ledger.states) <= set(ledger.candidates)
    on_the_way = ledger.of(State.RUNNING) + ledger.of(State.RETURNED)
    assert not on_the_way, "started labels end, fail or are queued again"
    assert sorted(ledger.of(State.LABELLED)) == sorted(ledger.labels)
    assert not world.exploring
    limit = rules.labels
    assert limit is None or len(ledger.labels) <= limit + rules.n_oracles
    counts = world.manager.counts
    assert counts.labelled == len(ledger.labels)
    assert counts.dropped == len(ledger.of(State.DROPPED))
    assert counts.failed + counts.quarantined == len(
        ledger.of(State.FAILED) + ledger.of(State.QUARANTINED)
    )


@pytest.mark.parametrize("serial", [False, True], ids=["parallel", "serial"])
def test_the_same_seed_gives_the_same_history(serial):
    first, second = campaign(3, serial, 0.2), campaign(3, serial, 0.2)
    assert first[1].states == second[1].states
    assert first[1].labels == second[1].labels
    assert first[3] == second[3]


@pytest.mark.parametrize("serial", [False, True], ids=["parallel", "serial"])
def test_an_untroubled_campaign_gets_the_labels_it_wants(serial):
    rules = Rules(n_oracles=3, labels=40, serial=serial, initial_labels=5, after=2000.0)
    ledger = Ledger()
    world = World(rules, ledger, 1, 0.0)
    assert world.run(10**6)
    assert world.finish.reason == "stop.labels = 40 reached"
    assert len(ledger.labels) == 40
    assert world.held[0] == set(ledger.labels), "all that was labelled was taught"
    assert not ledger.of(State.FAILED)


@pytest.mark.parametrize("serial", [False, True], ids=["parallel", "serial"])
@pytest.mark.parametrize("seed", range(8))
def test_trouble_delays_a_campaign_but_never_starves_it(seed, serial):
    """No rule but the number of labels ends it: whatever hangs or dies, work goes on."""
    rng = random.Random(seed)
    rules = Rules(
        n_oracles=rng.randint(1, 5),
        trainers=tuple((k,) for k in range(rng.randint(1, 3))),
        oracle_deadline=8.0,
        oracle_retries=rng.randint(3, 5),
        queue_capacity=rng.choice([1, 5, 20]),
        retrain_size=rng.choice([1, 4, 10]),
        serial=serial,
        rerank=rng.random() < 0.5,
        initial_labels=rng.choice([0, 6]),
        labels=25,
        failures=None,
        final_training=5.0,
    )
    ledger = Ledger()
    for _ in range(3):
        if World(rules, ledger, seed, 0.2).run(rng.randint(50, 300)):
            break
    world = World(rules, ledger, seed, 0.2)
    assert world.run(20_000), f"it still waits for labels: {world.manager.counts}"
    assert world.finish.reason == "stop.labels = 25 reached"
