"""The simulation can fail: it finds every planted defect, and nothing where none is planted."""

import pytest

from pal.simulate import command
from pal.simulate.defects import DEFECTS, find
from pal.simulate.schedule import draw, play
from pal.simulate.shrink import shrink
from pal.simulate.story import report

WITHIN = 400
"""Schedules in which each defect must show; without it the same ones are clean."""


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name):
    defect = DEFECTS[name]
    found = find(defect, range(WITHIN))
    assert found is not None, defect.text
    assert found.broken.invariant in defect.shows
    assert play(draw(found.schedule.seed)).broken is None, "without it the same seed is clean"


def test_defects_lie_in_every_part_of_the_controller():
    parts = {defect.part for defect in DEFECTS.values()}
    assert parts == {
        "ledger",
        "labelling",
        "queue",
        "pool",
        "training",
        "manager",
        "breaker",
        "back-off",
        "grants",
        "operator",
    }
    assert all(defect.text.endswith(".") for defect in DEFECTS.values())


@pytest.mark.parametrize(
    ("name", "most"),
    [("lost_requeue", 1), ("no_deadline", 1), ("a_returned_shard_gets_nothing", 3)],
)
def test_what_breaks_is_shrunk_to_the_faults_that_matter(name, most):
    plant = DEFECTS[name].plant
    found = find(DEFECTS[name], range(WITHIN))
    shrunk = shrink(found, plant)
    assert shrunk.broken.invariant == found.broken.invariant
    assert len(shrunk.struck) <= most
    again = play(shrunk.schedule, plant, frozenset(shrunk.struck))
    assert str(again.broken) == str(shrunk.broken)
    told = "\n".join(report(found, shrunk))
    assert f"BROKEN, seed {found.schedule.seed}: " in told
    assert "rules: " in told


def test_the_story_of_the_sample_concerned_is_told(capsys):
    assert command.main(["--seeds", "60", "--defect", "no_deadline"]) == 1
    told = capsys.readouterr().out
    assert "BROKEN, seed" in told
    assert "StartLabel(oracle=" in told
    assert "oracle hang" in told
    assert "again, as found: pal bench simulate --seed" in told
    assert "60 schedules" in told
