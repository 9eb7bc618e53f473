"""Walkers of one process: they stumble, begin again where they were saved, or are given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from pal.errors import ContractError, Failure
from pal.records import Batch, Feedback, Feedbacks, Refusal
from pal.roles import STOP
from pal.runtime.pool import Pool

Script = Callable[[int, int], Any]


class Counter:
    """Steps as a script says: called with the walker and the step, from one."""

    def __init__(self, walker: int, script: Script) -> None:
        self.walker, self.script, self.count = walker, script, 0
        self.heard: list[Feedback | None] = []

    def step(self, feedback: Feedback | None) -> Any:
        self.count += 1
        self.heard.append(feedback)
        result = self.script(self.walker, self.count)
        if isinstance(result, Exception):
            raise result
        return result

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        self.count = state


class World:
    """Source and reporter of a pool."""

    def __init__(self, script: Script, saved: dict[int, Any] | None = None) -> None:
        self.script = script
        self.saved = saved or {}
        self.built: list[Counter] = []
        self.failures: list[Failure] = []
        self.stops: list[str] = []
        self.kind = Counter

    def build(self, walker: int) -> Counter:
        self.built.append(self.kind(walker, self.script))
        return self.built[-1]

    def load(self, walker: int) -> Any | None:
        return self.saved.get(walker)

    def save(self, states: Mapping[int, Any]) -> None:
        self.saved.update(states)

    def failure(self, walker: int, error: BaseException) -> Failure:
        return Failure("generator", walker, type(error).__name__, str(error))

    def report(self, failure: Failure) -> None:
        self.failures.append(failure)

    def stop(self, reason: str) -> None:
        self.stops.append(reason)


def sample(walker: int, step: int) -> Any:
    return np.array([walker, step])


class Outbox:
    """Keeps what a pool sends; None for a walker that has ended."""

    def __init__(self) -> None:
        self.samples: dict[int, Any] = {}
        self.batches: list[list[int]] = []

    def send(self, row: int, sample: Any) -> None:
        self.samples[row] = sample

    def send_all(self, rows: Any, samples: Batch) -> None:
        self.batches.append(rows.tolist())
        self.samples |= dict(zip(rows.tolist(), samples, strict=True))

    def end(self, row: int) -> None:
        self.samples[row] = None


class Single:
    """A pool whose walkers are moved one by one, and show their samples at once."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.save = pool, pool.save

    def step(self, row: int, feedback: Feedback | None) -> Any:
        out = Outbox()
        self.pool.step([row], None if feedback is None else [feedback], out)
        return out.samples[row]

    def recover(self, row: int, why: Refusal) -> Any:
        out = Outbox()
        self.pool.recover([row], out, why)
        return out.samples[row]


def make(script: Script, restarts: int = 3, saved: dict[int, Any] | None = None) -> Any:
    world = World(script, saved)
    return world, Single(Pool(range(2), world, world, restarts))


def test_walkers_move_by_themselves() -> None:
    _, pool = make(sample)
    assert [pool.step(0, None).tolist() for _ in range(3)] == [[0, 1], [0, 2], [0, 3]]
    assert pool.step(1, None).tolist() == [1, 1]


def test_feedback_reaches_the_walker() -> None:
    world, pool = make(sample)
    feedback = Feedback(np.zeros(1), np.zeros(1), 0.5, True, 3)
    pool.step(0, feedback)
    assert world.built[0].heard == [feedback]


def test_a_walker_that_stumbles_begins_again_at_its_saved_state() -> None:
    """It makes a first step, without feedback, and its neighbour does not notice."""
    bad = iter([True])
    world, pool = make(
        lambda walker, step: (
            ValueError("stumble")
            if (walker, step) == (0, 5) and next(bad, False)
            else sample(walker, step)
        )
    )
    for _ in range(3):
        pool.step(0, None)
        pool.step(1, None)
    pool.save()
    pool.step(0, None)
    assert pool.step(0, Feedback(np.zeros(1), np.zeros(1), 0.0, True, 0)).tolist() == [0, 4]
    assert world.built[-1].heard == [None]
    assert pool.step(1, None).tolist() == [1, 4]
    (failure,) = world.failures
    assert (failure.role, failure.index, failure.kind) == ("generator", 0, "ValueError")


