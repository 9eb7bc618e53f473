"""One round of the exchange: nothing broken reaches another kernel, and everyone is answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exchange_fakes import Bench, Committee, Desk, Selector, Walkers

from pal.errors import ContractError, ShapeError
from pal.records import Batch, Refusal, Selection, named


def samples(count: int = 4) -> list[Any]:
    return [np.array([walker + 1.0, 1.0]) for walker in range(count)]


def test_every_walker_hears_mean_and_deviation_of_its_own_sample() -> None:
    bench = Bench(Walkers(samples()), version=6)
    bench.round()
    ((who, answer),) = bench.walkers.answers
    assert who == [0, 1, 2, 3]
    for walker in who:
        np.testing.assert_allclose(np.asarray(answer.mean[walker]), 2 * samples()[walker])
        np.testing.assert_allclose(
            np.asarray(answer.deviation[walker]), 2**0.5 * samples()[walker]
        )
    np.testing.assert_array_equal(answer.uncertainty, [1, 2, 3, 4])
    assert answer.version == 6
    assert not bench.desk.failures


def test_candidates_keep_their_walker_uncertainty_and_version() -> None:
    bench = Bench(
        Walkers(samples()),
        selector=Selector(lambda fields: Selection(**{**fields, "candidates": [3, 1]})),
        version=6,
    )
    bench.round()
    assert [item[1:] for item in bench.desk.candidates] == [(3, 4.0, 6), (1, 2.0, 6)]
    for sample, walker, _, _ in bench.desk.candidates:
        np.testing.assert_array_equal(sample, samples()[walker])


def test_candidates_beyond_the_grant_are_counted_and_left_out() -> None:
    bench = Bench(Walkers(samples(5)), desk=Desk(granted=2))
    bench.round()
    assert [walker for _, walker, _, _ in bench.desk.candidates] == [0, 1]
    assert bench.meter["skipped"] == 3
    bench.walkers.answers.clear()
    bench.round()
    assert len(bench.desk.candidates) == 2
    assert bench.meter["skipped"] == 8
    assert len(bench.walkers.heard()) == 5, "a full queue holds nobody up"


def test_what_was_done_is_counted() -> None:
    bench = Bench(
        Walkers(samples(3)),
        selector=Selector(
            lambda fields: Selection([], np.array([1.0, 2.0, 4.0]), np.array([True, False, True]))
        ),
    )
    for _ in range(2):
        bench.round()
    counted = {name: bench.meter[name] for name in ("rounds", "samples", "uncertain")}
    assert counted == {"rounds": 2, "samples": 6, "uncertain": 2}
    assert bench.meter["uncertainty"] == 14.0
    assert not bench.desk.candidates


def test_other_inputs_go_to_the_oracle_where_the_selector_says_so() -> None:
    bench = Bench(
        Walkers(samples(3)),
        selector=Selector(
            lambda fields: Selection(
                **{**fields, "candidates": [2, 0], "inputs": [np.full(5, 2.0), np.full(5, 0.0)]}
            )
        ),
        desk=Desk(granted=1),
    )
    bench.round()
    ((sample, walker, _, _),) = bench.desk.candidates
    np.testing.assert_array_equal(sample, np.full(5, 2.0))
    assert walker == 2


def test_other_feedback_reaches_the_walkers_where_the_selector_says_so() -> None:
    instead = Batch.stacked(np.arange(6.0).reshape(3, 2))
    bench = Bench(
        Walkers(samples(3)),
        selector=Selector(lambda fields: Selection(**{**fields, "feedback": instead})),
    )
    bench.round()
    heard = bench.walkers.heard()
    for walker in range(3):
        np.testing.assert_array_equal(np.asarray(heard[walker]), [2.0 * walker, 2.0 * walker + 1])


# What is not finite ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_sample_is_rejected_and_reaches_no_model(bad: float) -> None:
    sent = samples()
    sent[2] = np.array([bad, 1.0])
    bench = Bench(Walkers(sent))
    bench.round()
    heard = bench.walkers.heard()
    assert sorted(heard) == [0, 1, 2, 3]
    assert heard[2] is None
    assert bench.walkers.refusals == {2: Refusal.BROKEN}
    assert all(heard[walker] is not None for walker in (0, 1, 3))
    (failure,) = bench.desk.failures
    assert (failure.role, failure.index, failure.kind) == ("generator", 2, "NotFiniteError")
    for batch in bench.committee.asked:
        assert np.isfinite(np.asarray(batch)).all()
    assert [walker for _, walker, _, _ in bench.desk.candidates] == [0, 1, 3]


def test_a_round_of_broken_samples_asks_no_model() -> None:
    bench = Bench(Walkers([np.array([np.nan])] * 3))
    bench.round()
    assert not bench.committee.asked
    assert set(bench.walkers.heard().values()) == {None}
    assert len(bench.desk.failures) == 3


def spoil(*where: tuple[int, int]) -> Committee:
    """Three members; NaN for these (member, sample)."""

    def change(labels: list[Any]) -> list[Any]:
        for member, sample in where:
            if sample < len(labels[member]):
                labels[member][sample] = labels[member][sample] * np.nan
        return labels

    return Committee((1.0, 2.0, 3.0), change)


def test_a_member_that_is_nan_throughout_is_benched_until_new_weights() -> None:
    bench = Bench(Walkers(samples()), spoil(*((1, sample) for sample in range(4))))
    bench.round()
    (failure,) = bench.desk.failures
    assert (failure.role, failure.index) == ("prediction", 1)
    assert bench.exchange.benched == {1}
    np.testing.assert_allclose(np.asarray(bench.walkers.heard()[0]), 2 * samples()[0])
    assert len(bench.selector.seen[0].members) == 2
    bench.walkers.answers.clear()
    bench.round()
    assert len(bench.desk.failures) == 1, "it is told once"
    assert all(answer is not None for answer in bench.walkers.heard().values())


def test_a_second_member_that_falls_ill_is_named_rightly() -> None:
    """Benched members shift the places of the others, not their numbers."""
    committee = Committee((1.0, 2.0, 3.0, 4.0))
    bench = Bench(Walkers(samples()), committee)
    for sick in (0, 2):

        def change(labels: list[Any], sick: int = sick) -> list[Any]:
            for member in range(sick + 1):
                if member in (0, sick):
                    labels[member] = [label * np.nan for label in labels[member]]
            return labels

        committee.change = change
        bench.round()
    assert [failure.index for failure in bench.desk.failures] == [0, 2]
    assert bench.exchange.benched == {0, 2}
    np.testing.assert_allclose(np.asarray(bench.walkers.answers[-1][1].mean[0]), 3 * samples()[0])


def test_where_no_two_members_are_left_all_samples_are_rejected() -> None:
    bench = Bench(
        Walkers(samples(2)), spoil(*((member, s) for member in (0, 1) for s in range(2)))
    )
    bench.round()
    assert set(bench.walkers.heard().values()) == {None}
    assert not bench.selector.seen, "the selector never sees NaN"
    assert not bench.desk.candidates
    assert bench.exchange.benched == frozenset()


def test_a_sample_without_a_finite_prediction_is_rejected_alone() -> None:
    bench = Bench(Walkers(samples()), spoil((0, 1), (2, 3)))
    bench.round()
    heard = bench.walkers.heard()
    assert [walker for walker in range(4) if heard[walker] is None] == [1, 3]
    np.testing.assert_allclose(np.asarray(heard[2]), 2 * samples()[2])
    assert [walker for _, walker, _, _ in bench.desk.candidates] == [0, 2]
    for prediction in bench.selector.seen:
        assert np.isfinite(np.asarray(prediction.mean)).all()
        assert all(len(member) == 2 for member in prediction.members)
    assert {failure.index for failure in bench.desk.failures} == {1, 3}


# Members that are put back in order ------------------------------------------------------------


def ill(*members: int, until_reloaded: bool = True) -> Committee:
    """Three members, of which these predict NaN, until they are reloaded."""
    sick = set(members)

    def change(labels: list[Any]) -> list[Any]:
        return [
            [label * np.nan for label in each] if member in sick else each
            for member, each in enumerate(labels)
        ]

    committee = Committee((1.0, 2.0, 3.0), change)
    for member in members:
        committee.spare[member] = lambda m=member: sick.discard(m) if until_reloaded else None  # type: ignore[misc]
    return committee


@pytest.mark.parametrize("members", [[1], [0, 2], [0, 1, 2]])
def test_a_member_with_good_weights_in_reserve_is_back_in_the_same_round(
    members: list[int],
) -> None:
    """Even where all are ill; and no walker hears of it."""
    bench = Bench(Walkers(samples()), ill(*members), version=4)
    bench.round()
    for walker, mean in bench.walkers.heard().items():
        np.testing.assert_allclose(np.asarray(mean), 2 * samples()[walker])
    assert bench.exchange.benched == frozenset()
    assert [failure.index for failure in bench.desk.failures] == members
    for failure in bench.desk.failures:
        assert failure.kind == "NotFiniteError"
        assert "weights version 4; it is reloaded, and put back" in failure.message
    assert bench.committee.approved[-1] == [0, 1, 2]
    assert not bench.desk.distrusted, "the committee tells that itself, who knows the versions"


def test_a_member_whom_good_weights_do_not_help_is_left_out() -> None:
    bench = Bench(Walkers(samples()), ill(1, until_reloaded=False))
    bench.round()
    (failure,) = bench.desk.failures
    assert "it is reloaded, which did not help; it is left out" in failure.message
    assert bench.exchange.benched == {1}
    assert bench.committee.reverted == [[1]], "the newest weights were not at fault"
    assert not bench.desk.distrusted
    assert bench.committee.approved[-1] == [0, 2]


def test_without_a_reserve_the_weights_themselves_are_distrusted() -> None:
    bench = Bench(Walkers(samples()), ill(1), version=7)
    bench.committee.spare.clear()
    bench.round()
    assert bench.desk.distrusted == [(1, 7)]
    assert bench.exchange.benched == {1}


def test_new_weights_put_their_own_members_back_and_no_others() -> None:
    bench = Bench(Walkers(samples()))
    bench.exchange.benched = frozenset({0, 1})
    bench.exchange.install(5, [1])
    assert bench.exchange.benched == {0}
    assert bench.exchange.version == 5
    assert not bench.exchange.approved


def test_weights_are_approved_once() -> None:
    bench = Bench(Walkers(samples()))
    for _ in range(3):
        bench.walkers.answers.clear()
        bench.round()
    assert bench.committee.approved == [[0, 1]]


# Unphysical samples ----------------------------------------------------------------------------


class Screen:
    """Samples whose first number is in one of these are exploded, out of bounds, or overlap."""

    def __init__(
        self,
        blown: tuple[float, ...] = (),
        out: tuple[float, ...] = (),
        close: tuple[float, ...] = (),
    ) -> None:
        self.blown, self.out, self.close = blown, out, close
        self.looked: list[float] = []

    def exploded(self, mean: Batch) -> dict[int, str]:
        return {i: "too strong" for i, m in enumerate(mean) if np.asarray(m)[0] / 2 in self.blown}

    def outside(self, samples: Batch) -> dict[int, str]:
        return {i: "too far" for i, s in enumerate(samples) if np.asarray(s)[0] in self.out}

    def overlap(self, sample: Any) -> str:
        self.looked.append(float(sample[0]))
        return "atoms 0 and 1 are 0.10 Å apart" if sample[0] in self.close else ""


def test_unphysical_samples_cost_no_oracle_and_send_their_walkers_back() -> None:
    bench = Bench(Walkers(samples()), screen=Screen(blown=(2.0,), close=(4.0,)))
    bench.round()
    heard = bench.walkers.heard()
    assert bench.walkers.refusals == {1: Refusal.UNPHYSICAL, 3: Refusal.UNPHYSICAL}
    np.testing.assert_allclose(np.asarray(heard[2]), 2 * samples()[2])
    assert [walker for _, walker, _, _ in bench.desk.candidates] == [0, 2]
    assert [len(prediction.mean) for prediction in bench.selector.seen] == [3]
    assert bench.meter["rejected"] == 2
    assert bench.meter["skipped"] == 0


def test_samples_out_of_bounds_cost_no_oracle_and_are_not_trusted() -> None:
    """Their walkers go on: nothing is wrong with them."""
    fields = {"trusted": np.ones(4, bool), "candidates": [1, 3]}
    bench = Bench(
        Walkers(samples()),
        selector=Selector(lambda given: Selection(**{**given, **fields})),
        screen=Screen(out=(3.0, 4.0)),
    )
    bench.round()
    ((_, answer),) = bench.walkers.answers
    assert answer is not None
    assert answer.trusted.tolist() == [True, True, False, False]
    assert [walker for _, walker, _, _ in bench.desk.candidates] == [1]
    assert bench.meter["rejected"] == 1, "the other one was no candidate"
    assert not bench.walkers.refusals


def test_only_candidates_that_may_be_proposed_are_looked_at_closely() -> None:
    screen = Screen(close=(1.0,))
    bench = Bench(Walkers(samples()), desk=Desk(granted=2), screen=screen)
    bench.round()
    assert screen.looked == [1.0, 2.0, 3.0], "one in the place of the one that overlaps"
    assert [walker for _, walker, _, _ in bench.desk.candidates] == [1, 2]
    assert bench.meter["skipped"] == 1
    screen.looked.clear()
    bench.walkers.answers.clear()
    bench.round()
    assert not screen.looked
    assert bench.meter["skipped"] == 1 + 4
    assert len(bench.walkers.heard()) == 4


def test_what_an_oracle_would_see_instead_is_looked_at() -> None:
    inputs = [np.full(2, 9.0), np.full(2, 7.0), np.full(2, 8.0)]
    bench = Bench(
        Walkers(samples(3)),
        selector=Selector(
            lambda fields: Selection(**{**fields, "candidates": [2, 1, 0], "inputs": inputs})
        ),
        screen=Screen(close=(9.0,), out=(7.0,)),
    )
    bench.round()
    ((sample, walker, _, _),) = bench.desk.candidates
    np.testing.assert_array_equal(sample, np.full(2, 8.0))
    assert walker == 0
    assert bench.walkers.refusals == {2: Refusal.UNPHYSICAL}


def test_a_batch_of_unphysical_samples_asks_no_selector() -> None:
    bench = Bench(Walkers(samples(2)), screen=Screen(blown=(1.0, 2.0)))
    bench.round()
    assert set(bench.walkers.heard().values()) == {None}
    assert not bench.selector.seen


def test_rejected_samples_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bench = Bench(Walkers(samples()), screen=Screen(blown=(2.0, 3.0)))
    for _ in range(5):
        bench.walkers.answers.clear()
        bench.round()
        clock[0] += 20.0
    first, second = bench.desk.failures
    assert (first.role, first.index, first.kind) == ("generator", 2, "Unphysical")
    assert "its sample is rejected (selector.reject): too strong; its walker goes" in first.message
    assert "; 1 more" in first.message
    assert "; 5 more" in second.message
    assert bench.meter["rejected"] == 10


# What a selector may not return ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"uncertainty": np.zeros((4, 1))}, ShapeError, r"uncertainty of shape \(4, 1\)"),
        ({"uncertainty": np.zeros(3)}, ShapeError, r"expected \(4,\)"),
        ({"uncertainty": [0.0] * 4}, ShapeError, "uncertainty"),
        ({"trusted": np.zeros(5, bool)}, ShapeError, "trusted"),
        ({"trusted": True}, ShapeError, "trusted"),
        ({"candidates": [0, 4]}, ContractError, "indices from 0|whole numbers from 0 to 3"),
        ({"candidates": [-1]}, ContractError, "from 0 to 3"),
        ({"candidates": np.ones(4, bool)}, ContractError, "flatnonzero"),
        ({"candidates": np.array([0.5])}, ContractError, "from 0 to 3"),
        ({"candidates": [1], "inputs": []}, ShapeError, "0 entries in inputs; expected 1"),
        ({"feedback": Batch([np.zeros(1)])}, ShapeError, "1 entries in feedback; expected 4"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(
    change: dict[str, Any], error: type, words: str
) -> None:
    bench = Bench(
        Walkers(samples()), selector=Selector(lambda fields: Selection(**{**fields, **change}))
    )
    with pytest.raises(error, match=words):
        bench.round()
    assert not bench.walkers.answers, "nobody hears of it"
    assert not bench.desk.candidates


@pytest.mark.parametrize("result", [None, [0, 1], (1, 2, 3)])
def test_what_is_no_selection_is_refused(result: Any) -> None:
    bench = Bench(Walkers(samples()), selector=Selector(lambda fields: result))
    with pytest.raises(ContractError, match=r"expected a pal\.records\.Selection"):
        bench.round()


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels[:1],
        lambda labels: [labels[0], labels[1][:-1]],
        lambda labels: [labels[0], [np.zeros(3)] * 4],
        lambda labels: None,
    ],
)
def test_a_committee_of_wrong_shape_is_refused(change: Any) -> None:
    bench = Bench(Walkers(samples()), Committee(change=change))
    with pytest.raises(ContractError):
        bench.round()
    assert not bench.walkers.answers


# The serial loop -------------------------------------------------------------------------------


def test_in_the_serial_loop_walkers_are_held_once_the_grant_is_used_up() -> None:
    bench = Bench(Walkers(samples(2)), desk=Desk(granted=3), serial=True)
    bench.round()
    assert len(bench.walkers.answers) == 1
    bench.round()
    assert len(bench.walkers.answers) == 1
    assert bench.exchange.held
    assert bench.exchange.patience()[1] is None
    bench.exchange.go_on()
    assert len(bench.walkers.answers) == 2
    assert not bench.exchange.held


# Mixed shapes ----------------------------------------------------------------------------------


def test_samples_of_mixed_shapes_are_judged_together() -> None:
    sent = [np.arange(1.0, size + 1) for size in (1, 3, 2, 3)]
    bench = Bench(Walkers(sent))
    bench.round()
    heard = bench.walkers.heard()
    for walker, sample in enumerate(sent):
        np.testing.assert_allclose(named(heard[walker])[""], 2 * sample)


def test_a_broken_sample_among_mixed_shapes() -> None:
    sent = [np.ones(1), np.full(3, np.nan), np.ones(2)]
    bench = Bench(Walkers(sent))
    bench.round()
    heard = bench.walkers.heard()
    assert [walker for walker in range(3) if heard[walker] is None] == [1]
