"""The failure policy in the settings, and how it reaches controller and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pal.errors import SettingsError
from pal.runtime.labels import Sanity
from pal.runtime.machines import Machine
from pal.runtime.orders import Job
from pal.runtime.placement import Placement, place, specs
from pal.runtime.rules import rules_of
from pal.settings import Settings, dump, parse

KERNELS: dict[str, dict[str, Any]] = {
    "generator": {"kernel": "toys:Walk", "walkers": 4},
    "model": {"kernel": "toys:Quadratic", "members": 4},
    "oracle": {"kernel": "toys:truth"},
    "selector": {"kernel": "toys:Threshold"},
}


def settings(**sections: Any) -> Settings:
    names = {**KERNELS, **sections}
    return parse({name: {**KERNELS.get(name, {}), **sections.get(name, {})} for name in names})


def placed(found: Settings, nodes: int = 1) -> Placement:
    machines = [Machine(rank, f"host{rank}", tuple(range(8)), ()) for rank in range(nodes)]
    return place(found, Path("run"), specs(found, ()), None, machines)


def jobs(found: Settings) -> dict[str, Job]:
    return {job.role: job for job in placed(found).jobs}


def test_without_a_policy_nobody_is_late_and_nothing_is_out_of_bounds() -> None:
    found = settings()
    for job in placed(found).jobs:
        assert not job.deadlines
        assert job.budget is None
        assert job.restarts == 10
    assert jobs(found)["oracle"].extra["sanity"] == Sanity()
    assert "screen" not in specs(found, ())


def test_each_worker_gets_the_deadlines_of_the_calls_it_makes() -> None:
    times = {
        "generator": {"deadline": 1},
        "model": {"deadline": 2, "train_deadline": 3},
    }
    found = jobs(settings(**times))
    assert found["generator"].deadlines == {"step": 1}
    assert found["exchange"].deadlines == {"predict": 2}
    assert found["trainer"].deadlines == {"train": 3}
    assert not found["oracle"].deadlines, "the manager watches over labels"
    tight = jobs(settings(**{**times, "generator": {"deadline": 1, "placement": "committee"}}))
    assert tight["exchange"].deadlines == {"step": 1, "predict": 2}
    spread = jobs(settings(**{**times, "model": {"deadline": 2, "predictors": 2}}))
    assert spread["predictor"].deadlines == {"predict": 2}
    assert spread["exchange"].deadlines == {"react": 2}, "it waits for its predictors"


def test_each_worker_has_the_budget_of_its_kernel() -> None:
    found = settings(
        generator={"restarts": 1},
        model={"restarts": 2, "predictors": 2},
        oracle={"restarts": 0, "executor": "x:y", "outside": 1},
        restart={"budget": 7},
    )
    budgets = {role: job.budget for role, job in jobs(found).items()}
    assert budgets == {
        "exchange": 2,
        "predictor": 2,
        "generator": 1,
        "trainer": 2,
        "oracle": 0,
        "broker": 0,
    }
    assert jobs(found)["generator"].restarts == 1
    assert jobs(settings(restart={"budget": 7}))["generator"].restarts == 7


def test_the_controller_goes_by_the_policy_for_labels() -> None:
    found = settings(
        oracle={
            "workers": 3,
            "retries": 4,
            "backoff": "2 min",
            "pause_after": 6,
            "probe_after": "5 s",
        }
    )
    rules = rules_of(found, placed(found), 0)
    assert (rules.oracle_retries, rules.backoff) == (4, 120.0)
    assert (rules.pause_after, rules.probe_after) == (6, 5.0)
    assert rules.nodes == (0, 0, 0)


def test_the_controller_knows_the_nodes_of_oracles() -> None:
    found = settings(oracle={"workers": 4})
    placement = placed(found, nodes=2)
    rules = rules_of(found, placement, 0)
    assert rules.nodes == tuple(job.node for job in placement.of("oracle"))
    assert set(rules.nodes) == {0, 1}


def test_bounds_reach_those_who_judge() -> None:
    found = settings(
        oracle={"bounds": {"energy": [-1e6, 0]}, "converged": "done"},
        selector={"reject": {"min_distance": 0.6, "bounds": {"x": [0, 1]}}},
    )
    work = jobs(found)
    assert work["oracle"].extra["sanity"] == Sanity({"energy": (-1e6, 0.0)}, "done")
    assert work["exchange"].kernels["screen"].options == {
        "min_distance": 0.6,
        "bounds": {"x": (0.0, 1.0)},
    }
    assert parse(dump(found)) == found, "they go round through a file"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"oracle": {"bounds": {"energy": [1, 0]}}}, r"oracle.bounds.energy: expected \[smallest"),
        ({"oracle": {"bounds": {"energy": [1]}}}, r"oracle.bounds.energy"),
        ({"selector": {"reject": {"max_forces": 3}}}, "did you mean 'max_force'"),
        ({"selector": {"reject": {"min_distance": 1.5}}}, "selector.reject.min_distance"),
        ({"model": {"deadlines": 3}}, "did you mean 'deadline'"),
        ({"oracle": {"pause_after": 0}}, "oracle.pause_after"),
    ],
)
def test_a_policy_that_cannot_be_is_named(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(**sections)