def test_without_a_saved_state_it_begins_from_the_start() -> None:
    bad = iter([True])
    _, pool = make(
        lambda walker, step: (
            ValueError() if step == 3 and next(bad, False) else sample(walker, step)
        )
    )
    found = [pool.step(0, None).tolist() for _ in range(3)]
    assert found == [[0, 1], [0, 2], [0, 1]]


def test_a_new_process_takes_up_saved_states() -> None:
    _, pool = make(sample, saved={1: 41})
    assert pool.step(1, None).tolist() == [1, 42]
    assert pool.step(0, None).tolist() == [0, 1]


@pytest.mark.parametrize("restarts", [0, 3, 3000])
def test_a_walker_that_never_moves_is_given_up(restarts: int) -> None:
    world, pool = make(lambda walker, step: RuntimeError("cannot walk"), restarts)
    assert pool.step(0, None) is None
    kinds = [failure.kind for failure in world.failures]
    assert kinds == ["RuntimeError"] * (restarts + 1) + ["GivenUp"]
    assert f"restart.budget = {restarts}" in world.failures[-1].message


def test_stumbles_an_hour_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    world, pool = make(lambda walker, step: ValueError() if step == 2 else sample(walker, step), 1)
    pool.step(0, None)
    for _ in range(5):
        assert pool.step(0, None) is not None
        clock[0] += 3601.0
    assert {failure.kind for failure in world.failures} == {"ValueError"}


def test_a_walker_that_cannot_be_built_again_is_given_up() -> None:
    world, pool = make(lambda walker, step: ValueError("stumble"), restarts=2)

    def refuse(walker: int) -> Counter:
        raise OSError("a file is gone")

    world.build = refuse
    assert pool.step(0, None) is None
    kinds = [failure.kind for failure in world.failures]
    assert kinds == ["ValueError", "OSError", "OSError", "GivenUp"]


# Walkers that are sent back --------------------------------------------------------------------


def test_exploring_where_nothing_is_physical_is_not_held_against_a_walker() -> None:
    """As models that know little send walkers there."""
    world, pool = make(sample, restarts=0)
    for _ in range(20):
        pool.step(0, None)
    pool.save()
    for _ in range(30):
        assert pool.recover(0, Refusal.UNPHYSICAL).tolist() == [0, 21]
        for _ in range(10):
            pool.step(0, None)
    for _ in range(30):
        pool.recover(0, Refusal.UNPHYSICAL)
    assert not world.failures


def test_a_saved_state_that_leads_astray_at_once_is_left_behind() -> None:
    _, pool = make(sample)
    for _ in range(20):
        pool.step(0, None)
    pool.save()
    assert pool.recover(0, Refusal.UNPHYSICAL).tolist() == [0, 21]
    assert pool.recover(0, Refusal.UNPHYSICAL).tolist() == [0, 1], "it begins anew"


def test_a_walker_that_is_not_finite_each_time_is_given_up() -> None:
    world, pool = make(sample, restarts=3)
    pool.step(0, None)
    gone = [pool.recover(0, Refusal.BROKEN) is None for _ in range(4)]
    assert gone == [False] * 3 + [True]
    assert [failure.kind for failure in world.failures] == ["GivenUp"]


def test_every_step_is_a_sign_of_life() -> None:
    beats: list[int] = []
    world = World(sample)
    pool = Pool((5, 6), world, world, 3, lambda: beats.append(1))
    pool.step((0, 1), None, Outbox())
    assert len(beats) == 2


def test_a_walker_that_asks_to_stop_has_ended() -> None:
    world, pool = make(lambda walker, step: STOP)
    assert pool.step(1, None) is None
    assert world.stops == ["walker 1 asked to stop"]
    assert not world.failures


