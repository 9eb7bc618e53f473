"""One round of the exchange: nothing broken reaches another kernel, and everyone is answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exchange_fakes import Bench, Committee, Desk, Selector, Walkers

from pal.errors import ContractError, ShapeError
from pal.records import Batch, Selection, named


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