@pytest.mark.parametrize("result", [None, 3.0, "words", [1.0, 2.0], (np.zeros(1),)])
def test_what_is_no_sample_is_a_failure_that_says_what_came(result: Any) -> None:
    world, pool = make(lambda walker, step: result, restarts=0)
    assert pool.step(0, None) is None
    first = world.failures[0]
    assert first.kind == "ContractError"
    assert type(result).__name__ in first.message


def test_walkers_without_a_state_are_not_saved() -> None:
    class Plain:
        def step(self, feedback: Feedback | None) -> Any:
            return np.zeros(1)

    world = World(sample)
    world.build = lambda walker: Plain()  # type: ignore[assignment, return-value]
    pool = Pool(range(2), world, world, 1)
    pool.save()
    assert not world.saved


class Crowd:
    """An ensemble of `Counter`s; `spoil` changes what it returns, or raises."""

    def __init__(self, walkers: Sequence[Any], spoil: Callable[[Any], Any]) -> None:
        self.walkers, self.spoil = walkers, spoil
        self.calls: list[tuple[list[int], Feedbacks | None]] = []

    def step(self, rows: Any, feedback: Feedbacks | None) -> Any:
        self.calls.append((rows.tolist(), feedback))
        heard = [None] * len(rows) if feedback is None else feedback
        moved = [self.walkers[row].step(one) for row, one in zip(rows, heard, strict=True)]
        return self.spoil(Batch(moved))

    def get_state(self, row: int) -> Any:
        return self.walkers[row].get_state()

    def set_state(self, row: int, state: Any) -> None:
        self.walkers[row].set_state(state)


def crowd(
    script: Script = sample,
    spoil: Callable[[Any], Any] = lambda moved: moved,
    restarts: int = 3,
    saved: dict[int, Any] | None = None,
) -> tuple[World, Pool, list[Crowd], Outbox]:
    """Make a pool of walkers 4, 5 and 6 that move together."""
    made: list[Crowd] = []

    class Joining(Counter):
        @classmethod
        def ensemble(cls, walkers: Sequence[Any]) -> Crowd:
            made.append(Crowd(walkers, spoil))
            return made[-1]

    world = World(script, saved)
    world.kind = Joining
    return world, Pool(range(4, 7), world, world, restarts), made, Outbox()


def heard(count: int) -> list[Feedback]:
    return [Feedback(np.full(1, k), np.zeros(1), 0.5 * k, k == 1, 3) for k in range(count)]


def test_walkers_of_a_class_with_an_ensemble_move_in_one_call() -> None:
    world, pool, (joined,), out = crowd()
    pool.step(range(3), None, out)
    pool.step([0, 2], heard(2), out)
    assert out.batches == [[0, 1, 2], [0, 2]]
    assert [out.samples[row].tolist() for row in range(3)] == [[4, 2], [5, 1], [6, 2]]
    rows, feedback = joined.calls[1]
    assert rows == [0, 2]
    assert feedback is not None
    assert np.asarray(feedback.mean).tolist() == [[0], [1]]
    assert feedback.uncertainty.tolist() == [0.0, 0.5]
    assert feedback.trusted.tolist() == [False, True]
    assert feedback.version == 3
    assert not world.failures


@pytest.mark.parametrize("count", [1, 2])
def test_one_walker_or_walkers_of_several_classes_move_by_themselves(count: int) -> None:
    world, _, made, out = crowd()
    kinds = iter([world.kind, Counter])
    world.build = lambda walker: next(kinds)(walker, sample)  # type: ignore[method-assign]
    pool = Pool(range(count), world, world, 3)
    pool.step(range(count), None, out)
    assert len(made) == 1, "that of the first pool only"
    assert not out.batches
    assert out.samples[0].tolist() == [0, 1]


def test_an_ensemble_takes_up_saved_states_and_saves_them_walker_by_walker() -> None:
    world, pool, _, out = crowd(saved={5: 41})
    pool.step(range(3), None, out)
    assert [out.samples[row].tolist() for row in range(3)] == [[4, 1], [5, 42], [6, 1]]
    pool.save()
    assert world.saved == {4: 1, 5: 42, 6: 1}


def test_a_failing_ensemble_takes_its_walkers_back_and_leaves_those_that_waited() -> None:
    bad = iter([False, False, True])

    def stumble(moved: Any) -> Any:
        if next(bad, False):
            raise ValueError("stumble")
        return moved

    world, pool, _, out = crowd(spoil=stumble)
    pool.step(range(3), None, out)
    pool.save()
    pool.step(range(3), heard(3), out)
    pool.step([0, 2], heard(2), out)
    assert [(f.index, f.kind) for f in world.failures] == [(4, "ValueError"), (6, "ValueError")]
    assert [out.samples[row].tolist() for row in range(3)] == [[4, 2], [5, 2], [6, 2]]
    pool.step(range(3), heard(3), out)
    assert [out.samples[row].tolist() for row in range(3)] == [[4, 3], [5, 3], [6, 3]]


def test_an_ensemble_that_always_fails_gives_its_walkers_up() -> None:
    def refuse(moved: Any) -> Any:
        raise RuntimeError("cannot walk")

    world, pool, _, out = crowd(spoil=refuse, restarts=2)
    pool.step(range(3), None, out)
    assert out.samples == {0: None, 1: None, 2: None}
    for walker in range(4, 7):
        kinds = [failure.kind for failure in world.failures if failure.index == walker]
        assert kinds == ["RuntimeError"] * 3 + ["GivenUp"]


def test_recovered_alone_a_walker_of_an_ensemble_leaves_the_others_where_they_are() -> None:
    """As after a sample that is not finite; without a saved state it begins from the start."""
    world, pool, (joined,), out = crowd()
    pool.step(range(3), None, out)
    pool.step(range(3), heard(3), out)
    pool.recover([1], out, Refusal.BROKEN)
    assert [out.samples[row].tolist() for row in range(3)] == [[4, 2], [5, 1], [6, 2]]
    assert joined.calls[-1] == ([1], None)
    assert not world.failures


def test_one_walker_of_an_ensemble_asks_to_stop() -> None:
    world, pool, _, out = crowd(
        lambda walker, step: STOP if (walker, step) == (5, 2) else sample(walker, step), list
    )
    pool.step(range(3), None, out)
    pool.step(range(3), heard(3), out)
    assert world.stops == ["walker 5 asked to stop"]
    assert out.samples[1] is None
    assert out.samples[2].tolist() == [6, 2]
    assert not world.failures


def test_a_single_thing_that_is_no_sample_is_the_failure_of_one_walker() -> None:
    world, pool, _, out = crowd(
        lambda walker, step: 3.0 if (walker, step) == (5, 2) else sample(walker, step), list
    )
    pool.step(range(3), None, out)
    pool.step(range(3), heard(3), out)
    assert [(f.index, f.kind) for f in world.failures] == [(5, "ContractError")]
    assert [out.samples[row].tolist() for row in range(3)] == [[4, 2], [5, 1], [6, 2]]


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda moved: moved[:1], "ShapeError", "1 samples; expected one for each of the 3"),
        (lambda moved: None, "ContractError", "NoneType; expected a pal.Batch"),
        (lambda moved: np.zeros(3), "ContractError", "ndarray; expected a pal.Batch"),
    ],
)
def test_an_ensemble_that_does_not_return_its_samples_says_so(
    spoil: Any, kind: str, words: str
) -> None:
    world, pool, _, out = crowd(spoil=spoil, restarts=0)
    pool.step(range(3), None, out)
    assert world.failures[0].kind == kind
    assert words in world.failures[0].message


def test_an_ensemble_without_states_is_refused() -> None:
    class Stateless:
        @classmethod
        def ensemble(cls, walkers: Sequence[Any]) -> Any:
            return cls()

        def step(self, *arguments: Any) -> Any:
            return np.zeros(1)

    world = World(sample)
    world.build = lambda walker: Stateless()  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(ContractError, match="Stateless has no method get_state, set_state"):
        Pool(range(2), world, world, 1)
